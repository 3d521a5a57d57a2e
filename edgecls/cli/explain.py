"""`edgecls explain`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from edgecls.cli.common import console, messages, shown, working
from edgecls.cli.options import Option, configured
from edgecls.evaluation.explaining import ExplainConfig, ExplainedImage, ImageExplainer, most_explainable

MAX_IMAGES = 200
"""On a page, which holds its pictures itself."""


@configured(label=Option(names=("--class",)))
def explain(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", metavar="IMAGES")],
    config: ExplainConfig,
    html: Annotated[Path, typer.Option(help="The page to write.")] = Path("explanation.html"),
    out: Annotated[
        Path | None, typer.Option(help="A folder to write each image to as well, with what the model looked at.")
    ] = None,
) -> None:
    """Show what a model looked at in images, and the training images that it finds most like them."""
    from edgecls.errors import UsageError
    from edgecls.files import make_folder
    from edgecls.imaging.decode import image_paths
    from edgecls.report.explain_page import write_page
    from edgecls.runtime import store

    paths = image_paths(images, Counter())
    if len(paths) > MAX_IMAGES:
        raise UsageError(f"{len(paths)} images are too many for a page; give up to {MAX_IMAGES}")
    if out is not None:
        make_folder(out)
    artifact = most_explainable(store.candidates(config.model))
    with working("explaining"), ImageExplainer(artifact, config) as explainer:
        messages.print(f"model: {shown(artifact.path)}; {explainer.method}", soft_wrap=True)
        if explainer.without_neighbours:
            messages.print(f"no similar training images: {explainer.without_neighbours}", soft_wrap=True)
        write_page(_told(explainer.explain(paths), explainer, out), explainer, artifact, html)
    messages.print(f"written: {shown(html)}", soft_wrap=True)


def _told(explained: Iterator[ExplainedImage], explainer: ImageExplainer, out: Path | None) -> Iterator[ExplainedImage]:
    """Print each image as it comes, and write its picture where a folder is named."""
    from edgecls.files import write_bytes
    from edgecls.imaging.opencv import cv2
    from edgecls.runtime.classifier import in_words

    taken: Counter[str] = Counter()
    for each in explained:
        prediction = each.explanation.prediction
        like = Counter(explainer.classes[one.label] for one in each.neighbours)
        like_these = f"; most like {', '.join(f'{count} {name}' for name, count in like.most_common())}" if like else ""
        console.print(
            f"{each.path}  {in_words(prediction.label, prediction.score, prediction.nearest, 2)}{like_these}",
            soft_wrap=True,
        )
        if out is not None:
            taken[each.path.stem] += 1
            again = f"-{taken[each.path.stem]}" if taken[each.path.stem] > 1 else ""
            _, jpeg = cv2.imencode(".jpg", each.explanation.over(each.image))
            write_bytes(out / f"{each.path.stem}{again}.jpg", jpeg.tobytes())
        yield each
