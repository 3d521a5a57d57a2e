"""What an int8 search can prefer."""

from __future__ import annotations

from typing import Literal

Strategy = Literal["fastest", "smallest", "most-accurate"]
