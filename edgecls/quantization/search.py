"""The search: ever more careful recipes, until one is accurate enough and faster than float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgecls.artifact.card import MIN_GAIN, Quality
from edgecls.errors import BackendError, EdgeclsError, VerificationError, first_line
from edgecls.evaluation.metrics import Drop, wilson
from edgecls.quantization.recipe import Recipe, RecipeCandidate
from edgecls.quantization.terms import Strategy
from edgecls.runtime.store import Artifact

SLOW_GAIN = 1.0
"""Below this a kind of graph is clearly slow: between it and `MIN_GAIN` a verdict may be the noise of a measurement."""
REFINED = 1
"""How many more recipes of a fast but inaccurate kind are tried where a slower kind will do."""
WANTED_AGREEMENT = 0.95
"""Below this the search goes on, though the drop be allowed: on few images a drop is luck, changed answers are not."""


@dataclass(frozen=True)
class Attempt:
    """One candidate: the bundle that it gave, or the reason why it gave none, was left out or was given up."""

    candidate: RecipeCandidate
    seconds: float
    artifact: Artifact | None = None
    reason: str | None = None
    left_out: bool = False

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
            "drop_low_points": self.quality.drop_low_points,
            "drop_high_points": self.quality.drop_high_points,
            "images": self.quality.images,
            "agreement": self.quality.agreement,
            "latency_ms": self.quality.latency_ms,
            "gain": self.quality.gain,
            "size_bytes": self.artifact.size_bytes() if self.artifact else None,
            "seconds": round(self.seconds, 1),
            "reason": self.reason,
            "left_out": self.left_out,
        }


def measured_drop(quality: Quality) -> Drop | None:
    """What was measured, None where nothing was. Without labels every changed answer counts as lost, and without an
    interval the drop is taken as it is.
    """
    points, low, high = quality.drop_points, quality.drop_low_points, quality.drop_high_points
    if points is not None:
        return Drop(points, points if low is None else low, points if high is None else high)
    if quality.agreement is None:
        return None
    low, high = wilson(quality.agreement, max(quality.images or 0, 1))
    return Drop(100 * (1 - quality.agreement), 100 * (1 - high), 100 * (1 - low))


@dataclass(frozen=True)
class AcceptanceCriteria:
    """What a candidate must reach. `max_drop_points` are points of top-1 against the parent."""

    max_drop_points: float
    strategy: Strategy = "fastest"

    def accurate(self, quality: Quality) -> bool:
        """Whether the drop is allowed, or no more than the one image that a small split can resolve.

        Without labels, every change of the answer counts as a loss. What was not measured is not accurate.
        """
        lost = measured_drop(quality)
        if lost is None:
            return False
        return lost.points <= self.max_drop_points or lost.points / 100 * (quality.images or 0) <= 1 + 1e-9

    def undecided(self, quality: Quality) -> bool:
        """Whether the drop is larger than allowed, but on so few images that it may be luck: its interval reaches down
        to what is allowed, and few answers changed.
        """
        lost = measured_drop(quality)
        if lost is None or self.accurate(quality) or (quality.agreement or 0.0) < WANTED_AGREEMENT:
            return False
        return lost.low_points <= self.max_drop_points

    def cannot_pass(self, quality: Quality) -> bool:
        """Whether no further images can make a candidate accurate: both drop and agreement are beyond doubt."""
        lost = measured_drop(quality)
        if lost is None or quality.agreement is None or not quality.images:
            return False
        return (
            lost.low_points > self.max_drop_points and wilson(quality.agreement, quality.images)[1] < WANTED_AGREEMENT
        )

    def deciding_images(self, quality: Quality) -> int | None:
        """How many images it takes at least to tell whether a drop like this one is allowed; None where none would.

        On so many the interval's end just meets what is allowed, if the drop stays the same.
        """
        lost = measured_drop(quality)
        if lost is None or not quality.images or lost.points <= self.max_drop_points:
            return None
        # The width of an interval shrinks with the square root of the number of images.
        return math.ceil(quality.images * ((lost.points - lost.low_points) / (lost.points - self.max_drop_points)) ** 2)

    def note(self, quality: Quality) -> str | None:
        """What is left open about an undecided candidate, in plain words; None for others."""
        if not self.undecided(quality):
            return None
        what, images = ("agreement", "images") if quality.drop_points is None else ("top-1", "labelled images")
        deciding = float(f"{self.deciding_images(quality) or 0:.2g}")
        lost = measured_drop(quality)
        return (
            f"whether {what} drops by more than the allowed {self.max_drop_points:g} points is not decided: it drops "
            f"by {lost} on {quality.images} images; to decide it takes at least {deciding:,.0f} {images}"
        )

    def reached(self, attempt: Attempt) -> bool:
        """Whether the search may end here."""
        quality = attempt.quality
        if attempt.artifact is None or not self.accurate(quality) or (quality.agreement or 0.0) < WANTED_AGREEMENT:
            return False
        return self.strategy == "smallest" or quality.recommended is not False


def search(
    candidates: Sequence[RecipeCandidate], attempt: Callable[[RecipeCandidate], Attempt], aim: AcceptanceCriteria
) -> list[Attempt]:
    """Try the candidates in turn; returns what was tried, and what was left out with the reason.

    The search ends at the first candidate that meets the criteria, its alternatives included; for "most-accurate" all
    are tried. For "fastest" it goes on to those that compute in the same way as one that was clearly faster than what
    was found, and not accurate enough; and those are left out that compute in the same way as one that is accurate and
    not faster than float32, or inaccurate and clearly slower. Where nothing is accurate in the end, those that were
    left out are tried after all until one is, so that there is an accurate bundle, though a slow one. Fine-tuning,
    which takes minutes, is left out of this, and not tried where another one is accurate. Each candidate is tried at
    most once.
    """
    attempts = _first_pass(candidates, attempt, aim)
    for position, tried in enumerate(attempts):
        if any(aim.accurate(each.quality) for each in attempts):
            break
        if tried.left_out and not tried.candidate.recipe.fine_tune_epochs:
            attempts[position] = attempt(tried.candidate)
    return attempts


def _first_pass(
    candidates: Sequence[RecipeCandidate], attempt: Callable[[RecipeCandidate], Attempt], aim: AcceptanceCriteria
) -> list[Attempt]:
    attempts: list[Attempt] = []
    for candidate in candidates:
        found = any(map(aim.reached, attempts)) and not _is_promising(candidate.recipe, attempts, aim)
        if found and not (candidate.alternative or aim.strategy == "most-accurate"):
            continue
        minutes = candidate.recipe.fine_tune_epochs > 0 and not candidate.alternative
        if minutes and any(aim.accurate(tried.quality) for tried in attempts):
            continue
        slow = next((tried for tried in attempts if _as_slow(candidate.recipe, tried, aim)), None)
        attempts.append(attempt(candidate) if slow is None else _left_out(candidate, slow))
    return attempts


def _as_slow(recipe: Recipe, tried: Attempt, aim: AcceptanceCriteria) -> bool:
    """Whether a recipe cannot be fast because a graph of its kind was slow."""
    quality = tried.quality
    if aim.strategy != "fastest" or quality.recommended is not False:
        return False
    if not aim.accurate(quality) and (quality.gain or 0.0) >= SLOW_GAIN:
        return False
    return _placement(recipe) == _placement(tried.candidate.recipe)


def _is_promising(recipe: Recipe, attempts: Sequence[Attempt], aim: AcceptanceCriteria) -> bool:
    """Whether a recipe computes like one that was clearly faster than all that met the criteria."""
    if aim.strategy != "fastest" or not any(map(aim.reached, attempts)):
        return False
    of_this_kind = [tried for tried in attempts if _placement(recipe) == _placement(tried.candidate.recipe)]
    if any(map(aim.reached, of_this_kind)) or len(of_this_kind) > REFINED:
        return False
    gains = [tried.quality.gain or 0.0 for tried in of_this_kind]
    reached = [tried.quality.gain or math.inf for tried in attempts if aim.reached(tried)]
    return max(gains, default=0.0) > MIN_GAIN * max(reached)


def _left_out(candidate: RecipeCandidate, slow: Attempt) -> Attempt:
    reason = f"it computes like {slow.candidate.name!r}, which is not faster than FP32 on this machine"
    return Attempt(candidate, 0.0, reason=reason, left_out=True)


def _placement(recipe: Recipe) -> Recipe:
    """The part of a recipe that decides where the quantizers stand, and so how fast the graph can be. Layers that are
    left in float are part of it.
    """
    return replace(
        recipe,
        estimator="minmax",
        bias_correction="none",
        samples=1,
        fine_tune_epochs=0,
        reduce_range=False,
        rounding="nearest",
        symmetric=recipe.symmetric and recipe.quantizer != "nncf",  # NNCF's quantizers stand in the same places
    )


def accurate_enough(attempts: Sequence[Attempt], aim: AcceptanceCriteria) -> list[Attempt]:
    """The attempts to choose from: accurate ones or, where there are none, those that are undecided.

    Raises `VerificationError` where there are neither.
    """
    made = [tried for tried in attempts if tried.artifact]
    accurate = [tried for tried in made if aim.accurate(tried.quality)]
    accurate = accurate or [tried for tried in made if aim.undecided(tried.quality)]
    if not accurate:
        raise VerificationError(_refusal(made, attempts, aim))
    return accurate


def best(accurate: Sequence[Attempt], aim: AcceptanceCriteria) -> Attempt:
    """The attempt to keep: one that reached the aim, or else one that pays; of undecided ones the most accurate."""
    paying = [tried for tried in accurate if aim.reached(tried)]
    paying = paying or [tried for tried in accurate if tried.quality.recommended is not False] or list(accurate)
    decided = any(aim.accurate(tried.quality) for tried in accurate)
    return min(paying, key=lambda tried: _preference(tried, aim.strategy if decided else "most-accurate"))


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
    quality, lost = nearest.quality, measured_drop(nearest.quality) or Drop(0.0, 0.0, 0.0)
    unit = "points of top-1" if quality.drop_points is not None else "points of agreement"
    slow = advice = ""
    if any(tried.left_out for tried in attempts):
        slow = " and what computes like them was left out, for it is not faster than FP32 on this machine"
        advice = "set `strategy` to most-accurate or smallest to try that too, "
    return (
        f"int8 loses {lost.points:.2f} {unit} at best ({nearest.candidate.name}: 95 % interval {lost.low_points:.2f} "
        f"to {lost.high_points:.2f}, {quality.agreement:.2%} agreement over {quality.images} images), "
        f"{aim.max_drop_points:g} are allowed; {len(made)} recipes were tried{slow}, and nothing was written: "
        f"{advice}calibrate with more or better images, allow more with `max_drop_points`, or export fp16"
    )


def skipped(candidate: RecipeCandidate, seconds: float, error: Exception) -> Attempt:
    """A candidate that could not be tried, and why: our own errors say it, others are named with their first line."""
    reason = str(error) if isinstance(error, EdgeclsError) else f"{type(error).__name__}: {first_line(error)}"
    return Attempt(candidate, seconds, reason=reason)
