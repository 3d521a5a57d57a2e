"""A stream that is hurt for a long time: memory, threads, file descriptors and counters, watched from outside.

    python benchmarks/stream/soak.py BUNDLE [--minutes 30] [--out FILE]

`edgecls stream` runs as a process of its own with three cameras, a web view that somebody reads, an event file, a
webhook whose server fails half of the time and, where mosquitto is installed, an MQTT broker that goes away too. Every
few seconds a camera's server is killed, frozen, restarted or made to change its pictures' size. Prints the slope of the
memory after the first fifth, and what was left over; ends with 1 where a counter was ever inconsistent.
"""

from __future__ import annotations

import argparse
import http.server
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edgecls.runtime import machine
from tests.streaming.cameras import MjpegServer, RtspServer, found, free_port, missing_rtsp

SAMPLE_S = 5.0


class Camera:
    """An MJPEG server that can be hurt."""

    def __init__(self) -> None:
        self.server: MjpegServer | None = MjpegServer(free_port(), interval_s=1 / 30)
        self.url, self._port = self.server.url, self.server.port

    @property
    def is_hurt(self) -> bool:
        """Whether it gives no frames."""
        return self.server is None or self.server.frozen

    def hurt(self, chance: random.Random) -> str:
        """Do something to it; an injury lasts until the next call."""
        if self.server is None:
            self.server = MjpegServer(self._port, interval_s=1 / 30)
            return "restarted"
        if self.server.frozen:
            self.server.frozen = False
            return "thawed"
        kind = chance.choice(("killed", "frozen", "resized"))
        if kind == "killed":
            self.server.stop()
            self.server = None
        elif kind == "frozen":
            self.server.frozen = True
        else:
            self.server.size = chance.choice(((64, 48), (320, 240), (640, 480)))
        return kind


class Rtsp:
    """An RTSP server that can be hurt."""

    def __init__(self) -> None:
        self._port = free_port()
        self.server: RtspServer | None = RtspServer(self._port)
        self.url = self.server.url

    @property
    def is_hurt(self) -> bool:
        """Whether it gives no frames."""
        return self.server is None

    def hurt(self, chance: random.Random) -> str:
        """Kill it, or start it again."""
        if self.server is None:
            self.server = RtspServer(self._port, chance.choice(((320, 240), (640, 360))))
            return "restarted"
        self.server.kill()
        self.server = None
        return "killed"


class Broker:
    """A mosquitto that can be hurt."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        (folder / "broker.conf").write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self._command = [str(found("mosquitto")), "-c", str(folder / "broker.conf")]
        self.process: subprocess.Popen[bytes] | None = None
        self.hurt(random.Random())

    @property
    def is_hurt(self) -> bool:
        """Whether it is away."""
        return self.process is None

    def hurt(self, _chance: random.Random) -> str:
        """Stop it, or start it again."""
        if self.process is None:
            self.process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
            return "started"
        self.process.terminate()
        self.process.wait()
        self.process = None
        return "stopped"


class Flaky(http.server.BaseHTTPRequestHandler):
    """A webhook's server that fails every other time."""

    asked = 0

    def do_POST(self) -> None:
        """Take or refuse."""
        self.rfile.read(int(self.headers["Content-Length"]))
        Flaky.asked += 1
        self.send_response(503 if Flaky.asked % 2 else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def sample(process: int, port: int) -> dict[str, Any]:
    """Memory, threads and descriptors of a process, and what its stream says of itself."""
    status = Path(f"/proc/{process}/status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=10) as answer:
        health = json.load(answer)
    return {
        "rss_mb": int(values["VmRSS"].split()[0]) / 1024,
        "threads": int(values["Threads"]),
        "descriptors": len(list(Path(f"/proc/{process}/fd").iterdir())),
        "health": health,
    }


def inconsistent(health: dict[str, Any]) -> list[str]:
    """Cameras whose counters do not add up."""
    return [
        camera["camera"]
        for camera in health["cameras"]
        if camera["captured"] != camera["decided"] + camera["dropped"] + camera["in_flight"] or camera["in_flight"] < 0
    ]


def look(port: int, ended: threading.Event) -> None:
    """Read pictures as a browser does, and go away again."""
    while not ended.is_set():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/camera/0.mjpg", timeout=5) as answer:
                for _ in range(200):
                    answer.read(4096)
        except OSError:
            ended.wait(1)


def main() -> None:
    """Parse, hurt, watch, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=6.0, help="Seconds between two faults.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    faults: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="edgecls-soak-") as scratch:
        folder = Path(scratch)
        cameras: list[Any] = [Camera(), Camera()]
        if missing_rtsp() is None:
            cameras.append(Rtsp())
        hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        port = free_port()
        command = [sys.executable, "-m", "edgecls", "stream", "--model", str(options.bundle), "--display", "none"]
        for number, camera in enumerate(cameras):
            command += ["--camera", f"camera{number}={camera.url}"]
        command += ["--web", str(port), "--events", str(folder / "events.jsonl"), "--smooth", "0", "--dwell", "0"]
        command += ["--webhook", f"http://127.0.0.1:{hook.server_address[1]}/hook"]
        victims: list[tuple[str, Any]] = [(f"camera{number}", camera) for number, camera in enumerate(cameras)]
        if found("mosquitto"):
            broker = Broker(folder)
            victims.append(("broker", broker))
            command += ["--mqtt", f"mqtt://127.0.0.1:{broker.port}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(10)
        ended = threading.Event()
        threading.Thread(target=look, args=(port, ended), daemon=True).start()
        samples: list[dict[str, Any]] = []
        wrong: list[str] = []
        begun, hurt_s = time.monotonic(), 0.0
        while (now_s := time.monotonic() - begun) < options.minutes * 60:
            assert process.poll() is None, "the stream ended by itself"
            if now_s - hurt_s >= options.every:
                hurt_s = now_s
                name, victim = chance.choice(victims)
                done = f"{name} {victim.hurt(chance)}"
                faults[done] = faults.get(done, 0) + 1
            samples.append({"at_s": now_s, **sample(process.pid, port)})
            wrong += inconsistent(samples[-1]["health"])
            time.sleep(SAMPLE_S)
        for _, victim in victims:
            if victim.is_hurt:
                victim.hurt(chance)
        deadline = time.monotonic() + 60
        while not sample(process.pid, port)["health"]["healthy"] and time.monotonic() < deadline:
            time.sleep(0.5)
        last = sample(process.pid, port)
        ended.set()
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        code = process.wait(60)
        closing_s = time.monotonic() - begun
        for _, victim in victims:
            if getattr(victim, "process", None):
                victim.process.terminate()
            server = getattr(victim, "server", None)
            if isinstance(server, RtspServer):
                server.kill()
        report(options, samples, last, wrong, faults, code, closing_s)
    sys.exit(1 if wrong or code != 143 or not last["health"]["healthy"] else 0)


def report(
    options: Any, samples: list[dict[str, Any]], last: dict[str, Any], wrong: list[str], faults: dict[str, int],
    code: int, closing_s: float,
) -> None:  # fmt: skip
    """Print the figures, and write them."""
    settled = samples[len(samples) // 5 :]
    hours = np.array([each["at_s"] / 3600 for each in settled])
    memory = np.array([each["rss_mb"] for each in settled])
    slope, _ = np.polyfit(hours, memory, 1)
    halves = [float(np.median(half)) for half in np.array_split(memory, 2)]
    figures = {
        "minutes": options.minutes,
        "faults": faults,
        "memory_mb": {"first": samples[0]["rss_mb"], "last": samples[-1]["rss_mb"], "median_of_halves": halves},
        "memory_slope_mb_per_hour": float(slope),
        "memory_mb_each_minute": [round(each["rss_mb"], 1) for each in samples[:: round(60 / SAMPLE_S)]],
        "threads": {name: [min(v), max(v)] for name, v in [("settled", [s["threads"] for s in settled])]},
        "descriptors": [min(s["descriptors"] for s in settled), max(s["descriptors"] for s in settled)],
        "samples": len(samples),
        "inconsistent": len(wrong),
        "all_cameras_live_at_the_end": last["health"]["healthy"],
        "cameras": last["health"]["cameras"],
        "sinks": last["health"]["sinks"],
        "exit_code": code,
        "seconds_to_end": closing_s,
    }
    print(json.dumps(figures, indent=1))
    if options.out:
        result = {"machine": machine.this_machine().to_json(), "versions": machine.versions(), **figures}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
