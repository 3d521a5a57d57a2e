"""edgecls, as its users call it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import common

from edgecls.backends import Parallelism
from edgecls.runtime import store
from edgecls.runtime.classifier import load
from edgecls.runtime.pipeline import pipelined


def infer(plan: dict[str, Any]) -> dict[str, float]:
    """Raw inputs to scores: one after the other, or, with streams, beside each other."""
    artifact = store.find(plan["model"])
    streams = plan.get("streams", 1)
    image = np.random.default_rng(0).integers(0, 256, (1, *artifact.card.input_shape), np.uint8)
    with artifact.open(Parallelism(streams=streams)) as session:
        if streams == 1:
            return common.timed(lambda: session.infer(image), plan["seconds"])
        import time

        def images() -> Any:
            end = time.perf_counter() + plan["seconds"]
            while time.perf_counter() < end:
                yield image[0]

        return common.rated(
            lambda: sum(1 for _ in pipelined(session, images())),
            lambda: list(pipelined(session, [image[0]] * 50)),
        )


def files(plan: dict[str, Any]) -> dict[str, float]:
    """JPEG files to labels, as `edgecls predict` does it."""
    with load(plan["model"], streams=plan.get("streams", 1)) as model:
        return common.rated(
            lambda: len([each.label for each in model.predict_many(plan["photos"])]),
            lambda: list(model.predict_many(plan["photos"][:20])),
        )


def video(plan: dict[str, Any]) -> dict[str, float]:
    """A video file to labels, as `edgecls stream` does it."""
    import threading

    from edgecls.streaming.loop import Stream
    from edgecls.streaming.sources import open_source

    with load(plan["model"], streams=plan.get("streams", 1)) as model:
        summary = Stream([open_source(plan["video"], None)], model).run(threading.Event())
        return {"images_per_s": summary.decided / summary.seconds, "images": summary.decided}


def start(_plan: dict[str, Any]) -> dict[str, float]:
    """How long `edgecls --help` takes, in seconds."""
    import subprocess

    command = [str(Path(sys.executable).parent / "edgecls"), "--help"]
    return common.timed(lambda: subprocess.run(command, capture_output=True, check=True), 3.0)


common.main({"infer": infer, "files": files, "video": video, "start": start})
