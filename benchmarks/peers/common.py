"""What the peers' scripts share; imports nothing that a peer's environment may lack."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def timed(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Median and rate of a call over so many seconds, after a warm-up of a fifth of it."""
    end = time.perf_counter() + seconds / 5
    while time.perf_counter() < end:
        call()
    samples, begun = [], time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    spent = time.perf_counter() - begun
    samples.sort()
    return {
        "p50_ms": 1000 * samples[len(samples) // 2], "p10_ms": 1000 * samples[len(samples) // 10],
        "p99_ms": 1000 * samples[int(0.99 * len(samples))], "images_per_s": len(samples) / spent,
    }  # fmt: skip


def rated(work: Callable[[], int], warm_up: Callable[[], object]) -> dict[str, float]:
    """Images per second of a job that returns how many it did."""
    warm_up()
    begun = time.perf_counter()
    count = work()
    return {"images_per_s": count / (time.perf_counter() - begun), "images": count}


def main(jobs: dict[str, Callable[[dict[str, Any]], dict[str, float]]]) -> None:
    """Do the job named on the command line; print its figures as JSON in the last line."""
    found = jobs[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps(found))
