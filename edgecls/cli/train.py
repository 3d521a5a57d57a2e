"""`edgecls train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecls.cli.common import console, draw, messages, percent, shown
from edgecls.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from edgecls.data.dataset import Dataset
    from edgecls.train.loop import Epoch, Watcher
    from edgecls.train.weights import StartingPoint

ARCH_HELP = (
    "mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large, resnet18, resnet34, resnet50, resnet101, resnet152, "
    "efficientnet_b0 to b2, shufflenet_v2_x0_5 and x1_0, squeezenet1_0 and 1_1, regnet_x_400mf, regnet_y_400mf, "
    "regnet_y_1_6gf, simple_cnn, vgg16 or timm/NAME; mobilenet_v3_small unless told otherwise."
)


def train(
    ctx: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            help="A folder with one folder of images per class; the embedded digits unless given.", metavar="[DATA]"
        ),
    ] = None,
    arch: Annotated[str | None, typer.Option(help=ARCH_HELP)] = None,
    weights: Annotated[
        str, typer.Option(help="auto, none, imagenet, or a weights file or run to start from.")
    ] = "auto",
    epochs: Annotated[int | None, typer.Option(help="10 for pretrained weights and digits, else 30.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images per optimizer step.")] = 32,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate; suits architecture and weights unless given.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the network's input in pixels; 224, digits 64.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of splits, weights and augmentation.")] = 0,
    mirror: Annotated[
        bool, typer.Option(help="Whether a mirrored image is of the same class (not so for text).")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; a new one under runs/ unless given.")] = None,
    optimizer: Annotated[str, typer.Option(help="adamw, adam, sgd (with Nesterov's momentum) or rmsprop.")] = "adamw",
    schedule: Annotated[
        str, typer.Option(help="Of the learning rate: one-cycle, cosine (with warm-up), step or constant.")
    ] = "one-cycle",
    weight_decay: Annotated[float, typer.Option(help="Of weights; norms and biases are left alone.")] = 0.02,
    loss: Annotated[str, typer.Option(help="cross-entropy, focal or bce.")] = "cross-entropy",
    label_smoothing: Annotated[float, typer.Option(help="Share of each label spread over all classes.")] = 0.1,
    balance: Annotated[bool, typer.Option("--balance", help="Give rare classes the same say in the loss.")] = False,
    freeze: Annotated[
        str, typer.Option(help="What does not learn: none, or backbone, all but the last layer.")
    ] = "none",
    patience: Annotated[int | None, typer.Option(help="End after so many epochs without a better one.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the training that was ended in this folder; last is the newest one."),
    ] = None,
) -> None:
    """Train or fine-tune a classifier on a folder of images."""
    from edgecls.models import DEFAULT_ARCH
    from edgecls.report.figures import training_curves
    from edgecls.train.loop import TrainConfig
    from edgecls.train.loop import resume as go_on
    from edgecls.train.loop import train as run_training

    with _progress() as progress:
        if resume is not None:
            _require_alone(ctx)
            run, metrics = go_on(_unfinished(resume), _watcher(progress))
        else:
            config = TrainConfig(
                data, arch or DEFAULT_ARCH, weights, epochs, batch_size, lr, size, seed, mirror, out, optimizer,
                schedule, weight_decay, loss, label_smoothing, balance, freeze, patience,
            )  # fmt: skip
            run, metrics = run_training(config, _watcher(progress))
    draw(lambda: training_curves(run))
    console.print(
        f"test split: top-1 {percent(metrics.top1)}, macro F1 {percent(metrics.macro_f1)} over {metrics.images} images"
    )
    console.print(f"run: {shown(run)}", soft_wrap=True)


def _require_alone(ctx: typer.Context) -> None:
    """Raise `UsageError` where anything but --resume was given: a training goes on with what it began with."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name != "resume" and source is not None and source.name == "COMMANDLINE":
            told = parameter.opts[0] if parameter.opts and parameter.opts[0].startswith("-") else "DATA"
            raise UsageError(f"--resume goes on with the settings that the training began with; leave {told} out")


def _unfinished(given: Path) -> Path:
    """The folder of a training to go on with. Raises `ArtefactError` where `last` finds none."""
    from edgecls.errors import ArtefactError
    from edgecls.runs import runs_folder
    from edgecls.train.checkpoint import CHECKPOINT_FILE

    if given != Path("last"):
        return given
    found = sorted(runs_folder().glob(f"*/{CHECKPOINT_FILE}"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise ArtefactError(f"no training in {runs_folder()}/ is unfinished")
    return found[-1].parent


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


def _watcher(progress: Progress) -> Watcher:
    from edgecls.train.loop import Watcher

    class Drawing(Watcher):
        """Draws a bar of optimizer steps and prints a line per epoch."""

        def started(
            self, dataset: Dataset, start: StartingPoint, epochs: int, batches: int, device: str, done: int
        ) -> None:
            counts = ", ".join(f"{len(samples)} {split}" for split, samples in dataset.splits.items())
            console.print(f"data: {dataset.source.name}, {len(dataset.classes)} classes, {counts}", soft_wrap=True)
            for reason in list(dataset.skipped.values())[:10]:
                console.print(f"skipped: {reason}", soft_wrap=True)
            if dataset.skipped:
                console.print(f"skipped {len(dataset.skipped)} images; all of them stand in the run's data.json")
            console.print(start.line, soft_wrap=True)
            going_on = f", {done} of them done" if done else ""
            console.print(f"training {epochs} epochs on the {device}{going_on}")
            self.epochs = epochs
            self.task = progress.add_task("", total=epochs * batches, completed=done * batches, loss="")

        def batch(self, epoch: int, loss: float) -> None:
            progress.update(self.task, advance=1, description=f"epoch {epoch}/{self.epochs}", loss=f"loss {loss:.3f}")

        def epoch(self, epoch: Epoch) -> None:
            console.print(
                f"epoch {epoch.epoch:3d}  train loss {epoch.train_loss:.4f}  val loss {epoch.val_loss:.4f}  "
                f"val top-1 {percent(epoch.val_top1)}  {epoch.images_per_s:.0f} images/s"
            )

        def stopped(self, place: Path) -> None:
            messages.print(f"go on later with: edgecls train --resume {shown(place)}", soft_wrap=True)

    return Drawing()
