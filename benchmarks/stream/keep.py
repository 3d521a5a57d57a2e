"""What watching and keeping cost a stream: the time from preprocessing to scores, in pairs.

    python benchmarks/stream/keep.py BUNDLE VIDEO [--pairs N] [--seconds N]

In turn, each time anew: the stream without a look at drift (`--no-drift`), with drift, with drift and
`--unknown`, and with all reasons to keep frames into a pool besides. The video plays as a camera. Prints each one's
p50 against the first one's of its round: the median of the ratios and their range. Needs an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edgecls.runtime import machine
from edgecls.streaming.config import CameraOptions, KeepConfig, StreamConfig
from edgecls.streaming.run import stream

ALL = ("unsure", "changed", "drifted", "unknown", "sample=0.001")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("video")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10.0, help="Of each stream.")
    given = parser.parse_args()
    print(machine.this_machine().cpu)
    ratios: dict[str, list[float]] = {}
    for _ in range(given.pairs):
        with tempfile.TemporaryDirectory() as scratch:
            plain = StreamConfig(
                cameras=(given.video,), model=given.bundle, drift=False, duration_s=given.seconds,
                camera_options=CameraOptions(realtime=True),
            )  # fmt: skip
            watched = replace(plain, drift=True)
            kinds = {
                "plain": plain, "drift": watched, "drift, unknown": replace(watched, unknown=True),
                "drift, unknown, keep": replace(
                    watched, unknown=True, keeping=KeepConfig(keep=ALL, keep_to=Path(scratch) / "pool")
                ),
            }  # fmt: skip
            p50_ms = {name: _p50_ms(config) for name, config in kinds.items()}
        for name, value in p50_ms.items():
            ratios.setdefault(name, []).append(value / p50_ms["plain"])
        print("  ".join(f"{name} {value:.2f} ms" for name, value in p50_ms.items()))
    for name, values in ratios.items():
        print(f"{name:22s} {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")


def _p50_ms(config: StreamConfig) -> float:
    inference = stream(config).inference
    assert inference is not None
    return inference.p50_ms


if __name__ == "__main__":
    main()
