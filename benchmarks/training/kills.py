"""SIGKILL at random moments: what is lost, and whether the training arrives at the same weights.

    python benchmarks/training/kills.py [DATA] [--times 10] [--epochs 12] [--seed 0] [further options of edgecls train]

A training runs once undisturbed. Another one with the same settings is killed so many times, each time at a random
moment after its start, and goes on with `--resume` from its last checkpoint. Prints for each kill the epochs that were
written before it and after it, and at the end whether losses and weights are the same to the bit.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgecls.files import sha256
from edgecls.training.checkpoint import CHECKPOINT_FILE, read_checkpoint

STARTS_S = 4.0
"""Killed before a training has begun there is nothing to lose."""


def epochs_in(path: Path) -> int:
    """Whole epochs in a training's checkpoint."""
    return len(read_checkpoint(path).history) if (path / CHECKPOINT_FILE).exists() else 0


def main() -> None:
    """Parse, train, kill, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="digits")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--epochs", default="12")
    parser.add_argument("--seed", type=int, default=0)
    options, rest = parser.parse_known_args()
    chance = random.Random(options.seed)
    edgecls = [sys.executable, "-m", "edgecls", "train"]
    with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
        whole, path = Path(scratch) / "whole", Path(scratch) / "killed"
        begin = [*edgecls, options.data, "--epochs", options.epochs, *rest]
        begun = time.perf_counter()
        subprocess.run([*begin, "--out", str(whole)], check=True, capture_output=True)
        took_s = time.perf_counter() - begun
        kills = 0
        while kills < options.times:
            there = (path / CHECKPOINT_FILE).exists()
            before = epochs_in(path)
            command = [*edgecls, "--resume", str(path)] if there else [*begin, "--out", str(path)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            delay_s = chance.uniform(STARTS_S, STARTS_S + took_s / 6)
            try:
                process.wait(delay_s)
                print("it was done before it could be killed again")
                break
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
            kills += 1
            after = epochs_in(path)
            print(f"kill {kills} after {delay_s:.1f} s: {before} epochs written before, {after} after", flush=True)
            assert after >= before, "a written epoch was lost"
            if path.exists() and not (path / CHECKPOINT_FILE).exists() and not (path / "card.json").exists():
                for left in path.iterdir():
                    left.unlink()
                path.rmdir()
        if not (path / "card.json").exists():
            there = (path / CHECKPOINT_FILE).exists()
            end = [*edgecls, "--resume", str(path)] if there else [*begin, "--out", str(path)]
            subprocess.run(end, check=True, capture_output=True)
        losses = [
            [row["train_loss"] for row in csv.DictReader((folder / "metrics.csv").open())] for folder in (whole, path)
        ]
        same = sha256(whole / "model.safetensors") == sha256(path / "model.safetensors")
        print(f"{kills} kills; losses {'the same' if losses[0] == losses[1] else 'differ'}; "
              f"weights {'the same' if same else 'differ'}")  # fmt: skip


if __name__ == "__main__":
    main()
