"""`edgecls train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecls.cli.common import console, draw, messages, percent, shown
from edgecls.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from edgecls.data.dataset import Dataset
    from edgecls.training.history import Epoch, TrainingCallbacks
    from edgecls.training.weights import InitialWeights

AUGMENTATION, LEARNING, COMPUTING = "Augmentation", "Learning", "Computing"
ARCH_HELP = (
    "Torchvision's MobileNet, ResNet, VGG, EfficientNet, ShuffleNet, SqueezeNet, MNASNet and RegNet by name, "
    "simple_cnn (or simple_cnn:widths=16-32,pool=avg,dense=64,dropout=0.3), or timm/NAME."
)


def train(
    ctx: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            help="A folder with one folder of images per class, a CSV or JSONL manifest, or the name of a torchvision "
            "data set such as cifar10; the embedded digits unless given.",
            metavar="[DATA]",
        ),
    ] = None,
    arch: Annotated[str, typer.Option(help=ARCH_HELP)] = "mobilenet_v3_small",
    weights: Annotated[
        str, typer.Option(help="auto, none, imagenet, or a weights file or run to start from.")
    ] = "auto",
    epochs: Annotated[int | None, typer.Option(help="10 for pretrained weights and digits, else 30.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images per optimizer step, over all processes.")] = 32,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate; suits architecture and weights unless given.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the network's input in pixels; what its weights were made for, digits 64."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of splits, weights and augmentation.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; a new one under runs/ unless given.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the training that was ended in this folder; last is the newest one."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings from a TOML file, such as a run's config.toml; options come on top.")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(help="none, light, medium or strong; medium, for digits light.", rich_help_panel=AUGMENTATION),
    ] = None,
    mirror: Annotated[
        bool,
        typer.Option(
            help="Whether a mirrored image is of the same class (not so for text).", rich_help_panel=AUGMENTATION
        ),
    ] = True,
    policy: Annotated[
        str | None,
        typer.Option(help="trivial (TrivialAugment), rand (RandAugment) or none.", rich_help_panel=AUGMENTATION),
    ] = None,
    erase: Annotated[
        float | None,
        typer.Option(help="Share of the images in which a rectangle is erased.", rich_help_panel=AUGMENTATION),
    ] = None,
    mixup: Annotated[
        float | None, typer.Option(help="Blend images; the Beta distribution's alpha.", rich_help_panel=AUGMENTATION)
    ] = None,
    cutmix: Annotated[
        float | None,
        typer.Option(help="Paste images into each other; the same alpha.", rich_help_panel=AUGMENTATION),
    ] = None,
    optimizer: Annotated[
        str,
        typer.Option(help="adamw, adam, sgd (Nesterov's), rmsprop or timm/NAME.", rich_help_panel=LEARNING),
    ] = "adamw",
    schedule: Annotated[
        str,
        typer.Option(
            help="Of the learning rate: one-cycle, cosine (with warm-up), step, plateau or constant.",
            rich_help_panel=LEARNING,
        ),
    ] = "one-cycle",
    weight_decay: Annotated[
        float, typer.Option(help="Of weights; norms and biases are left alone.", rich_help_panel=LEARNING)
    ] = 0.02,
    loss: Annotated[str, typer.Option(help="cross-entropy, focal or bce.", rich_help_panel=LEARNING)] = "cross-entropy",
    label_smoothing: Annotated[
        float, typer.Option(help="Share of each label spread over all classes.", rich_help_panel=LEARNING)
    ] = 0.1,
    balance: Annotated[
        bool,
        typer.Option(
            "--balance",
            help="Class weights in the loss, for rare classes.",
            rich_help_panel=LEARNING,
        ),
    ] = False,
    dropout: Annotated[
        float | None, typer.Option(help="In place of the architecture's own.", rich_help_panel=LEARNING)
    ] = None,
    freeze: Annotated[
        str,
        typer.Option(
            help="What does not learn: none; backbone, all but the last layer; a number of blocks from the front; or "
            "gradual, block by block it begins to.",
            rich_help_panel=LEARNING,
        ),
    ] = "none",
    layer_decay: Annotated[
        float,
        typer.Option(help="Learning rate of a block as a share of the next one's.", rich_help_panel=LEARNING),
    ] = 1.0,
    ema: Annotated[
        float | None,
        typer.Option(help="Keep an average of the weights that decays so, such as 0.999.", rich_help_panel=LEARNING),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A run whose answers are learned too (distillation).", rich_help_panel=LEARNING)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Early stopping: epochs without improvement.", rich_help_panel=LEARNING),
    ] = None,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.", rich_help_panel=LEARNING)] = 5.0,
    accumulate: Annotated[
        int,
        typer.Option(help="Gradient accumulation steps, for less memory.", rich_help_panel=COMPUTING),
    ] = 1,
    precision: Annotated[
        str,
        typer.Option(help="fp32, bf16, fp16, or auto: bf16 or fp16 on GPUs.", rich_help_panel=COMPUTING),
    ] = "auto",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Deterministic algorithms only.", rich_help_panel=COMPUTING)
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Write curves to tensorboard/ beside the run.", rich_help_panel=COMPUTING),
    ] = False,
) -> None:  # every option is read from the context, by its name
    """Train or fine-tune a classifier on a folder of images."""
    from edgecls.report.figures import training_curves
    from edgecls.training.checkpoint import unfinished
    from edgecls.training.config import TrainConfig, read_config
    from edgecls.training.loop import resume as go_on
    from edgecls.training.loop import train as run_training

    with _progress() as progress:
        if resume is not None:
            _require_alone(ctx)
            run, metrics = go_on(unfinished(resume), _callbacks(progress))
        else:
            settings = {**(read_config(config) if config else {}), **_given(ctx)}
            run, metrics = run_training(TrainConfig(**settings), _callbacks(progress))
    if int(os.environ.get("RANK", "0")):
        return  # of several processes the first one speaks
    draw(lambda: training_curves(run))
    console.print(
        f"test split: top-1 {percent(metrics.top1)}, macro F1 {percent(metrics.macro_f1)} over {metrics.images} images"
    )
    console.print(f"run: {shown(run)}", soft_wrap=True)


def _given(ctx: typer.Context) -> dict[str, Any]:
    """What the command line says, by the names of the settings; defaults are the settings' own."""
    return {
        {"size": "size_px"}.get(name, name): value
        for name, value in ctx.params.items()
        if name not in ("config", "resume") and _on_command_line(ctx, name)
    }


def _on_command_line(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _require_alone(ctx: typer.Context) -> None:
    """Raise `UsageError` where anything but --resume was given: a training goes on with what it began with."""
    for parameter in ctx.command.params:
        if parameter.name != "resume" and _on_command_line(ctx, parameter.name or ""):
            told = parameter.opts[0] if parameter.opts and parameter.opts[0].startswith("-") else "DATA"
            raise UsageError(f"--resume goes on with the settings that the training began with; leave {told} out")


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
            self.epochs = epochs
            self.task = progress.add_task("", total=epochs * batches, completed=done, loss="")

        def remark(self, line: str) -> None:
            console.print(line, soft_wrap=True)

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
