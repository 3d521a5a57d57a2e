"""What serving costs: requests a second against a bare runtime session and against `predict`, and latency at half load.

    python benchmarks/serving/load.py BUNDLE PHOTOS [--seconds 5] [--rounds 5] [--out FILE] [--serve OPTIONS]

The server is a process of its own; the client, and what it is held against, run in this one. Both share this machine's
processors, and so the client's work is part of what is measured. Each round measures all of it in turn, and ratios are
of one round; where other programs work beside it, processor time a request says more than requests a second. Measured:

    tensor 8, 32   pixels as binary tensors by HTTP on so many connections, scores asked for,
                   against as many threads that call the bare session
    jpeg 8, 32     image files as they are, on so many connections, against `Classifier.predict_many` on their bytes
    latency        tensors at half of the rate of tensor 8, at even intervals: median and 99th percentile against the
                   time of an inference in the bare session, one after the other
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from edgecls.artifact.card import INPUT_NAME, OUTPUT_NAME
from edgecls.backends import THROUGHPUT
from edgecls.clock import Latency, milliseconds_since, now_ns, sample
from edgecls.imaging.decode import find_images, read_image
from edgecls.runtime import machine, store
from edgecls.runtime.classifier import load

NAME = "model"
WARMUP = 50
PHOTOS = 200


class Connection(asyncio.Protocol):
    """One connection that sends requests as they are and counts what comes back."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None
        self._received = b""
        self.closing = False
        """Whether the server wants no more requests on it."""

    def connection_made(self, transport: Any) -> None:
        """Keep it."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Look whether the answer is whole."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b":0")
        if end and len(body) >= int(length.partition(b":")[2]) and self._waiting is not None:
            self._received = b""
            self.closing = b"\r\nconnection: close" in head.lower()
            if head.startswith(b"HTTP/1.1 200"):
                self._waiting.set_result(None)
            else:
                self._waiting.set_exception(RuntimeError((head + end + body).decode(errors="replace")))

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody answers any more."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error or ConnectionError("the server closed the connection"))

    async def ask(self, request: bytes) -> None:
        """Send a request and wait for its answer."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._waiting


async def connected(port: int, connections: int) -> list[Connection]:
    """Open connections."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(Connection, "127.0.0.1", port) for _ in range(connections)]
    return [protocol for _, protocol in made]


async def closed_loop(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> float:
    """Requests a second where each connection asks again once it is answered."""
    opened, done = await connected(port, connections), 0
    endless = cycle(requests)
    begun_ns = now_ns()

    async def work(connection: Connection) -> None:
        nonlocal done
        while milliseconds_since(begun_ns) < seconds * 1000:
            await connection.ask(next(endless))
            done += 1

    await asyncio.gather(*map(work, opened))
    return done / milliseconds_since(begun_ns) * 1000


async def open_loop(port: int, requests: Sequence[bytes], per_second: float, seconds: float) -> list[float]:
    """Milliseconds from the moment at which each request was due to its answer, at even intervals."""
    free = await connected(port, 32)
    samples_ms: list[float] = []
    begun_ns, tasks = now_ns(), []

    async def ask(due_ns: int, request: bytes) -> None:
        connection = free.pop()
        await connection.ask(request)
        samples_ms.append(milliseconds_since(due_ns))
        free.append(connection)

    for number, request in zip(count(), cycle(requests)):
        due_ns = begun_ns + int(number / per_second * 1e9)
        if milliseconds_since(begun_ns) > seconds * 1000:
            break
        await asyncio.sleep(max(0.0, (due_ns - now_ns()) / 1e9))
        tasks.append(asyncio.create_task(ask(due_ns, request)))
    await asyncio.gather(*tasks)
    return samples_ms


def threaded(call: Callable[[int], object], threads: int, seconds: float) -> float:
    """Calls a second by so many threads."""
    done = [0] * threads
    begun_ns = now_ns()

    def work(place: int) -> None:
        while milliseconds_since(begun_ns) < seconds * 1000:
            call(done[place])
            done[place] += 1

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return sum(done) / milliseconds_since(begun_ns) * 1000


def repeated(call: Callable[[], int], seconds: float) -> float:
    """Images a second of calls that each do several."""
    begun_ns, done = now_ns(), 0
    while milliseconds_since(begun_ns) < seconds * 1000:
        done += call()
    return done / milliseconds_since(begun_ns) * 1000


def tensor_request(pixels: np.ndarray) -> bytes:
    """An infer request with one image as a binary tensor, scores as a binary tensor back."""
    tensor = {
        "name": INPUT_NAME, "datatype": "UINT8", "shape": [1, *pixels.shape],
        "parameters": {"binary_data_size": pixels.nbytes},
    }  # fmt: skip
    outputs = [{"name": OUTPUT_NAME, "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    size = len(head) + pixels.nbytes
    lines = f"POST /v2/models/{NAME}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n"
    return f"{lines}Inference-Header-Content-Length: {len(head)}\r\n\r\n".encode() + head + pixels.tobytes()


def image_request(content: bytes) -> bytes:
    """An image as it is."""
    lines = f"POST /v2/models/{NAME}/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    return f"{lines}Content-Length: {len(content)}\r\n\r\n".encode() + content


def start(bundle: Path, options: Sequence[str]) -> tuple[subprocess.Popen[str], int]:
    """A server, and its port."""
    command = [sys.executable, "-m", "edgecls", "serve", f"{NAME}={bundle}", "--http", "0", "--grpc", "off", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert server.stderr is not None
    for line in server.stderr:
        print(line.rstrip(), file=sys.stderr)
        if line.startswith("http: "):
            threading.Thread(target=server.stderr.read, daemon=True).start()
            return server, int(line.rpartition(":")[2])
    raise SystemExit("the server did not start")


def used_ms(server: int | None = None) -> float:
    """Processor time of this process until now, or of the server's."""
    if server is None:
        return time.process_time_ns() / 1e6
    fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(bundle: Path, photos: Path, server: int, port: int, seconds: float, rounds: int) -> list[dict[str, float]]:
    """What each round gave."""
    artifact = store.find(bundle)
    paths = list(islice((path for path in find_images(photos) if path.suffix.lower() in (".jpg", ".jpeg")), PHOTOS))
    contents = [path.read_bytes() for path in paths]
    pixels = [artifact.card.preprocess(read_image(path, geometry=artifact.card.preprocess)) for path in paths]
    tensors, images = [*map(tensor_request, pixels)], [*map(image_request, contents)]
    results = []
    with artifact.open(THROUGHPUT) as session, load(bundle, streams=None) as classifier:

        def bare(index: int) -> object:
            return session.infer(pixels[index % len(pixels)][None])

        alone_ms = statistics.median(sample(lambda: session.infer(pixels[0][None]), seconds / 4))
        asyncio.run(closed_loop(port, [*tensors, *images], 8, 1.0))
        for _ in range(rounds):
            row: dict[str, float] = {"inference_ms": alone_ms}

            def add(name: str, measure: Callable[[], float], row: dict[str, float] = row) -> None:
                own_ms, server_ms = used_ms(), used_ms(server)
                row[name] = rate = measure()
                row[f"{name} cpu_ms"] = (used_ms() - own_ms + used_ms(server) - server_ms) / (rate * seconds)

            for many in (8, 32):
                add(f"bare {many}", lambda many=many: threaded(bare, many, seconds))
                add(f"tensor {many}", lambda many=many: asyncio.run(closed_loop(port, tensors, many, seconds)))
            add("predict", lambda: repeated(lambda: sum(1 for _ in classifier.predict_many(contents)), seconds))
            for many in (8, 32):
                add(f"jpeg {many}", lambda many=many: asyncio.run(closed_loop(port, images, many, seconds)))
            latency = Latency.of(asyncio.run(open_loop(port, tensors, row["tensor 8"] / 2, seconds)))
            row["p50_ms"], row["p99_ms"] = latency.p50_ms, latency.p99_ms
            results.append(row)
    return results


def main() -> None:
    """Measure, and print medians with their ranges."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path, help="a folder of JPEG files")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write a JSON file")
    parser.add_argument("--serve", default="", help="options of edgecls serve, in one text")
    given = parser.parse_args()
    server, port = start(given.bundle, shlex.split(given.serve))
    try:
        rows = measured(given.bundle, given.photos, server.pid, port, given.seconds, given.rounds)
    finally:
        server.terminate()
        server.wait()
    pairs = ("tensor 8", "bare 8"), ("tensor 32", "bare 32"), ("jpeg 8", "predict"), ("jpeg 32", "predict")
    for row in rows:
        for ours, theirs in pairs:
            row[f"{ours} / {theirs}"] = row[ours] / row[theirs]
            row[f"{ours} / {theirs} cpu"] = row[f"{ours} cpu_ms"] / row[f"{theirs} cpu_ms"]
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name:26}{statistics.median(values):9.2f}  ({min(values):.2f} to {max(values):.2f})")
    if given.out:
        known = {"processor": machine.this_machine().name, "seconds": given.seconds, "rounds": rows}
        given.out.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
