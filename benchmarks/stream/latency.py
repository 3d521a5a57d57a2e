"""Is there ever a backlog? Frame age with a source faster than the model, alone and with somebody slow beside it.

    python benchmarks/stream/latency.py BUNDLE VIDEO [--frames 10000] [--fps 400] [--rounds 3] [--out FILE]

The video is played as a live camera at `--fps`, faster than the model. A frame is looked at as soon as the model is
free: it may wait for one inference, take one, and be as old as the interval between two frames. That sum, of medians,
is what the 99th percentile of the age is held against. The slow ones: a sink that takes 0.2 s for each frame, and three
browsers that ask for pictures and do not read them.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from edgecls.runtime import machine
from edgecls.runtime.classifier import load
from edgecls.streaming.config import CameraOptions, CaptureFormat, LoopConfig
from edgecls.streaming.decision import Decision
from edgecls.streaming.frames import Frame
from edgecls.streaming.loop import Stream, Summary
from edgecls.streaming.sinks.base import Sink
from edgecls.streaming.sinks.web import WebSink
from edgecls.streaming.sources import open_source


class Slow(Sink):
    """Takes its time for each frame."""

    name = "slow"
    every_frame = True

    def write(self, frame: Frame, decision: Decision) -> None:  # noqa: ARG002
        """Take 0.2 s."""
        time.sleep(0.2)


def run(bundle: Path, video: Path, frames: int, fps: float, slow: str) -> Summary:
    """One stream over so many decisions, with nobody, a slow sink or slow browsers beside it."""
    sinks: list[Sink] = [Slow()] if slow == "sink" else []
    browsers: list[socket.socket] = []
    if slow == "browsers":
        web = WebSink("0")

        def look(url: str) -> None:
            port = int(url.rstrip("/").rpartition(":")[2])
            for _ in range(3):
                browsers.append(socket.create_connection(("127.0.0.1", port)))
                browsers[-1].sendall(b"GET /camera/0.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")

        web.server.announce = look
        sinks.append(web)
    source = open_source(str(video), None, CameraOptions(capture=CaptureFormat(fps=fps), realtime=True))
    with load(bundle) as model:
        summary = Stream([source], model, sinks, LoopConfig(frames=frames)).run(threading.Event())
    for browser in browsers:
        browser.close()
    return summary


def main() -> None:
    """Parse, run in turn, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--fps", type=float, default=400.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, Any]]] = {"nobody": [], "sink": [], "browsers": []}
    for _ in range(options.rounds):
        for slow, found in rounds.items():
            summary = run(options.bundle, options.video, options.frames, options.fps, slow)
            assert summary.age is not None
            assert summary.inference is not None
            rate = summary.captured / summary.seconds
            bound_ms = 2 * summary.inference.p50_ms + 1000 / rate
            found.append({
                "age": summary.age.to_json(), "inference": summary.inference.to_json(), "captured_per_s": rate,
                "decided": summary.decided, "dropped": summary.dropped, "bound_ms": bound_ms,
            })  # fmt: skip
    for slow, found in rounds.items():
        middle = {name: statistics.median(each["age"][name] for each in found) for name in ("p50_ms", "p99_ms")}
        bound_ms = statistics.median(each["bound_ms"] for each in found)
        inference_ms = statistics.median(each["inference"]["p50_ms"] for each in found)
        worst = max(each["age"]["p99_ms"] for each in found)
        ages = f"age p50 {middle['p50_ms']:.2f} ms, p99 {middle['p99_ms']:.2f} ms (worst round {worst:.2f})"
        parts = f"2 x {inference_ms:.2f} ms + 1 / {found[0]['captured_per_s']:.0f} s"
        print(f"{slow:8}  {ages}; bound {bound_ms:.2f} ms = {parts}")
    if options.out:
        result = {"machine": machine.this_machine().to_json(), "versions": machine.versions(), "fps": options.fps,
                  "frames": options.frames, "rounds": rounds}  # fmt: skip
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
