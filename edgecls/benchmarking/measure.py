"""What one fresh process finds out about one candidate: run as `python -m edgecls.benchmarking.measure TASK`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls import clock
from edgecls.artifact.golden import Golden
from edgecls.backends import Parallelism, Session
from edgecls.benchmarking import conditions, energy
from edgecls.clock import sample
from edgecls.runtime import machine, store
from edgecls.runtime.pipeline import overlapped
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

WARM_UP_MAX_S = 3.0
STEADY = 0.05
"""Warm is who took the same time, within this share, in two windows one after the other."""
WINDOW_S = 0.05
ANCHOR_REPEATS = 15


@dataclass(frozen=True)
class Task:
    """What to measure: a model's place, how it is opened, images per call, and for how long.

    With one stream single calls are timed; with several, or None, as many run beside each other as the session allows.
    """

    model: str
    threads: int | None = None
    streams: int | None = 1
    batch: int = 1
    seconds: float = 0.5


@dataclass(frozen=True)
class Repetition:
    """One process' findings.

    `samples_ms` are the times of single calls, from submission to scores where several run beside each other.
    `cpu_ms` is processor time over all threads and `energy_mj` energy, both for one image. `load_ms` runs from nothing
    imported to an opened session, `first_ms` is the first inference, `answered_unix_s` when it was done.
    `anchor_ms` is a fixed piece of arithmetic on this machine at the same time; `stolen` what others took, 0..1.
    """

    samples_ms: list[float]
    images_per_s: float
    cpu_ms: float
    energy_mj: float | None
    energy_of: str | None
    load_ms: float
    first_ms: float
    answered_unix_s: float
    peak_memory_mb: float | None
    anchor_ms: float
    stolen: float
    throttled: bool


def measure(task: Task) -> Repetition:
    """Measure a candidate in this process."""
    begun_ns, artifact = clock.now_ns(), store.find(Path(task.model))
    with artifact.open(Parallelism(task.threads, task.streams)) as session:
        load_ms = clock.milliseconds_since(begun_ns)
        images = inputs(artifact, task.batch)
        begun_ns = clock.now_ns()
        session.infer(images)
        first_ms, answered_unix_s = clock.milliseconds_since(begun_ns), time.time()
        one_by_one = task.streams == 1
        (_warm_up if one_by_one else _warm_up_beside)(session, images)
        anchor_ms = _anchor_ms()
        sensor, before = energy.sensor(), conditions.ticks()
        joules, cpu_s = sensor.joules() if sensor else 0.0, time.process_time()
        begun_ns = clock.now_ns()
        samples = (_calls if one_by_one else _beside)(session, images, task.seconds)
        spent_s = clock.milliseconds_since(begun_ns) / 1000
        cpu_s = time.process_time() - cpu_s
        used = sensor.joules() - joules if sensor else 0.0
        after, seen = conditions.ticks(), len(samples) * task.batch
        if sensor:
            sensor.close()
        return Repetition(
            samples,
            seen / spent_s,
            1000 * cpu_s / seen,
            1000 * used / seen if sensor else None,
            sensor.name if sensor else None,
            load_ms,
            first_ms,
            answered_unix_s,
            machine.peak_memory_mb(),
            min(anchor_ms, _anchor_ms()),
            after.stolen_since(before),
            after.throttled > before.throttled,
        )


def inputs(artifact: Artifact, batch: int) -> NDArray[uint8]:
    """Raw inputs (batch, h, w, 3): the artifact's golden images, over and over, or noise for a bare file."""
    import numpy as np

    if not artifact.path.is_dir():
        return np.random.default_rng(0).integers(0, 256, (batch, *artifact.card.input_shape), dtype=np.uint8)
    golden = Golden.read(artifact.path, artifact.card).images
    return np.ascontiguousarray(golden[np.arange(batch) % len(golden)])


def _calls(session: Session, images: NDArray[uint8], seconds: float) -> list[float]:
    samples: list[float] = []
    begun_ns = clock.now_ns()
    while clock.milliseconds_since(begun_ns) < seconds * 1000 or len(samples) < 5:
        start_ns = clock.now_ns()
        session.infer(images)
        samples.append(clock.milliseconds_since(start_ns))
    return samples


def _beside(session: Session, images: NDArray[uint8], seconds: float) -> list[float]:
    begun_ns = clock.now_ns()

    def items() -> Iterator[tuple[int, NDArray[uint8]]]:
        count = 0
        while clock.milliseconds_since(begun_ns) < seconds * 1000 or count < 5:
            count += 1
            yield clock.now_ns(), images

    return [clock.milliseconds_since(start_ns) for start_ns, _ in overlapped(session, items())]


def _warm_up(session: Session, images: NDArray[uint8]) -> None:
    """Call until two windows one after the other took the same time."""
    begun_ns, last_ms = clock.now_ns(), 0.0
    while clock.milliseconds_since(begun_ns) < WARM_UP_MAX_S * 1000:
        samples = sorted(_calls(session, images, WINDOW_S))
        median_ms = samples[len(samples) // 2]
        if last_ms and abs(median_ms - last_ms) <= STEADY * last_ms:
            return
        last_ms = median_ms


def _warm_up_beside(session: Session, images: NDArray[uint8]) -> None:
    _beside(session, images, 4 * WINDOW_S)


def _anchor_ms() -> float:
    """The fastest of some runs of a fixed sort and sum: how fast this processor is at this moment."""
    import numpy as np

    values = np.random.default_rng(0).random(60_000, dtype=np.float32)

    def run() -> float:
        begun_ns = clock.now_ns()
        float(np.sort(values)[::7].sum())
        return clock.milliseconds_since(begun_ns)

    return min(run() for _ in range(ANCHOR_REPEATS))


def main() -> None:
    """Read a task as JSON from the command line; print the repetition, or the error, as JSON."""
    from edgecls.errors import EdgeclsError

    try:
        outcome: dict[str, Any] = asdict(measure(Task(**json.loads(sys.argv[1]))))
    except EdgeclsError as error:
        outcome = {"error": str(error)}
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()


def sample_session(session: Session, image: NDArray[uint8], seconds: float = 1.0) -> list[float]:
    """Durations in milliseconds of `Session.infer` on one raw input (h, w, 3)."""
    images = image[None]
    return sample(lambda: session.infer(images), seconds)
