"""Who may see a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecls.errors import UsageError
from edgecls.settings import Config, setting
from edgecls.web.server import read_token


@dataclass(frozen=True, kw_only=True)
class TokenConfig(Config):
    """What a page asks those for who want to see it."""

    web_token: str | None = setting(None, "What the page asks for; drawn where others can reach it.", secret=True)
    web_token_file: Path | None = setting(None, "A file whose only line is the page's token.")

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        super().check()
        if self.web_token is not None and self.web_token_file is not None:
            raise UsageError("give `web_token_file` or the token itself (`web_token`), not both")

    def token(self) -> str | None:
        """The token itself, None where none is given. Raises `UsageError` for a file that holds none."""
        return read_token(self.web_token_file) if self.web_token_file else self.web_token
