"""What a turn of learning again brings and costs: the last layer alone, all layers, and on the device.

    python benchmarks/loop/retrain.py PHOTOS... --work FOLDER --weights FILE [--arch mobilenet_v2 --size 96] [--seeds 5]
        [--fine-tune 2] [--out FILE]

Of each folder of photographs with one folder per class a run learns from some; others are the pool of what comes later:
"condition", all classes darker, in warm light, blurred and noisy; "class", as they are, with a class that the run does
not know. Each seed draws 100 images from the pool, half of them of the new class where there is one. The run learns
them (`retrain`, with `--fine-tune EPOCHS` all layers too), its ONNX bundle does (`adapt`), and both are measured on the
run's own test images and on the rest of the pool. What stands in the work folder already is not made again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgecls import AdaptConfig, ExportConfig, RetrainConfig, TrainConfig, adapt, export, retrain, train
from edgecls.data.dataset import open_recorded
from edgecls.data.layout import index_dataset
from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.evaluation.inference import scores_on
from edgecls.imaging.opencv import cv2
from edgecls.runtime import machine, store
from edgecls.runtime.store import Artifact

SCENARIOS = ("condition", "class")
NEW = 100
POOL_SHARE = 1 / 3
OLD = 2000


@dataclass(frozen=True)
class Turn:
    """One way to learn, of one seed: accuracies in %, on old and new images, and the seconds that it took."""

    data: str
    scenario: str
    seed: int
    way: str
    old: float
    new: float
    seconds: float
    verdict: str


def changed(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The same thing under a dim warm lamp, out of focus."""
    dark = 255 * (image.astype(np.float32) / 255) ** 2 * np.array([0.55, 0.85, 1.0], np.float32)
    dark = cv2.GaussianBlur(dark, (0, 0), max(image.shape[:2]) / 100)
    return np.clip(dark + generator.normal(0, 8, dark.shape), 0, 255).astype(np.uint8)


def prepare(photos: Path, scenario: str, folder: Path) -> None:
    """Write `old/` and `pool/` into a folder."""
    index, draw, generator = index_dataset(str(photos)), random.Random(0), np.random.default_rng(0)
    by_class: dict[int, list[Sample]] = {}
    for samples in index.splits.values():
        for sample in samples:
            by_class.setdefault(sample.label, []).append(sample)
    for label, members in by_class.items():
        draw.shuffle(members)
        unknown = scenario == "class" and label == len(index.classes) - 1
        count = len(members) if unknown else max(1, round(POOL_SHARE * len(members)))
        for kind, part in (("pool", members[:count]), ("old", members[count:][: OLD // len(by_class)])):
            for number, sample in enumerate(part):
                image = index.source.read(sample.key)
                if kind == "pool" and scenario == "condition":
                    image = changed(image, generator)
                place = folder / kind / index.classes[label]
                place.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(place / f"{number:04d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])


def drawn(pool: Path, known: tuple[str, ...], seed: int, out: Path) -> list[Path]:
    """Copy the new images of a seed to `out`; the images of the pool that are left."""
    files = sorted(pool.rglob("*.jpg"))
    random.Random(seed).shuffle(files)
    fresh = [path for path in files if path.parent.name not in known][: NEW // 2]
    taken = fresh + [path for path in files if path.parent.name in known][: NEW - len(fresh)]
    for path in taken:
        (out / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, out / path.parent.name)
    rest = [path for path in files if path not in set(taken)]
    usual = sum(path.parent.name in known for path in rest) // len(known)
    unknown = [path for path in rest if path.parent.name not in known][: 2 * usual]
    return [path for path in rest if path.parent.name in known] + unknown


def accuracy(artifact: Artifact, source: Source, named: list[tuple[str, str]]) -> float:
    """Of keys with the names of their classes, in %."""
    scores = scores_on(artifact, source, [Sample(key, 0) for key, _ in named])
    names = np.array(artifact.card.classes)[scores.argmax(axis=1)]
    return 100 * float((names == np.array([name for _, name in named])).mean())


def turns(name: str, scenario: str, folder: Path, options: argparse.Namespace, seed: int) -> Iterator[Turn]:
    """All ways to learn the images of one seed."""
    run = store.find(folder / "run")
    new = folder / f"new-{seed}"
    shutil.rmtree(new, ignore_errors=True)
    rest = drawn(folder / "pool", run.card.classes, seed, new)
    recorded, pool = open_recorded(run.path), index_dataset(str(folder / "pool")).source
    old = [(sample.key, recorded.classes[sample.label]) for sample in recorded.splits["test"]]
    later = [(str(path.relative_to(folder / "pool")), path.parent.name) for path in rest]

    def turn(way: str, artifact: Artifact, seconds: float, verdict: str) -> Turn:
        accuracies = accuracy(artifact, recorded.source, old), accuracy(artifact, pool, later)
        return Turn(name, scenario, seed, way, *accuracies, seconds, verdict)

    yield turn("before", run, 0.0, "")
    ways = {"last layer": ("backbone", 1)}
    if options.fine_tune:
        ways["all layers"] = ("none", options.fine_tune)
    for way, (freeze, epochs) in ways.items():
        out = folder / f"{way.replace(' ', '-')}-{seed}"
        shutil.rmtree(out, ignore_errors=True)
        begun = time.perf_counter()
        learned = retrain(RetrainConfig(run=run.path, data=str(new), freeze=freeze, epochs=epochs, seed=seed, out=out,
                                        accept_worse=True))  # fmt: skip
        yield turn(way, learned.artifact, time.perf_counter() - begun, learned.verdict.word)
    for precision in options.precision:
        out = folder / f"{precision}-{seed}"
        shutil.rmtree(out, ignore_errors=True)
        begun = time.perf_counter()
        adapted = adapt(
            AdaptConfig(bundle=folder / f"onnx-{precision}", data=new, seed=seed, out=out, accept_worse=True)
        )
        yield turn(f"adapt, {precision}", adapted.artifact, time.perf_counter() - begun, adapted.verdict.word)


def ready(photos: Path, scenario: str, folder: Path, options: argparse.Namespace) -> None:
    """Images, run and bundles, as far as they are not there."""
    if not (folder / "pool").is_dir():
        prepare(photos, scenario, folder)
    if not (folder / "run").is_dir():
        config = TrainConfig(data=str(folder / "old"), arch=options.arch, weights=options.weights, size_px=options.size,
                             epochs=options.epochs, out=folder / "run")  # fmt: skip
        train(config)
    for precision in options.precision:
        if not (folder / f"onnx-{precision}").is_dir():
            export(ExportConfig(run=folder / "run", precision=precision, max_drop_points=3.0,
                                out=folder / f"onnx-{precision}"))  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--arch", default="mobilenet_v2")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=4, help="of the run's own training")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fine-tune", type=int, default=0, help="epochs in which all layers learn")
    parser.add_argument("--precision", nargs="*", default=["fp32", "int8"], help="of the bundles that are adapted")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: list[Turn] = []
    for photos in options.photos:
        for scenario in SCENARIOS:
            folder = options.work / f"{photos.resolve().name}-{scenario}"
            ready(photos, scenario, folder, options)
            for seed in range(options.seeds):
                for turn in turns(photos.resolve().name, scenario, folder, options, seed):
                    found.append(turn)
                    print(json.dumps(asdict(turn)), flush=True)
    groups: dict[tuple[str, str, str], list[Turn]] = {}
    for turn in found:
        groups.setdefault((turn.data, turn.scenario, turn.way), []).append(turn)
    print(f"{'data':12s} {'new':10s} {'way':12s} {'old (%)':>7s} {'new (%, smallest to largest)':>30s} {'s':>6s}")
    for (data, scenario, way), group in groups.items():
        new = [turn.new for turn in group]
        spread = f"{statistics.mean(new):.1f} ({min(new):.1f} to {max(new):.1f})"
        old, seconds = statistics.mean(t.old for t in group), statistics.median(t.seconds for t in group)
        print(f"{data:12s} {scenario:10s} {way:12s} {old:7.1f} {spread:>30s} {seconds:6.1f}")
    if options.out:
        result = {"machine": machine.this_machine().to_json(), "versions": machine.versions(), "arch": options.arch,
                  "size_px": options.size, "turns": [asdict(turn) for turn in found]}  # fmt: skip
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
