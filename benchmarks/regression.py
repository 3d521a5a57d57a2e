"""Does `edgecls benchmark --baseline` know a change from noise? Planted slowdowns and unchanged runs, many times.

    python benchmarks/regression.py BUNDLE [--times 10] [--slowdown 0.15] [--limit 10%] [--out FILE]

Each time the bundle is measured as a baseline and measured again: once against the baseline as it is, once against a
baseline in which every call took so much less, which is what a slowdown since then looks like. Counts how often the
command said "slower" (exit code 6).
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgecls.runtime import machine


def command(bundle: Path, folder: Path, *options: str) -> int:
    """Run `edgecls benchmark`; its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "edgecls", "benchmark", str(bundle), "--out", str(folder), *options],
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode


def main() -> None:
    """Parse, measure, count, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--slowdown", type=float, default=0.15)
    parser.add_argument("--limit", default="10%")
    parser.add_argument("--rounds", default="8")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    flagged: dict[str, list[bool]] = {"planted": [], "unchanged": []}
    changes: dict[str, list[Any]] = {"planted": [], "unchanged": []}
    agreed: list[bool] = []
    medians_ms: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
        folder = Path(scratch)
        for turn in range(options.times):
            assert command(options.bundle, folder / "before", "--rounds", options.rounds) == 0
            before = json.loads((folder / "before" / "benchmark.json").read_text())
            planted = copy.deepcopy(before)
            for row in planted["rows"]:
                for each in row["rounds"]:
                    each["p10_ms"] /= 1 + options.slowdown
            for kind, baseline in (("unchanged", before), ("planted", planted)):
                (folder / f"{kind}.json").write_text(json.dumps(baseline))
                compared = ("--baseline", str(folder / f"{kind}.json"), "--fail-if-slower", options.limit)
                code = command(options.bundle, folder / kind, "--rounds", options.rounds, *compared)
                found = json.loads((folder / kind / "benchmark.json").read_text())
                flagged[kind].append(code == 6)
                changes[kind].append(found["selection"]["changes"][0]["slowdown"])
                if kind == "unchanged":
                    interval, now = before["rows"][0]["p50_interval_ms"], found["rows"][0]["p50_interval_ms"]["value"]
                    agreed.append(interval["low"] <= now <= interval["high"])
                    medians_ms.append((interval["value"], now))
            print(f"{turn + 1}: planted {changes['planted'][-1]['value']:+.1%}, "
                  f"unchanged {changes['unchanged'][-1]['value']:+.1%}", flush=True)  # fmt: skip
    print(f"planted {options.slowdown:.0%}: flagged {sum(flagged['planted'])} of {options.times}")
    print(f"unchanged: flagged {sum(flagged['unchanged'])} of {options.times}")
    print(f"another run's median lay in the printed interval {sum(agreed)} times of {options.times}")
    if options.out:
        result = {
            "machine": machine.this_machine().to_json(), "versions": machine.versions(), "slowdown": options.slowdown,
            "limit": options.limit, "flagged": flagged, "changes": changes, "agreed": agreed, "medians_ms": medians_ms,
        }  # fmt: skip
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
