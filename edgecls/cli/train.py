"""`edgecls train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecls.cli.common import console, draw, messages, percent, shown

if TYPE_CHECKING:
    from rich.progress import Progress

    from edgecls.data.dataset import Dataset
    from edgecls.train.loop import Epoch, Watcher
    from edgecls.train.weights import StartingPoint

ARCH_HELP = (
    "mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large, resnet18, resnet34, resnet50, simple_cnn, vgg16 or "
    "timm/NAME; mobilenet_v3_small unless told otherwise."
)


def train(
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
) -> None:
    """Train or fine-tune a classifier on a folder of images."""
    from edgecls.models import DEFAULT_ARCH
    from edgecls.report.figures import training_curves
    from edgecls.train.loop import TrainConfig
    from edgecls.train.loop import train as run_training

    config = TrainConfig(data, arch or DEFAULT_ARCH, weights, epochs, batch_size, lr, size, seed, mirror, out)
    with _progress() as progress:
        run, metrics = run_training(config, _watcher(progress))
    draw(lambda: training_curves(run))
    console.print(
        f"test split: top-1 {percent(metrics.top1)}, macro F1 {percent(metrics.macro_f1)} over {metrics.images} images"
    )
    console.print(f"run: {shown(run)}", soft_wrap=True)


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

        def started(self, dataset: Dataset, start: StartingPoint, epochs: int, batches: int, device: str) -> None:
            counts = ", ".join(f"{len(samples)} {split}" for split, samples in dataset.splits.items())
            console.print(f"data: {dataset.source.name}, {len(dataset.classes)} classes, {counts}", soft_wrap=True)
            for reason in list(dataset.skipped.values())[:10]:
                console.print(f"skipped: {reason}", soft_wrap=True)
            if dataset.skipped:
                console.print(f"skipped {len(dataset.skipped)} images; all of them stand in the run's data.json")
            console.print(start.line, soft_wrap=True)
            console.print(f"training {epochs} epochs on the {device}")
            self.epochs = epochs
            self.task = progress.add_task("epoch 1", total=epochs * batches, loss="")

        def batch(self, epoch: int, loss: float) -> None:
            progress.update(self.task, advance=1, description=f"epoch {epoch}/{self.epochs}", loss=f"loss {loss:.3f}")

        def epoch(self, epoch: Epoch) -> None:
            console.print(
                f"epoch {epoch.epoch:3d}  train loss {epoch.train_loss:.4f}  val loss {epoch.val_loss:.4f}  "
                f"val top-1 {percent(epoch.val_top1)}  {epoch.images_per_s:.0f} images/s"
            )

    return Drawing()
