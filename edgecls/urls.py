"""Addresses that may hold secrets, and how they are shown."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote, unquote_plus, urlsplit

from edgecls.errors import UsageError

HIDDEN = "***"


class SecretUrl:
    """An address whose `str`, `repr` and format hide what may be a secret; `reveal` gives the whole.

    Hidden are passwords (to the last @, as they may hold @ and / themselves), the values of a query, the fragment,
    and, with `secret_path`, the path. Where an address is misspelt, more is hidden rather than less.
    """

    def __init__(self, text: str, secret_path: bool = False):
        self._text = text
        self._secret_path = secret_path

    def reveal(self) -> str:
        """The address itself, for whoever opens it."""
        return self._text

    def __str__(self) -> str:
        scheme, mark, rest = self._text.partition("://")
        if not mark:
            scheme, rest = "", self._text
        credentials, at, rest = rest.rpartition("@")
        if at:
            user, colon, _ = credentials.partition(":")
            # Without a scheme, what stands before a colon may be a misspelt scheme with anything behind it.
            known = user if mark and colon and not re.search(r"[/@?#]", user) else ""
            credentials = f"{known}:{HIDDEN}" if known else HIDDEN
        rest, hash_mark, _ = rest.partition("#")
        rest, question, query = rest.partition("?")
        if question:
            query = "&".join(re.sub(r"=.*", f"={HIDDEN}", part) if "=" in part else HIDDEN for part in query.split("&"))
        if self._secret_path:
            host, slash, path = rest.partition("/")
            rest = f"{host}{slash}{HIDDEN if path else ''}"
        return f"{scheme}{mark}{credentials}{at}{rest}{question}{query}{hash_mark}{HIDDEN if hash_mark else ''}"

    def __repr__(self) -> str:
        return f"SecretUrl({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def scrubbed(self, text: str) -> str:
        """A library's message without this address in it, nor any of its secrets alone."""
        text = text.replace(self._text, str(self))
        for secret in sorted(self._secrets(), key=len, reverse=True):
            # A short one is hidden where it stands alone, or else hardly a word would be left.
            alone = r"(?<!\w){}(?!\w)" if len(secret) < 6 else "{}"
            text = re.sub(alone.format(re.escape(secret)), HIDDEN, text)
        return text

    def _secrets(self) -> set[str]:
        """The passwords, values of the query and the like as they stand, and decoded as libraries hand them on."""
        _, _, rest = self._text.rpartition("://")
        credentials, _, rest = rest.rpartition("@")
        user, colon, password = credentials.partition(":")
        rest, _, fragment = rest.partition("#")
        rest, _, query = rest.partition("?")
        values = [part.rpartition("=")[2] for part in query.split("&")]
        path = rest.partition("/")[2] if self._secret_path else ""
        secrets = {password if colon else user, query, *values, fragment, path}
        return {form for secret in secrets for form in (secret, unquote(secret), unquote_plus(secret)) if form}


def checked(address: str, schemes: tuple[str, ...], option: str, form: str) -> SplitResult:
    """The parts of an address that can work: a known scheme, a host, a port that there is, and no odd characters.

    Raises `UsageError`, which shows no secret.
    """
    try:
        address.encode()
        if any(ord(c) <= 32 or ord(c) == 127 for c in address):
            raise ValueError("white space or control characters")
        parts = urlsplit(address)
        if parts.scheme not in schemes or not parts.hostname:
            raise ValueError(f"no {' or '.join(schemes)}:// with a host")
        if not 1 <= (1 if parts.port is None else parts.port) <= 65535:
            raise ValueError("port 0")
        parts.hostname.encode("idna")
    except ValueError as error:
        # The parser's own words may quote the port's place, where a part of a misplaced password stands.
        known = str(error) if str(error).startswith(("no ", "white", "port 0")) else "a malformed host or port"
        printable = SecretUrl(address, secret_path=True)
        raise UsageError(f"{option} takes {form}, not {str(printable)!r}: {known}") from None
    return parts
