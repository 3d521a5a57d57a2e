"""How time and memory of `edgecls data check` grow with the number of images.

    python benchmarks/data/check.py [--images 10000 30000 100000] [--hashes 1000000] [--folder FOLDER] [--out FILE]

Makes JPEG files of 64 pixels in ten classes: 80 % scenes of their own, 5 % copies of others, 5 % others in another
size and quality, 10 % frames of one scene with a camera's noise. Checks each set in a process of its own, first with an
empty record and again with the full one, and prints seconds to list, look and compare, the largest memory above that of
the imports, and what was found. `--hashes` compares so many random hashes more, without images.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

CLASSES = 10
SIDE_PX = 64


def main() -> None:
    """Make, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="*", default=[10_000, 30_000, 100_000])
    parser.add_argument("--hashes", type=int, nargs="*", default=[])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measured(given.measure, given.record)))
        return

    from edgecls.runtime import machine

    print(machine.this_machine().cpu)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        sets = [of_images(Path(folder), count) for count in given.images]
    hashes = [of_hashes(count) for count in given.hashes]
    if given.out:
        result = {"machine": machine.this_machine().to_json(), "versions": machine.versions(), "images": sets}
        given.out.write_text(json.dumps({**result, "hashes": hashes}, indent=1) + "\n")


def of_images(folder: Path, count: int) -> dict[str, Any]:
    """Figures of one set, which is deleted then."""
    photos, record = folder / "photos", folder / "record.db"
    make(photos, count)
    command = [sys.executable, __file__, "--measure", str(photos), "--record", str(record)]
    runs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(2)]
    figures = {"images": count, "first": runs[0], "again": runs[1], "record_bytes": record.stat().st_size}
    for name, run in (("first", runs[0]), ("again", runs[1])):
        steps = ", ".join(f"{step} {run[f'{step}_s']:.2f} s" for step in ("list", "look", "compare"))
        print(f"{count} images, {name}: {steps}; memory {run['memory_bytes'] / 1e6:.0f} MB; {run['found']}", flush=True)
    shutil.rmtree(photos)
    record.unlink()
    return figures


def measured(photos: Path, record: Path) -> dict[str, Any]:
    """Seconds of each step of one check, the largest memory beyond that of the imports, and what was found."""
    import cv2  # noqa: F401
    import numpy as np  # noqa: F401
    from PIL import Image  # noqa: F401

    from edgecls.data.check import check
    from edgecls.data.layout import index_dataset

    begun_bytes, times = peak_bytes(), {"start": time.perf_counter()}
    layout = index_dataset(str(photos))
    times["list"] = time.perf_counter()
    report = check(layout, lambda step: times.setdefault(step.split()[0], time.perf_counter()), record)
    times["end"] = time.perf_counter()
    return {
        "list_s": times["list"] - times["start"],
        "look_s": times["comparing"] - times["list"],
        "compare_s": times["end"] - times["comparing"],
        "memory_bytes": peak_bytes() - begun_bytes,
        "found": {finding.kind: finding.count for finding in report.findings},
    }


def peak_bytes() -> int:
    """The most memory that this process has had (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def of_hashes(count: int) -> dict[str, Any]:
    """Seconds to find near ones among random hashes."""
    import numpy as np

    from edgecls.data.similar import near_groups

    hashes = np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64)
    begun, begun_bytes = time.perf_counter(), peak_bytes()
    near_groups(hashes, lambda positions: np.zeros((len(positions), 1024), np.uint8))
    figures = {"hashes": count, "compare_s": time.perf_counter() - begun, "memory_bytes": peak_bytes() - begun_bytes}
    print(f"{count} hashes: {figures['compare_s']:.1f} s; memory {figures['memory_bytes'] / 1e6:.0f} MB", flush=True)
    return figures


def make(folder: Path, count: int) -> None:
    """The images of one set."""
    import cv2
    import numpy as np

    generator = np.random.default_rng(count)

    def scene(seed: int, side_px: int = SIDE_PX) -> np.ndarray:
        shapes = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        return cv2.resize(shapes, (side_px, side_px), interpolation=cv2.INTER_CUBIC)

    own = max(1, count * 8 // 10)
    for number in range(CLASSES):
        (folder / f"class{number}").mkdir(parents=True)
    for index in range(count):
        kind = index * 20 // count  # 0 to 15 scenes, 16 copies, 17 other sizes, 18 and 19 frames
        source = int(generator.integers(own))
        image, quality = scene(index if kind < 16 else source), 90
        if kind == 17:
            image, quality = scene(source, SIDE_PX * 3 // 4), 70
        if kind > 17:
            image = np.clip(scene(0) + generator.normal(0, 4, (SIDE_PX, SIDE_PX, 3)), 0, 255).astype(np.uint8)
        label = (index if kind < 16 else source if kind < 18 else 0) % CLASSES
        path = str(folder / f"class{label}" / f"{index:08d}.jpg")
        cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, quality])


if __name__ == "__main__":
    main()
