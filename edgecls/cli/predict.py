"""`edgecls predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgecls.cli.common import console, messages, opened, shown


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", metavar="IMAGES...")],
    model: Annotated[
        Path | None,
        typer.Option(help="A bundle, a model file or a run; the fastest verified bundle of the latest run."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to print for each image.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    threads: Annotated[int | None, typer.Option(help="Processor threads; the runtime's choice unless given.")] = None,
) -> None:
    """Classify images and print label and score."""
    from edgecls.data.images import image_paths

    paths = image_paths(images)
    with opened(model, threads) as classifier:
        if not as_json:
            messages.print(f"model: {shown(classifier.place)}", soft_wrap=True)
        for path, prediction in zip(paths, classifier.predict_many(paths), strict=True):
            best = prediction.top(top)
            if as_json:
                ranking = [{"label": label, "score": score} for label, score in best]
                record = {"image": str(path), "label": prediction.label, "score": prediction.score, "top": ranking}
                if prediction.unsure:
                    record["unsure"] = True
                print(json.dumps(record, ensure_ascii=False))
            else:
                answer = "  ".join(f"{label} {score:.1%}" for label, score in best)
                console.print(f"{path}  {f'unsure: {answer}' if prediction.unsure else answer}", soft_wrap=True)
