"""What keeping frames costs a stream: the time from preprocessing to scores, with and without, block by block.

    python benchmarks/stream/keep.py BUNDLE VIDEO [--minutes N] [--min-confidence P]

One stream plays the video as a camera and keeps frames for every reason, but only in every second block of a
second: machines change their speed from one minute to the next, and both halves of a pair of blocks see the same.
Which half comes first is drawn anew for each pair. Prints how many frames were kept, and the ratio of the medians of a
pair's blocks, for the inference and for the age of a decision: geometric mean, and 95 % interval over pairs (normal
approximation).
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edgecls.artifact.reference import Reference
from edgecls.clock import milliseconds_since, now_ns
from edgecls.runtime import machine, store
from edgecls.streaming.config import CameraOptions, KeepConfig, Smoothing, StreamConfig
from edgecls.streaming.decision import Decision
from edgecls.streaming.frames import Frame
from edgecls.streaming.run import stream
from edgecls.streaming.sinks.keep import KeepSink

BLOCK_S = 1.0
SETTLING_S = 0.2
"""Of each block's beginning that is left out: what the last one kept is still being written."""
REASONS = ("unsure", "changed", "drifted", "unknown", "sample=0.05")


class EverySecondBlock(KeepSink):
    """Keeps frames in one block of each pair; notes every decision's times in milliseconds."""

    def __init__(self, config: KeepConfig, model: str, reference: Reference | None):
        super().__init__(config, model, reference)
        self.times: dict[tuple[int, bool], list[Decision]] = defaultdict(list)
        self.kept = 0
        self._begin_ns = now_ns()
        self._keeps_first: dict[int, bool] = {}

    def wants(self, decision: Decision) -> bool:
        """Note the decision; keep it where this block keeps."""
        block, within_s = divmod(milliseconds_since(self._begin_ns) / 1000, BLOCK_S)
        pair = int(block) // 2
        keeps = (int(block) % 2 == 0) == self._keeps_first.setdefault(pair, random.random() < 0.5)
        if within_s > SETTLING_S:
            self.times[pair, keeps].append(decision)
        return keeps and super().wants(decision)

    def write(self, frame: Frame, decision: Decision) -> None:
        """Count what is looked at."""
        super().write(frame, decision)
        self.kept += 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("video")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--min-confidence", type=float, default=0.6, help="Below it a decision is unsure.")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    artifact = store.candidates(given.bundle)[0]
    reference = Reference.read(artifact.path, artifact.card)
    with tempfile.TemporaryDirectory() as scratch:
        config = KeepConfig(keep=REASONS, keep_to=Path(scratch) / "pool", keep_per_hour=3600)
        sink = EverySecondBlock(config, artifact.card.name, reference)
        stream(
            StreamConfig(
                cameras=(given.video,), model=given.bundle, unknown=reference is not None,
                camera_options=CameraOptions(realtime=True),
                smoothing=Smoothing(min_confidence=given.min_confidence),
                duration_s=60 * given.minutes,
            ),
            [sink],
        )  # fmt: skip
        kept = len([*(Path(scratch) / "pool").rglob("*.jpg")])
    print(f"{machine.this_machine().cpu}: {sink.kept} frames were looked at, {kept} kept")
    pairs = sorted({pair for pair, _ in sink.times})[1:-1]
    for name in ("inference_ms", "age_ms"):
        medians = [
            [statistics.median(getattr(each, name) for each in sink.times[pair, keeps]) for keeps in (True, False)]
            for pair in pairs
            if sink.times[pair, True] and sink.times[pair, False]
        ]
        ratios = [math.log(kept_ms / plain_ms) for kept_ms, plain_ms in medians]
        middle, half = statistics.mean(ratios), 1.96 * statistics.stdev(ratios) / math.sqrt(len(ratios))
        print(
            f"{name:13s} without {statistics.median(plain for _, plain in medians):6.2f}  ratio {math.exp(middle):.3f} "
            f"({math.exp(middle - half):.3f} to {math.exp(middle + half):.3f}), {len(ratios)} pairs"
        )


if __name__ == "__main__":
    main()
