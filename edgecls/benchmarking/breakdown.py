"""Where the time from a file to a label goes: decode, preprocess, copy, inference, postprocess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecls.backends import LOW_LATENCY
from edgecls.clock import milliseconds_since, now_ns
from edgecls.imaging.decode import decode_image
from edgecls.runtime.classifier import Classifier
from edgecls.runtime.store import Artifact

STEPS = ("decode", "preprocess", "copy", "inference", "postprocess")
WARM_UP = 5
FILES = 60
"""So many image files tell enough."""


@dataclass(frozen=True)
class Breakdown:
    """Medians in ms of each of `STEPS`, one after the other, over so many images."""

    name: str
    steps_ms: dict[str, float]
    images: int

    @property
    def total_ms(self) -> float:
        """All steps together."""
        return sum(self.steps_ms.values())


def break_down(artifact: Artifact, files: Sequence[bytes]) -> Breakdown:
    """Time each step for image files given as their bytes, one at a time."""
    import numpy as np

    spent: dict[str, list[float]] = {step: [] for step in STEPS}
    with Classifier(artifact.card, artifact.open(LOW_LATENCY), artifact.path) as model:
        for number, content in enumerate([*files[:WARM_UP], *files]):
            moments = [now_ns()]
            image = decode_image(content, "image", geometry=model.card.preprocess)
            moments.append(now_ns())
            pixels = model.card.preprocess(image)
            moments.append(now_ns())
            batch = np.ascontiguousarray(pixels[None]).copy()
            moments.append(now_ns())
            scores = model.session.infer(batch)
            moments.append(now_ns())
            model.decide(scores[0])
            last_ms = milliseconds_since(moments[-1])
            if number >= min(WARM_UP, len(files)):
                for step, start, end in zip(STEPS, moments, moments[1:], strict=False):
                    spent[step].append((end - start) / 1e6)
                spent["postprocess"].append(last_ms)
    return Breakdown(artifact.card.name, {step: float(np.median(times)) for step, times in spent.items()}, len(files))
