"""How near a stream of a video file comes to what the processor allows.

    python benchmarks/stream/video.py MODEL VIDEO... [--rounds 5] [--frames 500] [--make FOLDER]

Measures for each file the processor time of decoding, of scaling to the network's input and of inference, each alone,
and the frames/s of the whole stream, in turn, `--rounds` times. The limit is the number of cores divided by the sum of
the three. Medians are printed, and smallest to largest in brackets. The rate holds only as far as nothing else runs:
how many cores other programs used meanwhile is printed too (Linux). With `--make` the first VIDEO is written to FOLDER
again in 480p, 1080p and 4K, as H.264 and H.265, and these are measured; what stands there already is taken.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import edgecls
from edgecls.imaging.opencv import single_threaded
from edgecls.imaging.yuv import Picture
from edgecls.runtime import machine
from edgecls.runtime.pipeline import pipelined
from edgecls.streaming.config import StreamConfig
from edgecls.streaming.run import open_stream
from edgecls.streaming.sources.video import open_video

SIZES = {"480p": (854, 480), "1080p": (1920, 1080), "4k": (3840, 2160)}
CODECS = {"h264": "libx264", "h265": "libx265"}
MADE_FRAMES = {"480p": 500, "1080p": 300, "4k": 100}
SCALED_PICTURES = 16
"""Pictures of a video over which the time of scaling is averaged."""


def make(video: Path, folder: Path) -> list[Path]:
    """The video in each size and codec."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for size, (width, height) in SIZES.items():
        for codec, encoder in CODECS.items():
            path = folder / f"{size}-{codec}.mp4"
            made.append(path)
            if path.exists():
                continue
            options = {"preset": "veryfast", "crf": "20", "x265-params": "log-level=none"}
            with av.open(str(video)) as source, av.open(str(path), "w") as out:
                stream = out.add_stream(encoder, rate=30, options=options)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                for number, frame in enumerate(islice(source.decode(video=0), MADE_FRAMES[size])):
                    scaled = frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")
                    scaled.pts, scaled.time_base, scaled.pict_type = number, Fraction(1, 30), 0
                    out.mux(stream.encode(scaled))
                out.mux(stream.encode())
    return made


def pictures(video: Path, most: int) -> Iterator[Picture]:
    """The first pictures of a file."""
    reader = open_video(str(video))
    try:
        for _ in range(most):
            if (read := reader.read()) is None:
                return
            yield read[0]
    finally:
        reader.close()


def processor_ms(work: Callable[[], int]) -> float:
    """Processor time, of all threads, for each of the things that `work` counts."""
    begun = time.process_time()
    count = work()
    return (time.process_time() - begun) * 1000 / count


def busy_s() -> float:
    """Processor time that all programs of this machine have used, in s; NaN where the system does not tell."""
    try:
        user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    except (OSError, ValueError):
        return math.nan
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def streamed(model: Path, video: Path, frames: int) -> dict[str, float]:
    """Frames/s of the whole stream, its processor time a frame, and the cores that other programs used meanwhile."""
    with open_stream(StreamConfig(cameras=(str(video),), model=model, frames=frames)) as stream:
        begun, own, busy = time.perf_counter(), time.process_time(), busy_s()
        summary = stream.run(threading.Event())
        wall_s, own_s = time.perf_counter() - begun, time.process_time() - own
    others = (busy_s() - busy - own_s) / wall_s
    return {"rate": summary.decided / wall_s, "stream_ms": own_s * 1000 / summary.decided, "others": others}


def measured(model: Path, video: Path, frames: int) -> dict[str, float]:
    """One round: each part alone, then all together."""
    kept = list(islice(pictures(video, frames), 0, None, max(1, frames // SCALED_PICTURES)))[:SCALED_PICTURES]
    with edgecls.load(model, streams=None) as classifier, single_threaded():
        preprocess, session = classifier.card.preprocess, classifier.session
        inputs = [preprocess(picture) for picture in kept]
        list(pipelined(session, inputs))
        parts = {
            "decode": processor_ms(lambda: sum(1 for _ in pictures(video, frames))),
            "scale": processor_ms(lambda: len([preprocess(picture) for picture in islice(cycle(kept), 100)])),
            "infer": processor_ms(lambda: len(list(pipelined(session, islice(cycle(inputs), 200))))),
        }
    whole = streamed(model, video, frames)
    limit = machine.this_machine().cores * 1000 / sum(parts.values())
    return {**parts, **whole, "limit": limit, "ratio": whole["rate"] / limit}


def main() -> None:
    """Parse, measure in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--make", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    videos = make(options.videos[0], options.make) if options.make else options.videos
    rounds: dict[Path, list[dict[str, float]]] = {video: [] for video in videos}
    for _ in range(options.rounds):
        for video, found in rounds.items():
            found.append(measured(options.model, video, options.frames))
    print(machine.this_machine().name)
    for video, found in rounds.items():

        def shown(name: str, digits: int = 1, found: list[dict[str, float]] = found) -> str:
            values = [each[name] for each in found]
            low, high = min(values), max(values)
            return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

        print(
            f"{video.name}: processor ms a frame: decode {shown('decode', 2)}, scale {shown('scale', 2)}, inference "
            f"{shown('infer', 2)}, in the stream {shown('stream_ms', 2)}\n  {shown('rate')} frames/s, limit "
            f"{shown('limit')}, ratio {shown('ratio', 2)}; others used {shown('others', 2)} cores"
        )


if __name__ == "__main__":
    main()
