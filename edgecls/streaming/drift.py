"""Whether what a camera shows moves away from the validation images that its model was judged by.

Each frame is ranked among reference images of the class that it was given: by its strangeness and by its lack of
confidence. Where nothing has changed, these ranks are uniform, whichever classes occur how often, so that hours of one
product alone are no drift. Frames of a video are not independent: of each second one is looked at, and only if it shows
something else than the last one did; what is tested are means over blocks of time, by how much they differ.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from edgecls.artifact.reference import Reference

Sign = Literal["embedding", "confidence", "unknown"]
SIGNS: tuple[Sign, ...] = ("embedding", "confidence", "unknown")

EVERY_S = 1.0
BLOCK_S = 10.0
BLOCKS = 30
"""Blocks with frames that are looked at together: five minutes, where something happens all the time."""
FEWEST_BLOCKS, FEWEST_FRAMES = 12, 40
MEAN_RANK, SHARE_UNKNOWN = 0.75, 0.2
"""From where on a mean rank (0.5 is usual), and a share of unknown frames, matter."""
LETS_GO = 0.8
"""What is left of the excess over the usual ends a drift."""
DEVIATIONS = 4.0
"""By how many standard errors of the mean of blocks it must exceed the usual."""
UNIFORM_SD = 12**-0.5
ALIKE = 0.5
"""Frames whose embeddings are nearer than this share of the usual gap between validation images show the same."""


@dataclass(frozen=True)
class DriftFigures:
    """A camera's recent frames beside the validation images: mean ranks of strangeness and of lack of confidence, 0.5
    where nothing has changed; the share of unknown frames; how much the shares of classes differ (population stability
    index), which is no sign of drift; and on how many frames this rests. `signs` are those that hold now.
    """

    signs: tuple[Sign, ...] = ()
    embedding: float = 0.5
    confidence: float = 0.5
    unknown: float = 0.0
    class_shares_psi: float = 0.0
    frames: int = 0


@dataclass
class _Block:
    """What was seen in some seconds: a row of embedding's rank, confidence's rank and unknown for each frame."""

    begun_s: float
    rows: list[tuple[float, float, float]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)


class DriftMonitor:
    """Watches one camera. `false_refusals` is the share of unknown frames that is usual."""

    def __init__(self, reference: Reference, classes: int, false_refusals: float):
        self._reference, self._usual_unknown = reference, false_refusals
        self._threshold = reference.threshold(false_refusals)
        self._shares = reference.shares(classes)
        self._blocks: deque[_Block] = deque(maxlen=BLOCKS)
        self._looked_at_s = -math.inf
        self._point: NDArray[float32] | None = None
        self.figures = DriftFigures()
        self.strangeness = 0.0
        """Of the last frame that counted."""

    def is_due(self, pts_s: float) -> bool:
        """Whether a frame at a time in seconds is to be looked at."""
        return pts_s - self._looked_at_s >= EVERY_S or pts_s < self._looked_at_s

    def take(self, pts_s: float, logits: NDArray[float32], embedding: NDArray[float32] | None) -> bool:
        """Look at a frame's logits (C,) and embedding (D,). Returns whether it counts: whether it shows something else
        than the last one that did.
        """
        import numpy as np

        self._looked_at_s = pts_s
        if embedding is not None and self._reference.measure == "distance":
            point = self._reference.project(embedding[None])[0]
            near = ALIKE * self._reference.usual_gap
            if self._point is not None and float(np.linalg.norm(point - self._point)) < near:
                return False
            self._point = point
        answer = int(logits.argmax())
        ranks = self._reference.ranks(logits, embedding)
        self.strangeness = self._reference.strangeness(logits, embedding)
        unknown = self.strangeness > self._threshold
        if not self._blocks or not 0 <= pts_s - self._blocks[-1].begun_s < BLOCK_S:
            self._blocks.append(_Block(pts_s))
        self._blocks[-1].rows.append((*ranks, float(unknown)))
        self._blocks[-1].answers.append(answer)
        self.figures = self._judged()
        return True

    def _judged(self) -> DriftFigures:
        import numpy as np

        means = np.array([np.mean(block.rows, axis=0) for block in self._blocks])
        sizes = np.array([len(block.rows) for block in self._blocks])
        answers = [answer for block in self._blocks for answer in block.answers]
        embedding, confidence, unknown = means.mean(axis=0).tolist()
        signs: list[Sign] = []
        usual = (0.5, 0.5, self._usual_unknown)
        matters = (MEAN_RANK, MEAN_RANK, max(SHARE_UNKNOWN, 5 * self._usual_unknown))
        usual_sd = (UNIFORM_SD, UNIFORM_SD, math.sqrt(self._usual_unknown * (1 - self._usual_unknown)))
        for index, sign in enumerate(SIGNS):
            excess = float(means[:, index].mean()) - usual[index]
            needed = matters[index] - usual[index]
            if sign in self.figures.signs:
                needed *= LETS_GO
            least = usual_sd[index] / math.sqrt(float(sizes.mean()))
            error = max(float(means[:, index].std()), least) / math.sqrt(len(means))
            enough = len(means) >= FEWEST_BLOCKS and sizes.sum() >= FEWEST_FRAMES
            if enough and excess >= needed and (sign in self.figures.signs or excess >= DEVIATIONS * error):
                signs.append(sign)
        return DriftFigures(
            tuple(signs), round(embedding, 4), round(confidence, 4), round(unknown, 4),
            round(_psi(np.bincount(answers, minlength=len(self._shares)), self._shares), 4), len(answers),
        )  # fmt: skip


def _psi(counts: NDArray[Any], shares: NDArray[float32]) -> float:
    """Population stability index of counted answers against shares, each class with half a count more."""
    import numpy as np

    found = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    usual = (shares + 1e-3) / (1 + 1e-3 * len(shares))
    return float(((found - usual) * np.log(found / usual)).sum())
