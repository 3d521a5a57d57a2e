"""What is decided about a frame."""

from __future__ import annotations

from dataclasses import dataclass

from edgecls.classifier import Prediction


@dataclass(frozen=True)
class Decision:
    """What was decided about one frame.

    `inference_ms` runs from preprocessing to scores, `age_ms` from the frame's capture to the decision. `fps` is the
    recent rate of decisions; `captured` and `dropped` count the source's frames so far.
    """

    prediction: Prediction
    inference_ms: float
    age_ms: float
    fps: float
    captured: int
    dropped: int
