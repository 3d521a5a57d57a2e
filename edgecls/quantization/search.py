"""The ladder: ever more careful recipes, until one is accurate enough and faster than float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from edgecls.artifact.card import MIN_GAIN, Quality
from edgecls.errors import BackendError, EdgeclsError, VerificationError, first_line
from edgecls.quantization.recipe import Recipe, Rung
from edgecls.runtime.store import Artefact

Strategy = Literal["fastest", "smallest", "most-accurate"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)

WANTED_AGREEMENT = 0.95
"""Below this the ladder goes on, though the drop be allowed: on few images a drop is luck, changed answers are not."""


@dataclass(frozen=True)
class Attempt:
    """One rung that was tried: the bundle that it gave, or the reason why it gave none."""

    rung: Rung
    seconds: float
    artefact: Artefact | None = None
    reason: str | None = None

    @property
    def bundle(self) -> Artefact:
        """What it gave. Raises `BackendError` with the reason where that is nothing."""
        if self.artefact is None:
            raise BackendError(self.reason or f"{self.rung.name} gave no bundle")
        return self.artefact

    @property
    def quality(self) -> Quality:
        """What was measured."""
        return self.artefact.card.quality if self.artefact else Quality()

    def to_json(self) -> dict[str, Any]:
        """Plain values for the lineage."""
        return {
            "rung": self.rung.name,
            "drop_points": self.quality.drop_points,
            "agreement": self.quality.agreement,
            "latency_ms": self.quality.latency_ms,
            "gain": self.quality.gain,
            "size_bytes": self.artefact.size_bytes() if self.artefact else None,
            "seconds": round(self.seconds, 1),
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Aim:
    """What a rung must reach. `max_drop_points` are points of top-1 against the parent."""

    max_drop_points: float
    strategy: Strategy = "fastest"

    def accurate(self, quality: Quality) -> bool:
        """Whether the drop is allowed, or no more than the one image that a small split can resolve.

        Without labels, every change of the answer counts as a loss. What was not measured is not accurate.
        """
        if quality.drop_points is not None:
            lost_points = quality.drop_points
        elif quality.agreement is not None:
            lost_points = 100 * (1 - quality.agreement)
        else:
            return False
        return lost_points <= self.max_drop_points or lost_points / 100 * (quality.images or 0) <= 1 + 1e-9

    def reached(self, attempt: Attempt) -> bool:
        """Whether the ladder may end here."""
        quality = attempt.quality
        if attempt.artefact is None or not self.accurate(quality) or (quality.agreement or 0.0) < WANTED_AGREEMENT:
            return False
        return self.strategy == "smallest" or quality.recommended is not False


def climb(rungs: Sequence[Rung], attempt: Callable[[Rung], Attempt], aim: Aim) -> list[Attempt]:
    """Try the rungs in turn; returns what was tried.

    The ladder ends at the first rung that reaches the aim, its alternatives included; for "most-accurate" all rungs are
    tried. Rungs that compute in the same way as one that was accurate but slow are left out, and so is fine-tuning,
    which takes minutes, where another rung is accurate.
    """
    attempts: list[Attempt] = []
    for rung in rungs:
        if any(map(aim.reached, attempts)) and not (rung.alternative or aim.strategy == "most-accurate"):
            continue
        minutes = rung.recipe.fine_tune_epochs > 0 and not rung.alternative
        if minutes and any(aim.accurate(tried.quality) for tried in attempts):
            continue
        if not any(_as_slow(rung.recipe, tried, aim) for tried in attempts):
            attempts.append(attempt(rung))
    return attempts


def _as_slow(recipe: Recipe, tried: Attempt, aim: Aim) -> bool:
    """Whether a recipe cannot be fast because a graph of its kind was accurate and slow."""
    if aim.strategy != "fastest" or not aim.accurate(tried.quality) or tried.quality.recommended is not False:
        return False
    return _placement(recipe) == _placement(tried.rung.recipe)


def _placement(recipe: Recipe) -> Recipe:
    """The part of a recipe that decides where the quantizers stand, and so how fast the graph can be."""
    return replace(
        recipe,
        estimator="minmax",
        bias_correction="none",
        samples=1,
        fine_tune_epochs=0,
        reduce_range=False,
        float_share=0.0,
        symmetric=recipe.symmetric and recipe.quantizer != "nncf",  # NNCF's quantizers stand in the same places
    )


def accurate_enough(attempts: Sequence[Attempt], aim: Aim) -> list[Attempt]:
    """The attempts to choose from. Raises `VerificationError` where there is none."""
    made = [tried for tried in attempts if tried.artefact]
    accurate = [tried for tried in made if aim.accurate(tried.quality)]
    if not accurate:
        raise VerificationError(_refusal(made, attempts, aim))
    return accurate


def best(accurate: Sequence[Attempt], aim: Aim) -> Attempt:
    """The attempt to keep: one that reached the aim, or else one that pays."""
    paying = [tried for tried in accurate if aim.reached(tried)]
    paying = paying or [tried for tried in accurate if tried.quality.recommended is not False] or list(accurate)
    return min(paying, key=lambda tried: _preference(tried, aim.strategy))


def _preference(tried: Attempt, strategy: Strategy) -> tuple[float, ...]:
    quality = tried.quality
    lost = (1 - (quality.agreement or 0.0), quality.drop_points or 0.0)
    if strategy == "smallest" and tried.artefact:
        return (tried.artefact.size_bytes(), *lost)
    if strategy == "most-accurate":
        return lost[::-1]
    if (quality.agreement or 0.0) < WANTED_AGREEMENT:
        return (math.inf, *lost)
    # Gains that lie within a measurement's noise of each other count as the same.
    return (-round(math.log(max(quality.gain or 1.0, 0.01)) / math.log(MIN_GAIN)), *lost)


def _refusal(made: Sequence[Attempt], attempts: Sequence[Attempt], aim: Aim) -> str:
    if not made:
        reasons = "; ".join(f"{tried.rung.name}: {tried.reason}" for tried in attempts)
        return f"no recipe could be applied ({reasons}); nothing was written"
    nearest = min(made, key=lambda tried: _preference(tried, "most-accurate"))
    quality = nearest.quality
    lost = f"{quality.drop_points:.2f} points of top-1" if quality.drop_points is not None else "answers"
    return (
        f"int8 loses {lost} at best ({nearest.rung.name}: {quality.agreement:.2%} agreement over {quality.images} "
        f"images), {aim.max_drop_points:g} are allowed; {len(made)} recipes were tried and nothing was written: "
        "calibrate with more or better images, allow more with --max-drop, or export --fp16"
    )


def skipped(rung: Rung, seconds: float, error: Exception) -> Attempt:
    """A rung that could not be tried, and why: our own errors say it, others are named with their first line."""
    reason = str(error) if isinstance(error, EdgeclsError) else f"{type(error).__name__}: {first_line(error)}"
    return Attempt(rung, seconds, reason=reason)
