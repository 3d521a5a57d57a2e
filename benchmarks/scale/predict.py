"""What parts and a cluster cost `edgecls predict`, and whether kills lose or double an image.

    python benchmarks/scale/predict.py MODEL FOLDER [--images 4000] [--rounds 3] [--kills 20] [--seed 0]

In turn, so many rounds, over a list of FOLDER's images under as many names as are asked for: one Parquet file, parts by
the local engine, parts by Ray with one worker of all CPUs and with one worker a CPU. For each the whole command from
its start; and for parts, by the times of their files, the images/s from the first part to the last, which leave out
what starts before, and their ratio to the local engine's of the same round. Median and range.

Then, for each of the local engine and Ray, jobs of a twentieth of the images a kill are ended by SIGKILL at random
moments, of the driver or, with Ray, of a worker, until one ends well; its rows are joined with the list.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

WAYS = {
    "one file": ("one.parquet",),
    "parts": ("parts/",),
    "Ray, one worker": ("one/", "--engine", "ray", "--workers", "1", "--worker-cpus", "{cpus}"),
    "Ray, a worker a CPU": ("each/", "--engine", "ray", "--worker-cpus", "1"),
}


def main() -> None:
    """Measure, kill, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    from edgecls.concurrency import usable_cpus
    from edgecls.runtime import machine

    print(f"{machine.this_machine().cpu}, {usable_cpus()} cores, {given.images} images, {given.model.name}")
    with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
        names = make_list(given.folder, Path(scratch), given.images)
        if given.rounds:
            measure(given.model, Path(scratch), given.rounds, usable_cpus())
        chance = random.Random(given.seed)
        for engine in ("local", "ray") if given.kills else ():
            kill(given.model, Path(scratch), engine, given.kills, names, chance)


def make_list(folder: Path, scratch: Path, count: int) -> list[str]:
    """Write list.txt, of so many names of the folder's images; return these."""
    from edgecls.imaging.decode import find_images

    found, names = [path.relative_to(folder) for path in find_images(folder)], list[str]()
    while len(names) < count:
        link = scratch / f"copy-{len(names) // len(found):05d}"
        link.symlink_to(folder.resolve())
        names += [str(link / path) for path in found]
    names = names[:count]
    (scratch / "list.txt").write_text("".join(f"{name}\n" for name in names))
    return names


def command(model: Path, scratch: Path, out: str, *options: str) -> list[str]:
    """The command line of one job."""
    base = [sys.executable, "-m", "edgecls", "predict", "--list", str(scratch / "list.txt"), "--model", str(model)]
    return [*base, "--out", f"{scratch}/{out}", *options]


def measure(model: Path, scratch: Path, rounds: int, cpus: int) -> None:
    """Print what each way takes."""
    wall_s: dict[str, list[float]] = {name: [] for name in WAYS}
    rates: dict[str, list[float]] = {name: [] for name in WAYS if name != "one file"}
    for turn in range(rounds):
        for name, (out, *options) in WAYS.items():
            line = command(model, scratch, f"{turn}-{out}", *(option.format(cpus=cpus) for option in options))
            begun_s = time.perf_counter()
            subprocess.run(line, check=True, capture_output=True)
            wall_s[name].append(time.perf_counter() - begun_s)
            if name in rates:
                rates[name].append(steady(scratch / f"{turn}-{out}"))
    print(f"{'':22s}{'command, s':>22s}{'images/s':>22s}{'of the local engine':>22s}")
    for name in WAYS:
        found = rates.get(name, [])
        ratios = [rate / local for rate, local in zip(found, rates["parts"], strict=False)]
        print(f"{name:22s}{shown(wall_s[name], 1)}{shown(found, 0)}{shown(ratios, 2)}", flush=True)


def steady(out: Path) -> float:
    """Images/s from the first part of a folder to the last."""
    parts = sorted(out.glob("part-*"), key=lambda path: path.stat().st_mtime_ns)
    ends_s = [part.stat().st_mtime_ns / 1e9 for part in (parts[0], parts[-1])]
    return (len(rows_of(out)) - len(rows_in(parts[0]))) / (ends_s[1] - ends_s[0])


def shown(values: list[float], digits: int) -> str:
    """Median and range, where there is any."""
    if not values:
        return " " * 22
    text = f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return f"{text:>22s}"


def kill(model: Path, scratch: Path, engine: str, times: int, names: list[str], chance: random.Random) -> None:
    """Kill a job so many times, begin it again each time, and look at what came out."""
    out = scratch / f"killed-{engine}"
    shard_images = max(1, len(names) // (20 * times))
    line = command(
        model, scratch, f"{out.name}/", "--shard-images", str(shard_images), "--no-check", "--engine", engine
    )
    killed = {"driver": 0, "worker": 0}
    while sum(killed.values()) < times:
        process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
        there = len(list(out.glob("part-*")))
        wanted = there + chance.randint(1, 15)
        while process.poll() is None and len(list(out.glob("part-*"))) < wanted:
            time.sleep(0.005)
        if engine == "ray" and chance.random() < 0.5 and kill_worker(process.pid):
            killed["worker"] += 1
            time.sleep(chance.uniform(0, 1))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        killed["driver"] += 1
    done = subprocess.run(line, capture_output=True, text=True)
    rows = rows_of(out)
    lost, doubled, foreign = len(set(names) - set(rows)), len(rows) - len(set(rows)), len(set(rows) - set(names))
    print(
        f"{engine}: {killed['driver']} kills of the driver, {killed['worker']} of a worker; "
        f"exit code {done.returncode}; of {len(names)} images {lost} lost, {doubled} doubled, {foreign} foreign",
        flush=True,
    )


def kill_worker(driver: int) -> bool:
    """Kill one of the actors of a driver; whether there was one."""
    import psutil

    children = psutil.Process(driver).children(recursive=True)
    actors = [child for child in children if "ray::Actor" in " ".join(child.cmdline())]
    for actor in actors[:1]:
        actor.send_signal(signal.SIGKILL)
    return bool(actors)


def rows_of(out: Path) -> list[str]:
    """The images of all rows of all parts."""
    return [name for part in out.glob("part-*") for name in rows_in(part)]


def rows_in(part: Path) -> list[str]:
    """The images of the rows of a part."""
    from pyarrow import parquet

    names: list[str] = parquet.read_table(part, columns=["image"])[0].to_pylist()
    return names


if __name__ == "__main__":
    main()
