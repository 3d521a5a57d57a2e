"""`edgecls tune`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecls.cli.common import console, messages, percent, shown
from edgecls.errors import UsageError
from edgecls.urls import SecretUrl

if TYPE_CHECKING:
    from edgecls.training.history import Epoch
    from edgecls.tuning.search import Trial, TuningCallbacks


def tune(
    data: Annotated[
        str | None,
        typer.Argument(help="What edgecls train takes; the embedded digits unless given.", metavar="[DATA]"),
    ] = None,
    arch: Annotated[list[str] | None, typer.Option(help="Architectures to choose from; give it several times.")] = None,
    size: Annotated[list[int] | None, typer.Option(help="Input sizes to choose from; give it several times.")] = None,
    epochs: Annotated[str | None, typer.Option(help="A number, or a range to choose from, such as 5-15.")] = None,
    trials: Annotated[int, typer.Option(help="How many to run, beside those that the study holds.")] = 20,
    minutes: Annotated[float | None, typer.Option(help="Begin no trial after so many minutes.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Train no network that is slower here, float32 in ONNX Runtime at batch 1.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with settings of edgecls train that every trial shares.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the study, its best run and its report.")] = Path("runs/tune"),
    storage: Annotated[
        str | None,
        typer.Option(help="A database that machines share, such as postgresql://...; a file in --out unless given."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the study in its storage.")] = "edgecls",
    seed: Annotated[int, typer.Option(help="Seed of splits, weights and suggestions.")] = 0,
) -> None:
    """Search for the learning rate, batch size, weight decay, augmentation and architecture that train best."""
    from dataclasses import replace

    from edgecls.report.tune_page import write_page
    from edgecls.training.config import TrainConfig, read_config
    from edgecls.tuning import search as tuning
    from edgecls.tuning.config import TuneConfig

    base = TrainConfig(**(read_config(config) if config else {}))
    base = replace(base, data=data or base.data, seed=seed)
    wanted = TuneConfig(
        base=base,
        folder=out,
        archs=tuple(arch or [base.arch]),
        sizes_px=tuple(size or ()),
        epochs=_range(epochs),
        trials=trials,
        timeout_s=None if minutes is None else 60 * minutes,
        max_latency_ms=max_latency_ms,
        storage=storage,
        name=name,
    )
    messages.print(
        f"study: {name} in {SecretUrl(storage) if storage else shown(out)}; "
        "Ctrl-C ends it, and the same command goes on",
        soft_wrap=True,
    )
    found = tuning.tune(wanted, _callbacks())
    write_page(name, found, tuning.importances(tuning.open_study(wanted)), out / "tune.html")
    best = tuning.best_of(found)
    if best is None:
        raise UsageError("no trial was finished; allow more of them, or a higher --max-latency-ms")
    top1 = percent(best.val_top1)
    console.print(
        f"best of {len(found)}: trial {best.number}, val top-1 {top1}, {_shown(best.settings)}", soft_wrap=True
    )
    if (out / tuning.BEST_FOLDER).exists():
        console.print(f"run: {shown(out / tuning.BEST_FOLDER)}; its config.toml trains it again", soft_wrap=True)
    console.print(f"written: {shown(out / 'tune.html')}", soft_wrap=True)


def _range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", text)
    if match is None:
        raise UsageError(f"--epochs is a number or a range such as 5-15, not {text!r}")
    return int(match[1]), int(match[2] or match[1])


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
