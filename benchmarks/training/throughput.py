"""Training throughput on a folder of photographs, side by side: a plain torchvision loop, edgecls, a frozen backbone.

    python benchmarks/training/throughput.py PHOTOS [--arch mobilenet_v3_small] [--size 224] [--rounds 3] [--out FILE]

Each candidate trains in a process of its own, in turn, for so many rounds. The plain loop is what torchvision's
documentation shows: ImageFolder, RandomResizedCrop, a mirror, a DataLoader with a worker per processor, AdamW. For the
first two the first epoch (decoding into the page cache) does not count. The frozen backbone's figure is images times
epochs over the whole command, start-up, features and evaluation included.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgecls.concurrency import usable_cpus
from edgecls.runtime import machine

FROZEN_EPOCHS = 30
BATCH = 32


def plain(photos: Path, arch: str, size_px: int) -> float:
    """Images per second of the plain loop in its second epoch."""
    from edgecls.models.vision import import_torchvision

    models = import_torchvision().models
    import torch
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    folder = photos / "train" if (photos / "train").is_dir() else photos
    steps = [transforms.RandomResizedCrop(size_px), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    dataset = ImageFolder(str(folder), transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=usable_cpus(), drop_last=True)
    network = getattr(models, arch)(num_classes=len(dataset.classes)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(2):
        begun, seen = time.perf_counter(), 0
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(images)
    return seen / (time.perf_counter() - begun)


def ours(photos: Path, arch: str, size_px: int, *options: str) -> tuple[Path, float]:
    """The run that edgecls trained, and how long the whole command took in seconds."""
    path = Path(tempfile.mkdtemp(prefix="edgecls-")) / "run"
    command = [sys.executable, "-m", "edgecls", "train", str(photos), "--arch", arch, "--size", str(size_px)]
    begun = time.perf_counter()
    subprocess.run(
        [*command, "--batch-size", str(BATCH), "--out", str(path), *options], check=True, capture_output=True
    )
    return path, time.perf_counter() - begun


def measure(candidate: str, photos: Path, arch: str, size_px: int, run: str) -> dict[str, Any]:
    """One candidate's images per second and peak memory, all of its processes added up by their largest."""
    if candidate == "plain":
        rate = plain(photos, arch, size_px)
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return {"images_per_s": rate, "peak_mb": (largest + usable_cpus() * worker) / 1024}
    if candidate == "edgecls":
        path, _ = ours(photos, arch, size_px, "--weights", "none", "--epochs", "2")
        rows = list(csv.DictReader((path / "metrics.csv").open()))
        rate = float(rows[1]["images_per_s"])
    else:
        path, seconds = ours(
            photos, arch, size_px, "--weights", run, "--freeze", "backbone", "--epochs", str(FROZEN_EPOCHS)
        )
        splits = json.loads((path / "data.json").read_text())["splits"]
        rate = FROZEN_EPOCHS * len(splits["train"]) / seconds
    return {"images_per_s": rate, "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}


def main() -> None:
    """Parse, measure in turn, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--arch", default="mobilenet_v3_small")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--run", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.photos, options.arch, options.size, options.run)))
        return
    pretrained, _ = ours(options.photos, options.arch, options.size, "--weights", "none", "--epochs", "1")
    rounds: dict[str, list[dict[str, Any]]] = {"plain": [], "edgecls": [], "frozen": []}
    for _ in range(options.rounds):
        for name, found in rounds.items():
            command = [
                sys.executable,
                __file__,
                str(options.photos),
                "--arch",
                options.arch,
                "--size",
                str(options.size),
            ]
            command += ["--only", name, "--run", str(pretrained)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    base = statistics.median(each["images_per_s"] for each in rounds["plain"])
    for name, found in rounds.items():
        rates = sorted(each["images_per_s"] for each in found)
        median = statistics.median(rates)
        print(
            f"{name:8}  {median:7.0f} images/s ({rates[0]:.0f} to {rates[-1]:.0f})  {median / base:5.2f}x plain  "
            f"peak {max(each['peak_mb'] for each in found):.0f} MB"
        )
    if options.out:
        result = {
            "machine": machine.this_machine().to_json(), "versions": machine.versions(), "arch": options.arch,
            "size_px": options.size, "batch": BATCH, "frozen_epochs": FROZEN_EPOCHS, "rounds": rounds,
        }  # fmt: skip
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
