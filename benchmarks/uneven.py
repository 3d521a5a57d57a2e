"""What balances uneven classes best: each way on uneven subsets of real sets, judged on an even test split.

    python benchmarks/uneven.py PHOTOS... --arch mobilenet_v2 --weights FILE --size 96 --epochs 10 [--out FILE]

Of each folder of class folders (in `train/`, `val/`, `test/` or not) two subsets are made: "long tail", 30 : 1 in
geometric steps, and "one large", all images of one class and 10 of each other. Which classes are large is drawn by the
seed. Prints top-1 and macro F1 on as many held-out images of each class, mean and standard deviation over the seeds.
Started again with the same `--out` it goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from edgecls.data.layout import index_dataset
from edgecls.runtime import machine
from edgecls.training.config import TrainConfig
from edgecls.training.loop import train

WAYS: dict[str, dict[str, Any]] = {
    "before": {"balance": "none", "select_by": "top1"},
    "none": {"balance": "none", "select_by": "macro-f1"},
    "sampling": {"balance": "sampling", "select_by": "macro-f1"},
    "sqrt-sampling": {"balance": "sqrt-sampling", "select_by": "macro-f1"},
    "weights": {"balance": "weights", "select_by": "macro-f1"},
    "logit-adjustment": {"balance": "logit-adjustment", "select_by": "macro-f1"},
}
SUBSETS = ("long tail", "one large")
RATIO, FEW = 30, 10
HELD_OUT = 1 / 6
"""Of the smallest class; as many images of each class are the test split."""


def subset(photos: Path, kind: str, seed: int, folder: Path) -> tuple[Path, list[int]]:
    """Write a manifest of an uneven subset with an even test split; and how many images each class has without that."""
    layout, generator = index_dataset(str(photos)), random.Random(seed)
    members: list[list[str]] = [[] for _ in layout.classes]
    for samples in layout.splits.values():
        for sample in samples:
            members[sample.label].append(str(Path(layout.source.location) / sample.key))
    for keys in members:
        generator.shuffle(keys)
    held_out = round(HELD_OUT * min(map(len, members)))
    rest = [keys[held_out:] for keys in members]
    order = list(range(len(rest)))
    generator.shuffle(order)
    most = min(map(len, rest))
    for rank, label in enumerate(order):
        if kind == "long tail":
            rest[label] = rest[label][: max(3, round(most * RATIO ** (-rank / (len(rest) - 1))))]
        elif rank:
            rest[label] = rest[label][:FEW]
    path = folder / f"{photos.name}.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split"])
        for name, keys, kept in zip(layout.classes, members, rest, strict=True):
            writer.writerows([key, name, "test"] for key in keys[:held_out])
            writer.writerows([key, name, "train"] for key in kept)
    return path, sorted(map(len, rest), reverse=True)


def main() -> None:
    """Parse, train each way on each subset with each seed, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--arch", default="mobilenet_v2")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--freeze", default="none")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if have(options.out) else []
    for photos in options.photos:
        for kind in SUBSETS:
            for seed in range(options.seeds):
                with tempfile.TemporaryDirectory(prefix="edgecls-") as folder:
                    manifest, counts = subset(photos, kind, seed, Path(folder))
                    for way in options.ways.split(","):
                        case = {"data": photos.name, "subset": kind, "counts": counts, "seed": seed, "way": way}
                        if any(case.items() <= row.items() for row in rows):
                            continue
                        config = TrainConfig(
                            data=str(manifest), arch=options.arch, weights=options.weights, size_px=options.size,
                            epochs=options.epochs, freeze=options.freeze, seed=seed, out=Path(folder) / way,
                            **WAYS[way],
                        )  # fmt: skip
                        _, metrics = train(config)
                        figures = {"top1": metrics.top1, "macro_f1": metrics.macro_f1, "images": metrics.images}
                        rows.append({**case, **figures})
                        print(json.dumps(rows[-1]), flush=True)
                        if options.out:
                            write(options, rows)
    print_table(rows)


def have(out: Path | None) -> bool:
    """Whether there are results to go on with."""
    return out is not None and out.exists()


def write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write what was found so far."""
    settings = {name: getattr(options, name) for name in ("arch", "size", "epochs", "freeze")}
    settings["weights"] = Path(options.weights).name
    result = {"machine": machine.this_machine().to_json(), "versions": machine.versions(), "settings": settings}
    options.out.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n")


def summary(rows: list[dict[str, Any]], data: str, subset: str, way: str, figure: str) -> tuple[float, float]:
    """Mean and standard deviation over the seeds, in percent."""
    values = [100 * row[figure] for row in rows if (row["data"], row["subset"], row["way"]) == (data, subset, way)]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def print_table(rows: list[dict[str, Any]]) -> None:
    """The summary of each way on each subset."""
    for data, kind in dict.fromkeys((row["data"], row["subset"]) for row in rows):
        print(f"{data}, {kind}")
        for way in dict.fromkeys(row["way"] for row in rows):
            cells = (summary(rows, data, kind, way, figure) for figure in ("macro_f1", "top1"))
            print(f"  {way:17}" + "".join(f"  {mean:6.2f} ± {spread:4.2f}" for mean, spread in cells))


if __name__ == "__main__":
    main()
