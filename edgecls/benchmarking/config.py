"""What a benchmark is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from edgecls.bounds import LONGEST_S, MOST, check_bounds
from edgecls.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """What to measure and how often: so many `rounds`, each of which visits every candidate for `seconds`.

    `threads` and `streams` hold None for what the runtime chooses; several `streams` measure throughput.
    """

    rounds: int = 5
    seconds: float = 0.5
    threads: tuple[int | None, ...] = (None,)
    batches: tuple[int, ...] = (1,)
    streams: tuple[int | None, ...] = (1,)

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        check_bounds("--rounds (which needs a spread)", self.rounds, 2, MOST)
        check_bounds("--seconds", self.seconds, 1e-3, LONGEST_S)
        for name, values in (("threads", self.threads), ("batch", self.batches), ("streams", self.streams)):
            if not values or any(value is not None and value < 1 for value in values):
                raise UsageError(f"--{name} takes numbers of at least 1, separated by commas")
