"""The search: ever more careful recipes, until one is accurate enough and faster than float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgecls.artifact.card import MIN_GAIN, Quality
from edgecls.errors import BackendError, EdgeclsError, VerificationError, first_line
from edgecls.quantization.recipe import Recipe, RecipeCandidate
from edgecls.quantization.terms import Strategy
from edgecls.runtime.store import Artifact

WANTED_AGREEMENT = 0.95
"""Below this the search goes on, though the drop be allowed: on few images a drop is luck, changed answers are not."""


@dataclass(frozen=True)
class Attempt:
    """One candidate that was tried: the bundle that it gave, or the reason why it gave none."""

    candidate: RecipeCandidate
    seconds: float
    artifact: Artifact | None = None
    reason: str | None = None

    @property
    def bundle(self) -> Artifact:
        """What it gave. Raises `BackendError` with the reason where that is nothing."""
        if self.artifact is None:
            raise BackendError(self.reason or f"{self.candidate.name} gave no bundle")
        return self.artifact

    @property
    def quality(self) -> Quality:
        """What was measured."""
        return self.artifact.card.quality if self.artifact else Quality()

    def to_json(self) -> dict[str, Any]:
        """Plain values for the lineage."""
        return {
            "candidate": self.candidate.name,
            "drop_points": self.quality.drop_points,
            "agreement": self.quality.agreement,
            "latency_ms": self.quality.latency_ms,
            "gain": self.quality.gain,
            "size_bytes": self.artifact.size_bytes() if self.artifact else None,
            "seconds": round(self.seconds, 1),
            "reason": self.reason,
        }


@dataclass(frozen=True)
class AcceptanceCriteria:
    """What a candidate must reach. `max_drop_points` are points of top-1 against the parent."""

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
        """Whether the search may end here."""
        quality = attempt.quality
        if attempt.artifact is None or not self.accurate(quality) or (quality.agreement or 0.0) < WANTED_AGREEMENT:
            return False
        return self.strategy == "smallest" or quality.recommended is not False


def search(
    candidates: Sequence[RecipeCandidate], attempt: Callable[[RecipeCandidate], Attempt], aim: AcceptanceCriteria
) -> list[Attempt]:
    """Try the candidates in turn; returns what was tried.

    The search ends at the first candidate that meets the criteria, its alternatives included; for "most-accurate" all
    are tried. Candidates that compute in the same way as one that was accurate but slow are left out, and so is
    fine-tuning, which takes minutes, where another one is accurate.
    """
    attempts: list[Attempt] = []
    for candidate in candidates:
        if any(map(aim.reached, attempts)) and not (candidate.alternative or aim.strategy == "most-accurate"):
            continue
        minutes = candidate.recipe.fine_tune_epochs > 0 and not candidate.alternative
        if minutes and any(aim.accurate(tried.quality) for tried in attempts):
            continue
        if not any(_as_slow(candidate.recipe, tried, aim) for tried in attempts):
            attempts.append(attempt(candidate))
    return attempts


def _as_slow(recipe: Recipe, tried: Attempt, aim: AcceptanceCriteria) -> bool:
    """Whether a recipe cannot be fast because a graph of its kind was accurate and slow."""
    if aim.strategy != "fastest" or not aim.accurate(tried.quality) or tried.quality.recommended is not False:
        return False
    return _placement(recipe) == _placement(tried.candidate.recipe)


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


def accurate_enough(attempts: Sequence[Attempt], aim: AcceptanceCriteria) -> list[Attempt]:
    """The attempts to choose from. Raises `VerificationError` where there is none."""
    made = [tried for tried in attempts if tried.artifact]
    accurate = [tried for tried in made if aim.accurate(tried.quality)]
    if not accurate:
        raise VerificationError(_refusal(made, attempts, aim))
    return accurate


def best(accurate: Sequence[Attempt], aim: AcceptanceCriteria) -> Attempt:
    """The attempt to keep: one that reached the aim, or else one that pays."""
    paying = [tried for tried in accurate if aim.reached(tried)]
    paying = paying or [tried for tried in accurate if tried.quality.recommended is not False] or list(accurate)
    return min(paying, key=lambda tried: _preference(tried, aim.strategy))


def _preference(tried: Attempt, strategy: Strategy) -> tuple[float, ...]:
    quality = tried.quality
    lost = (1 - (quality.agreement or 0.0), quality.drop_points or 0.0)
    if strategy == "smallest" and tried.artifact:
        return (tried.artifact.size_bytes(), *lost)
    if strategy == "most-accurate":
        return lost[::-1]
    if (quality.agreement or 0.0) < WANTED_AGREEMENT:
        return (math.inf, *lost)
    # Gains that lie within a measurement's noise of each other count as the same.
    return (-round(math.log(max(quality.gain or 1.0, 0.01)) / math.log(MIN_GAIN)), *lost)


def _refusal(made: Sequence[Attempt], attempts: Sequence[Attempt], aim: AcceptanceCriteria) -> str:
    if not made:
        reasons = "; ".join(f"{tried.candidate.name}: {tried.reason}" for tried in attempts)
        return f"no recipe could be applied ({reasons}); nothing was written"
    nearest = min(made, key=lambda tried: _preference(tried, "most-accurate"))
    quality = nearest.quality
    lost = f"{quality.drop_points:.2f} points of top-1" if quality.drop_points is not None else "answers"
    return (
        f"int8 loses {lost} at best ({nearest.candidate.name}: {quality.agreement:.2%} agreement over {quality.images} "
        f"images), {aim.max_drop_points:g} are allowed; {len(made)} recipes were tried and nothing was written: "
        "calibrate with more or better images, allow more with `max_drop_points`, or export fp16"
    )


def skipped(candidate: RecipeCandidate, seconds: float, error: Exception) -> Attempt:
    """A candidate that could not be tried, and why: our own errors say it, others are named with their first line."""
    reason = str(error) if isinstance(error, EdgeclsError) else f"{type(error).__name__}: {first_line(error)}"
    return Attempt(candidate, seconds, reason=reason)
