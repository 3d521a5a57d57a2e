"""Addresses that may hold secrets, and how they are shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import SplitResult, unquote, unquote_plus, urlsplit

from edgecls.errors import UsageError

HIDDEN = "***"


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BEFORE_SECRET = re.compile(
    r"[=:;&]|%3[abd]|(?<![a-z])(?:pass(?:word|wd|phrase|code)?|pwd?|secret|token|(?:api_?)?key|auth(?:orization)?"
    r"|cred(?:ential)?s?|login|user(?:name)?|admin|session|sig(?:nature)?)(?:%[0-9a-f]{2}|[^a-z0-9%])",
    re.IGNORECASE,
)
"""In a path: what follows may be a secret, as cameras take their password there in many ways."""
_PASSWORD_BEGINS = re.compile(r"[^@:\[]*:(?!\d*$)[^@]*")
"""Before the first slash, of a password that holds a slash: neither a host with its port nor a whole login."""
_WORD = 4
"""Characters of a part of a path that is hidden in messages, as shorter ones may be anybody's."""


class SecretUrl:
    """An address whose `str`, `repr` and format hide what may be a secret; `reveal` gives the whole.

    Hidden are passwords (to the last @, as they may hold @ and / themselves), the values of a query, the fragment,
    what follows an = or a word such as "password" in the path, and, with `secret_path`, all of it. Where an address is
    misspelt or can be read in two ways, more is hidden rather than less.
    """

    def __init__(self, text: str, secret_path: bool = False):
        self._text = text
        self._pieces = [*_pieces(text, secret_path)]

    def reveal(self) -> str:
        """The address itself, for whoever opens it."""
        return self._text

    def __str__(self) -> str:
        return "".join(HIDDEN if piece and secret else piece for piece, secret in self._pieces)

    def __repr__(self) -> str:
        return f"SecretUrl({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @property
    def holds_secrets(self) -> bool:
        """Whether anything is hidden."""
        return any(piece and secret for piece, secret in self._pieces)

    def scrubbed(self, text: str) -> str:
        """A library's message without this address in it, nor any of its secrets alone."""
        text = text.replace(self._text, str(self))
        for secret in sorted(self._secrets(), key=len, reverse=True):
            # A short one is hidden where it stands alone, or else hardly a word would be left.
            alone = r"(?<!\w){}(?!\w)" if len(secret) < 6 else "{}"
            text = re.sub(alone.format(re.escape(secret)), HIDDEN, text)
        return text

    def _secrets(self) -> set[str]:
        """What is hidden, whole and in parts, as it stands and decoded as libraries hand it on."""
        hidden = [piece for piece, secret in self._pieces if secret]
        secrets = {*hidden}
        for part in (part for piece in hidden for part in re.split(r"[&;:/?#@]|_(?=\w+=)", piece)):
            _, equals, value = part.rstrip("=").partition("=")  # base64 ends in =
            secrets |= {value} if equals else {part.rstrip("=")} if len(part) >= _WORD else set()
        return {form for secret in secrets for form in (secret, unquote(secret), unquote_plus(secret)) if form}


def _pieces(text: str, secret_path: bool) -> Iterator[tuple[str, bool]]:
    """An address in pieces that make it up again, and whether each may be a secret."""
    scheme = match[0] if (match := _SCHEME.match(text)) else ""
    yield scheme, False
    credentials, at, rest = text[len(scheme) :].rpartition("@")
    if at and _may_reach_into_the_path(credentials, bool(scheme)):
        yield f"{credentials}{at}{rest}", True
        return
    user, colon, password = credentials.partition(":")
    # Without a scheme, what stands before a colon may be a misspelt scheme with anything behind it.
    if scheme and user and colon and not re.search(r"[/@]", user):
        yield f"{user}{colon}", False
        yield password, True
    else:
        yield credentials, True
    yield at, False
    rest, hash_mark, fragment = rest.partition("#")
    rest, question, query = rest.partition("?")
    host, slash, path = rest.partition("/")
    yield from _split_after(re.search("[=;&]", host), host)
    yield slash, False
    yield from [(path, True)] if secret_path else _split_after(_BEFORE_SECRET.search(path), path)
    yield question, False
    for part in re.split("(&)", query):
        name, equals, value = part.partition("=")
        yield from ((name + equals, False), (value, True)) if equals else ((part, part != "&"),)
    yield hash_mark, False
    yield fragment, True


def _may_reach_into_the_path(credentials: str, has_scheme: bool) -> bool:
    """Whether what stands before the last @ may hold the host: then a part of a secret may stand behind the @."""
    if re.search(r"[?#]|/.*[=&;]", credentials):
        return True
    begin, slash, _ = credentials.partition("/")
    return bool(has_scheme and slash and not _PASSWORD_BEGINS.fullmatch(begin))


def _split_after(match: re.Match[str] | None, text: str) -> Iterator[tuple[str, bool]]:
    """A text up to the end of a match, and what is hidden behind it."""
    end = match.end() if match else len(text)
    yield text[:end], False
    yield text[end:], True


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
