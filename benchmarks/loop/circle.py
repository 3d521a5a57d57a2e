"""The whole circle, as its user goes it: collect, train, export, stream, review, learn again.

    python benchmarks/loop/circle.py PHOTOS --classes 0,1,2 --work FOLDER [--arch A --weights FILE] [--first 40]

PHOTOS has one folder of images per class. The first images of each class are collected under the light of the first
day; a model is trained on them and exported. A week later the light has changed: the stream sees other images, darker
and warmer, and keeps those that are worth a look. A labeller who knows what they show goes through the pool, and the
run learns from them. The last images, which nobody has seen, say what it brought, under both lights. Printed are each
step's seconds, the keystrokes, and top-1 before and after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgecls.imaging.decode import find_images, read_image
from edgecls.imaging.opencv import cv2
from edgecls.reviewing.config import ReviewConfig
from edgecls.reviewing.items import read_pool
from edgecls.reviewing.run import Review
from edgecls.runtime.classifier import load

LIGHT = np.array([0.35, 0.5, 0.6])
"""Of the later light, by which blue, green and red are multiplied."""


def main() -> None:
    """Go the circle and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--classes", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--arch", default="mobilenet_v3_small")
    parser.add_argument("--weights")
    parser.add_argument("--size", default="96")
    parser.add_argument("--first", type=int, default=40, help="images of each class on the first day")
    parser.add_argument("--later", type=int, default=60, help="and those that the stream sees later")
    given = parser.parse_args()
    classes, work = given.classes.split(","), given.work
    work.mkdir(parents=True)
    _lay_out(given.photos, classes, work, given.first, given.later)
    seconds: dict[str, float] = {}
    with _timed("collect", seconds):
        for name in classes:
            _edgecls(work, "collect", "--camera", f"first/{name}", "--label", name, "--out", "photos")
    with _timed("train", seconds):
        weights = ["--weights", str(Path(given.weights).resolve()), "--freeze", "backbone"] if given.weights else []
        _edgecls(work, "train", "photos", "--arch", given.arch, "--size", given.size, *weights)
    with _timed("export", seconds):
        _edgecls(work, "export", "--target", "onnx")
    before = _accuracy(work, "before")
    with _timed("stream", seconds):
        cameras = [part for name in classes for part in ("--camera", f"{name}=later/{name}")]
        _edgecls(work, "stream", *cameras, "--keep", "unsure,changed,sample=0.2", "--keep-to", "pool")
    with _timed("review", seconds):
        kept, keystrokes, labelled = _review(work, classes)
    with _timed("retrain", seconds):
        _edgecls(work, "retrain", "latest", "--data", "photos")
    after = _accuracy(work, "after")
    print("  ".join(f"{step} {taken_s:.0f} s" for step, taken_s in seconds.items()))
    print(f"kept {kept} of {len(classes) * given.later} frames; {labelled} labelled with {keystrokes} keystrokes")
    for light in ("first", "later"):
        print(f"top-1 under the {light} light: {before[light]:.1f} % before, {after[light]:.1f} % after")


def _lay_out(photos: Path, classes: list[str], work: Path, first: int, later: int) -> None:
    """Images of the first day, of the stream, and for the test, of which the later ones are seen in another light."""
    for name in classes:
        images = find_images(photos / name)
        for index, path in enumerate(images):
            image = read_image(path)
            dark = (image * LIGHT).astype(np.uint8)
            if index < first:
                _write(work / "first" / name / f"{index:04d}.png", image)
            elif index < first + later:
                _write(work / "later" / name / f"{index:04d}.png", dark)
            else:
                _write(work / "test first" / name / f"{index:04d}.png", image)
                _write(work / "test later" / name / f"{index:04d}.png", dark)


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def _review(work: Path, classes: list[str]) -> tuple[int, int, int]:
    """Label the pool as somebody does who knows what its pictures show: the camera is called as the class.

    A key for a group of which all are one class; otherwise a key for each picture that is chosen, and one for them.
    Returns the number of pictures, of keystrokes and of labels.
    """
    keystrokes = labelled = 0
    items = read_pool(work / "pool")
    with load(latest_run_of(work), tensors=("embedding",)) as model:
        config = ReviewConfig(pool=work / "pool", data=work / "photos", classes=tuple(classes))
        review = Review(config, items, model, in_place=False)
        review.start()
        while review.known < len(items):
            threading.Event().wait(0.1)
        while shown := review.queue.next("labeller"):
            by_class: dict[str, dict[str, int]] = {}
            for each in shown:
                by_class.setdefault(each.item.path.split("/")[0], {})[each.item.path] = each.version
            for position, (name, seen) in enumerate(sorted(by_class.items(), key=lambda pair: len(pair[1]))):
                last = position == len(by_class) - 1
                keystrokes += 1 if last else 1 + len(seen)
                labelled += len(review.queue.decide("labeller", seen, "label", name).done)
        review.close()
    return len(items), keystrokes, labelled


def _accuracy(work: Path, when: str) -> dict[str, float]:
    """Top-1 in percent under both lights, of the latest run."""
    found = {}
    for light in ("first", "later"):
        file = work / f"{when}-{light}.json"
        _edgecls(work, "evaluate", str(latest_run_of(work)), f"test {light}", "--json", file.name)
        found[light] = 100 * json.loads(file.read_text())["top1"]
    return found


def latest_run_of(work: Path) -> Path:
    """The newest run."""
    return sorted((work / "runs").iterdir())[-1].resolve()


def _edgecls(work: Path, *arguments: str) -> None:
    arguments = tuple(str(latest_run_of(work)) if each == "latest" else each for each in arguments)
    print("$ edgecls", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "edgecls", *arguments], cwd=work, check=True)


@contextmanager
def _timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - begun


if __name__ == "__main__":
    main()
