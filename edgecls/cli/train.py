"""`edgecls train`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecls.cli.common import console, draw, messages, percent, shown
from edgecls.cli.options import Option, configured, given, on_command_line
from edgecls.errors import UsageError
from edgecls.training.config import TrainConfig, read_config

if TYPE_CHECKING:
    from rich.progress import Progress

    from edgecls.data.dataset import Dataset
    from edgecls.training.history import Epoch, TrainingCallbacks
    from edgecls.training.weights import InitialWeights

AUGMENTATION, LEARNING, COMPUTING = "Augmentation", "Learning", "Computing"


@configured(
    panels={
        AUGMENTATION: ("augment", "mirror", "policy", "erase", "mixup", "cutmix"),
        LEARNING: (
            "optimizer", "schedule", "weight_decay", "loss", "label_smoothing", "balance", "select_by", "freeze",
            "layer_decay", "dropout", "ema", "teacher", "patience", "folds", "clip",
        ),
        COMPUTING: ("accumulate", "precision", "deterministic", "cache", "tensorboard"),
    },
    data=Option(argument="DATA"),
)  # fmt: skip
def train(
    ctx: typer.Context,
    config: TrainConfig,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the training that was ended in this folder; last is the newest one."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--config", help="Settings from a TOML file, such as a run's config.toml; options come on top."),
    ] = None,
) -> None:
    """Train or fine-tune a classifier on a folder of images."""
    from edgecls.report.figures import training_curves
    from edgecls.training.checkpoint import unfinished
    from edgecls.training.loop import resume as go_on
    from edgecls.training.loop import train as run_training

    with _progress() as progress:
        if resume is not None:
            _require_alone(ctx)
            run, metrics = go_on(unfinished(resume), _callbacks(progress))
        else:
            typed = given(ctx, TrainConfig)
            settings = {name: value for name, value in (read_config(file) if file else {}).items() if name not in typed}
            run, metrics = run_training(replace(config, **settings), _callbacks(progress))
    if int(os.environ.get("RANK", "0")):
        return  # of several processes the first one speaks
    draw(lambda: training_curves(run))
    console.print(
        f"test split: top-1 {percent(metrics.top1)}, macro F1 {percent(metrics.macro_f1)} over {metrics.images} images"
    )
    console.print(f"run: {shown(run)}", soft_wrap=True)


def _require_alone(ctx: typer.Context) -> None:
    """Raise `UsageError` where anything but --resume was given: a training goes on with what it began with."""
    for parameter in ctx.command.params:
        if parameter.name != "resume" and on_command_line(ctx, parameter.name or ""):
            raise UsageError(
                f"`resume` goes on with the settings that the training began with; leave `{parameter.name}` out"
            )


def _progress() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        console=messages,
        transient=True,
        disable=not messages.is_terminal,
    )


def _callbacks(progress: Progress) -> TrainingCallbacks:
    from edgecls.training.history import TrainingCallbacks

    class Drawing(TrainingCallbacks):
        """Draws a bar of optimizer steps and prints a line per epoch."""

        def started(
            self, dataset: Dataset, start: InitialWeights, epochs: int, batches: int, device: str, done: int
        ) -> None:
            counts = ", ".join(f"{len(samples)} {split}" for split, samples in dataset.splits.items())
            console.print(f"data: {dataset.source.name}, {len(dataset.classes)} classes, {counts}", soft_wrap=True)
            for reason in list(dataset.skipped.values())[:10]:
                console.print(f"skipped: {reason}", soft_wrap=True)
            if dataset.skipped:
                console.print(f"skipped {len(dataset.skipped)} images; all of them stand in the run's data.json")
            console.print(start.line, soft_wrap=True)
            going_on = f", {done / batches:.3g} of them done" if done else ""
            console.print(f"training {epochs} epochs on the {device}{going_on}")
            self._watch("", epochs, batches, done)

        def fold(self, number: int, folds: int, epochs: int, batches: int) -> None:
            self._watch(f"fold {number} of {folds}, ", epochs, batches, 0)

        def _watch(self, what: str, epochs: int, batches: int, done: int) -> None:
            for task in progress.task_ids:
                progress.remove_task(task)
            self.what, self.epochs = what, epochs
            self.task = progress.add_task("", total=epochs * batches, completed=done, loss="")

        def remark(self, line: str) -> None:
            console.print(line, soft_wrap=True)

        def batch(self, epoch: int, loss: float) -> None:
            step = f"{self.what}epoch {epoch}/{self.epochs}"
            progress.update(self.task, advance=1, description=step, loss=f"loss {loss:.3f}")

        def epoch(self, epoch: Epoch) -> None:
            chosen_by = f"val macro F1 {percent(epoch.val_macro_f1)}  " if epoch.selected_by == "macro-f1" else ""
            console.print(
                f"epoch {epoch.epoch:3d}  train loss {epoch.train_loss:.4f}  val loss {epoch.val_loss:.4f}  "
                f"val top-1 {percent(epoch.val_top1)}  {chosen_by}{epoch.images_per_s:.0f} images/s"
            )

        def stopped(self, path: Path) -> None:
            messages.print(f"go on later with: edgecls train --resume {shown(path)}", soft_wrap=True)

    return Drawing()
