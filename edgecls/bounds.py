"""Numbers that a configuration holds: finite, and within bounds that anything real keeps."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from edgecls.errors import UsageError

LONGEST_S = 1e9
"""Of any time, 30 years: what waits and what counts nanoseconds can still do so."""
MOST = 2**32 - 1
"""Of anything that is counted."""


def check_bounds(option: str, value: Any, low: float, high: float, unit: str = "") -> None:
    """Raise `UsageError` for what is no number from `low` to `high`; a whole number where `low` is one (an int).

    None is let through, as it leaves the choice to the program.
    """
    whole = isinstance(low, int)
    known = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if value is not None and not (known and low <= value <= high):
        kind = "a whole number" if whole else "a number"
        of = f" of {unit}" if unit else ""
        raise UsageError(f"{option} takes {kind}{of} from {_plain(low)} to {_plain(high)}, not {_shown(value)}")


def _plain(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:.6g}"


def _shown(value: Any) -> str:
    try:
        return repr(value)[:40]
    except ValueError:
        return "one of thousands of digits"
