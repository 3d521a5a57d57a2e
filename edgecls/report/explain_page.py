"""Explanations as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.evaluation.explaining import ExplainedImage, ImageExplainer
from edgecls.report import page
from edgecls.runtime.classifier import in_words
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

PICTURE_PX = 480


@dataclass(frozen=True)
class _Row:
    """What the page shows of an image; addresses hold the pictures themselves."""

    name: str
    image: str
    heat: str
    label: str
    answer: str
    explained: str
    neighbours: list[tuple[str | None, str, float, str]]


def write_page(explained: Iterable[ExplainedImage], explainer: ImageExplainer, artifact: Artifact, path: Path) -> int:
    """Write the page; returns the number of images. Raises `MissingExtraError`."""
    rows = [_row(each, explainer) for each in explained]
    page.write(
        path,
        "explain",
        artifact=artifact,
        rows=rows,
        method=explainer.method,
        without_neighbours=explainer.without_neighbours,
    )
    return len(rows)


def _row(each: ExplainedImage, explainer: ImageExplainer) -> _Row:
    explanation, prediction = each.explanation, each.explanation.prediction
    neighbours = [
        (
            page.thumbnail(explainer.source, one.key) if explainer.source else None,
            explainer.classes[one.label],
            one.similarity,
            one.key,
        )
        for one in each.neighbours
    ]
    return _Row(
        name=str(each.path),
        image=_picture(each.image),
        heat=_picture(explanation.over(each.image)),
        label=prediction.label,
        answer=in_words(prediction.label, prediction.score, prediction.nearest, 2),
        explained=explanation.label,
        neighbours=neighbours,
    )


def _picture(image: NDArray[uint8]) -> str:
    from edgecls.imaging.opencv import cv2

    scale = min(1.0, PICTURE_PX / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    _, jpeg = cv2.imencode(".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    return page.data_url("jpeg", jpeg.tobytes())
