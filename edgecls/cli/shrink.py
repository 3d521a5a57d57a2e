"""`edgecls shrink`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecls.cli.common import attempts_table, console, messages, percent, shown
from edgecls.cli.options import Option, configured
from edgecls.shrinking.config import ShrinkConfig

if TYPE_CHECKING:
    from rich.status import Status

    from edgecls.runtime.store import Artifact
    from edgecls.shrinking.attempts import Attempt, ShrinkCallbacks
    from edgecls.training.history import Epoch


@configured(
    run=Option(argument="RUN"),
    to=Option(metavar="MS|FACTOR"),
    levers=Option(names=("--lever",)),
)
def shrink(config: ShrinkConfig) -> None:
    """Make a run faster with a smaller input, narrower layers or a smaller network that it teaches."""
    from edgecls.shrinking.search import shrink as run_search

    attempts: list[Attempt] = []
    try:
        with messages.status("shrinking") as status:
            run = run_search(config, _callbacks(status, attempts))
    finally:
        if attempts:
            console.print(attempts_table("tried (validation images)", _rows(attempts)))
    if attempts:
        _report(run, config)


def _rows(attempts: list[Attempt]) -> list[dict[str, object]]:
    return [{**each.to_json(), "kept": each.reason is None} for each in attempts]


def _report(run: Artifact, config: ShrinkConfig) -> None:
    """The verdict, on images that decided nothing."""
    made, quality = run.card.lineage.shrunk or {}, run.card.quality
    interval = f"95 %: {made['drop_low_points']:.2f} to {made['drop_high_points']:.2f}"
    console.print(
        f"{made['how']}: top-1 {percent(quality.top1)} on {quality.images} test images, drop "
        f"{made['drop_points']:.2f} points ({interval}), agreement {percent(made['agreement'])}",
        soft_wrap=True,
    )
    if made["drop_points"] > config.max_drop_points:
        console.print(
            f"note: on validation images it stays within {config.max_drop_points:g}, on these it does not",
            soft_wrap=True,
        )
    console.print(
        f"latency here with {made['target']}: {made['latency_ms']:.2f} ms, the run's {made['parent_latency_ms']:.2f} "
        f"ms: {made['speedup']:.2f}x its speed",
        soft_wrap=True,
    )
    console.print(f"run: {shown(run.path)}", soft_wrap=True)


def _callbacks(status: Status, attempts: list[Attempt]) -> ShrinkCallbacks:
    from edgecls.shrinking.attempts import ShrinkCallbacks

    class Printing(ShrinkCallbacks):
        """Shows the running step, prints remarks, and keeps the attempts."""

        def step(self, line: str) -> None:
            status.update(f"shrinking: {line}")

        def remark(self, line: str) -> None:
            console.print(line, soft_wrap=True)

        def epoch(self, attempt: str, epochs: int, epoch: Epoch) -> None:
            status.update(f"{attempt}: epoch {epoch.epoch} of {epochs}, val top-1 {percent(epoch.val_top1)}")

        def ended(self, attempt: Attempt) -> None:
            attempts.append(attempt)

    return Printing()
