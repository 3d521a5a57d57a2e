"""`edgecls tune`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecls.cli.common import console, messages, percent, shown
from edgecls.cli.options import Option, configured
from edgecls.errors import UsageError
from edgecls.training.config import TrainConfig, read_config
from edgecls.tuning.config import TuneConfig
from edgecls.urls import SecretUrl

if TYPE_CHECKING:
    from edgecls.training.history import Epoch
    from edgecls.tuning.search import Trial, TuningCallbacks


def _range(text: str) -> tuple[int, int]:
    """The fewest and the most of "5-15", or of a number. Raises `UsageError`."""
    match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", text)
    if match is None:
        raise UsageError(f"`epochs` is a number or a range such as 5-15, not {text!r}")
    return int(match[1]), int(match[2] or match[1])


@configured(
    left_out=("base",),
    archs=Option(names=("--arch",)),
    sizes_px=Option(names=("--size",)),
    epochs=Option(parse=_range),
)
def tune(
    config: TuneConfig,
    data: Annotated[
        str | None,
        typer.Argument(help="What edgecls train takes; the embedded digits unless given.", metavar="DATA"),
    ] = None,
    shared: Annotated[
        Path | None,
        typer.Option("--config", help="A TOML file with settings of edgecls train that every trial shares."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of splits, weights and suggestions; that of the file, or 0, unless given.")
    ] = None,
) -> None:
    """Search for the learning rate, batch size, weight decay, augmentation and architecture that train best."""
    from edgecls.report.tune_page import write_page
    from edgecls.tuning import search as tuning

    base = TrainConfig(**(read_config(shared) if shared else {}))
    config = replace(config, base=replace(base, data=data or base.data, seed=base.seed if seed is None else seed))
    config.check()
    out, storage = config.out, config.storage
    messages.print(
        f"study: {config.name} in {SecretUrl(storage) if storage else shown(out)}; "
        "Ctrl-C ends it, and the same command goes on",
        soft_wrap=True,
    )
    trials = tuning.tune(config, _callbacks())
    write_page(config.name, trials, tuning.importances(tuning.open_study(config)), out / "tune.html")
    best = tuning.best_of(trials)
    if best is None:
        raise UsageError("no trial was finished; allow more of them, or a higher `max_latency_ms`")
    top1 = percent(best.val_top1)
    console.print(
        f"best of {len(trials)}: trial {best.number}, val top-1 {top1}, {_shown(best.settings)}", soft_wrap=True
    )
    if (out / tuning.BEST_FOLDER).exists():
        console.print(f"run: {shown(out / tuning.BEST_FOLDER)}; its config.toml trains it again", soft_wrap=True)
    console.print(f"written: {shown(out / 'tune.html')}", soft_wrap=True)


def _shown(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings.items()
    )


def _callbacks() -> TuningCallbacks:
    from edgecls.tuning.search import TuningCallbacks

    class Printing(TuningCallbacks):
        """Prints a line per trial, and a status of the running one."""

        def trial(self, number: int, settings: dict[str, Any]) -> None:
            self.status = messages.status(f"trial {number}: {_shown(settings)}")
            self.status.start()

        def epoch(self, number: int, epoch: Epoch) -> None:
            self.status.update(f"trial {number}: epoch {epoch.epoch}, val top-1 {percent(epoch.val_top1)}")

        def ended(self, trial: Trial, best: bool) -> None:
            self.status.stop()
            end = (
                "  best"
                if best
                else ""
                if trial.state == "complete"
                else f"  ended early: {trial.reason or trial.state}"
            )
            latency = "" if trial.latency_ms is None else f"  {trial.latency_ms:.2f} ms"
            console.print(
                f"trial {trial.number:3d}  val top-1 {percent(trial.val_top1)}{latency}  {_shown(trial.settings)}{end}",
                soft_wrap=True,
            )

    return Printing()
