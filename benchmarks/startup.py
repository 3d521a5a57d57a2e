"""How long commands take to start: `edgecls --help`, and `edgecls predict` from the command to the first label.

    python benchmarks/startup.py [--rounds N] [--image FILE --model BUNDLE ...]

Whole processes, interleaved, after one start that fills the cache. `--help` stands beside what its two libraries cost
alone; `predict` beside the bare runtime in a script of a few lines that reads the same file. Prints the median and the
spread of each, the ratios of the medians, and the slowest imports of the first model's `predict`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

HELP = {
    "python alone": ["-c", "pass"],
    "import typer and rich": ["-c", "import typer.rich_utils, rich.markdown"],
    "empty typer app --help": [
        "-c",
        "import sys, typer; app = typer.Typer(); app.callback()(lambda: None); app.command('x')(lambda: None); "
        "sys.argv = ['x', '--help']; app()",
    ],
    "edgecls --help": ["-m", "edgecls", "--help"],
}
BARE = {
    "onnx": "session = __import__('onnxruntime').InferenceSession(model + '/model.onnx'); "
    "print(session.run(None, {session.get_inputs()[0].name: image})[0].argmax())",
    "openvino": "compiled = __import__('openvino').Core().compile_model(model + '/model.xml', 'CPU'); "
    "print(compiled(image)[0].argmax())",
}
READ = (
    "import sys, cv2; model, file, side = sys.argv[1:]; image = cv2.imread(file); "
    "image = cv2.resize(image, (int(side), int(side)))[None, :, :, ::-1].copy(); "
)
SHOWN_IMPORTS = 12


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--model", type=Path, action="append", default=[])
    given = parser.parse_args()
    if given.model and not given.image:
        parser.error("--model needs an --image")
    medians = measured(HELP, given.rounds)
    told(medians, "edgecls --help", HELP)
    for model in given.model:
        card = json.loads((model / "card.json").read_text())
        side = str(card["preprocess"]["height_px"])
        candidates = {
            "bare runtime": ["-c", READ + BARE[card["target"]], str(model), str(given.image), side],
            "edgecls predict": ["-m", "edgecls", "predict", str(given.image), "--model", str(model)],
        }
        print(f"\n{model.name}")
        told(measured(candidates, given.rounds), "edgecls predict", candidates)
    if given.model:
        print(f"\nslowest imports of predict with {given.model[0].name}, with what they import, in ms")
        command = ["-X", "importtime", "-m", "edgecls", "predict", str(given.image), "--model", str(given.model[0])]
        for name, spent_ms in imports(command)[:SHOWN_IMPORTS]:
            print(f"  {spent_ms:6.0f}  {name}")


def measured(candidates: dict[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each whole process, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, arguments in candidates.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            if turn:  # the first start fills caches
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def told(seconds: dict[str, list[float]], ours: str, candidates: dict[str, list[str]]) -> None:
    """Print medians, spreads and ratios."""
    own = statistics.median(seconds[ours])
    for name in candidates:
        low, high = min(seconds[name]), max(seconds[name])
        median = statistics.median(seconds[name])
        ratio = own / median
        print(f"{name:24s} {1000 * median:6.0f} ms  ({1000 * low:.0f} to {1000 * high:.0f})  {ours} takes {ratio:.2f}x")


def imports(command: list[str]) -> list[tuple[str, float]]:
    """Modules by the time of their import in ms, those that they import included."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    lines = [
        line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if "import time:" in line
    ]
    spent = [(name.strip(), int(cumulative) / 1000) for _, cumulative, name in lines if cumulative.strip().isdigit()]
    return sorted(spent, key=lambda each: -each[1])


if __name__ == "__main__":
    main()
