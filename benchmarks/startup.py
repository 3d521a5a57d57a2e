"""How long `edgecls --help` takes, against what its two libraries cost alone.

    python benchmarks/startup.py [ROUNDS]

Whole processes, interleaved. Prints the median and the spread of each, and the ratios of the medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

CANDIDATES = {
    "python alone": ["-c", "pass"],
    "import typer and rich": ["-c", "import typer.rich_utils, rich.markdown"],
    "empty typer app --help": [
        "-c",
        "import sys, typer; app = typer.Typer(); app.callback()(lambda: None); app.command('x')(lambda: None); "
        "sys.argv = ['x', '--help']; app()",
    ],
    "edgecls --help": ["-m", "edgecls", "--help"],
}


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seconds: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    for _ in range(rounds):
        for name, arguments in CANDIDATES.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = medians["edgecls --help"]
    for name, values in seconds.items():
        low, *_, high = statistics.quantiles(values, n=10)
        ratio = ours / medians[name]
        print(
            f"{name:24s} {1000 * medians[name]:6.0f} ms  ({1000 * low:.0f} to {1000 * high:.0f})  ours is {ratio:.2f}x"
        )
    print(json.dumps({"rounds": rounds, "median_s": medians}))


if __name__ == "__main__":
    main()
