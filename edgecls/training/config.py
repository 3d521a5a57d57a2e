"""What a training is asked for: one flat record that the command line, a TOML file and the Python API all fill."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from edgecls.data.check import MAX_IMBALANCE
from edgecls.errors import OutputError, UsageError, first_line
from edgecls.files import parse_toml, read_text, shortened, write_text
from edgecls.settings import Config, setting, settings_of
from edgecls.training.balance import Balance
from edgecls.training.kept import Keeping

CONFIG_FILE = "config.toml"
MIN_SIZE_PX = 32
MAX_SIZE_PX = 2048
Schedule = Literal["one-cycle", "cosine", "step", "plateau", "constant"]
Loss = Literal["cross-entropy", "focal", "bce"]
Preset = Literal["none", "light", "medium", "strong"]
Policy = Literal["none", "trivial", "rand"]
TrainingPrecision = Literal["auto", "fp32", "bf16", "fp16"]
SelectBy = Literal["auto", "top1", "macro-f1"]
_BALANCE_WAS = {False: "none", True: "weights"}
"""What was a switch in earlier versions."""
FREEZES = ("none", "backbone", "gradual")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """What a training run is asked for; None means the default that suits the data and the weights."""

    data: str | None = setting(
        None,
        "A folder with one folder of images per class, a CSV or JSONL manifest, or the name of a torchvision data set "
        "such as cifar10; the embedded digits unless given.",
    )
    arch: str = setting(
        "mobilenet_v3_small",
        "Torchvision's MobileNet, ResNet, VGG, EfficientNet, ShuffleNet, SqueezeNet, MNASNet and RegNet by name, "
        "simple_cnn (or simple_cnn:widths=16-32,pool=avg,dense=64,dropout=0.3), or timm/NAME.",
    )
    weights: str = setting("auto", "auto, none, imagenet, or a weights file or run to start from.")
    epochs: int | None = setting(None, "10 for pretrained weights and digits, else 30.", low=1)
    batch_size: int = setting(32, "Images per optimizer step, over all processes.", low=2)
    lr: float | None = setting(None, "Peak learning rate; suits architecture and weights unless given.", low=1e-12)
    size_px: int | None = setting(
        None,
        "Side of the network's input in pixels; what its weights were made for, digits 64.",
        low=MIN_SIZE_PX, high=MAX_SIZE_PX,
    )  # fmt: skip
    seed: int = setting(0, "Seed of splits, weights and augmentation.", low=0)
    out: Path | None = setting(None, "Folder of the run; a new one under runs/ unless given.")
    augment: Preset | None = setting(None, "Strength of the augmentation; medium, for digits light.")
    mirror: bool = setting(True, "Whether a mirrored image is of the same class (not so for text).")
    policy: Policy | None = setting(None, "Random operations on top: TrivialAugment or RandAugment.")
    erase: float | None = setting(None, "Share of the images in which a rectangle is erased.", low=0.0, high=1.0)
    mixup: float | None = setting(None, "Blend images; the Beta distribution's alpha.", low=0.0)
    cutmix: float | None = setting(None, "Paste images into each other; the same alpha.", low=0.0)
    optimizer: str = setting("adamw", "adamw, adam, sgd (Nesterov's), rmsprop or timm/NAME.")
    schedule: Schedule = setting("one-cycle", "Of the learning rate; cosine begins with a warm-up.")
    weight_decay: float = setting(0.02, "Of weights; norms and biases are left alone.", low=0.0)
    loss: Loss = setting("cross-entropy", "What is minimized; bce asks about each class by itself.")
    label_smoothing: float = setting(0.1, "Share of each label spread over all classes.", low=0.0, high=0.9999)
    balance: Balance = setting(
        "auto",
        "For uneven classes: draw rare ones more often (sampling, or milder by the square root), class weights, logit "
        "adjustment, or none; auto takes what measured best where the largest class has over "
        f"{MAX_IMBALANCE:g} times the images of the smallest.",
    )
    select_by: SelectBy = setting(
        "auto", "Figure of the validation split by which the epoch is chosen; auto is macro F1 for uneven classes."
    )
    freeze: str = setting(
        "none",
        "Layers to freeze: none; backbone, all but the last layer; a number of blocks from the front; or gradual, "
        "block by block it begins to learn.",
    )
    layer_decay: float = setting(1.0, "Learning rate of a block as a share of the next one's.", low=1e-6, high=1.0)
    dropout: float | None = setting(None, "In place of the architecture's own.", low=0.0, high=0.9999)
    ema: float | None = setting(
        None, "Keep an average of the weights that decays so, such as 0.999.", low=0.0, high=0.9999999
    )
    teacher: str | None = setting(None, "A run whose answers are learned too (distillation).")
    folds: int | None = setting(
        None,
        "Cross-validation: train so many further models on training and validation images, each judged on the part "
        "that it has not seen; the run itself is trained as without.",
        low=2, high=100,
    )  # fmt: skip
    patience: int | None = setting(None, "Early stopping: epochs without improvement.", low=1)
    clip: float = setting(5.0, "Largest norm of the gradient.", low=1e-12)
    accumulate: int = setting(1, "Gradient accumulation steps, for less memory.", low=1)
    precision: TrainingPrecision = setting("auto", "Of the arithmetic; auto is bf16 or fp16 on GPUs.")
    deterministic: bool = setting(False, "Deterministic algorithms only.")
    cache: Keeping = setting(
        "auto",
        "Decoded images kept for the next epochs: in memory, on disk, auto for memory and then disk, or off. "
        "A share of what is free is used, and nothing stays behind.",
    )
    tensorboard: bool = setting(False, "Write curves to tensorboard/ beside the run.")

    def __post_init__(self) -> None:
        given: Any = self.balance
        if isinstance(given, bool):
            object.__setattr__(self, "balance", _BALANCE_WAS[given])
        super().__post_init__()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "out": str(self.out) if self.out else None}

    def write(self, folder: Path) -> None:
        """Write `config.toml`, from which `read_config` makes the same training again, in a folder of its own."""
        values = {name: value for name, value in self.to_json().items() if value is not None and name != "out"}
        if self.data is not None and Path(self.data).exists():
            values["data"] = str(Path(self.data).resolve())  # it is to be found from another folder too
        # JSON's strings, numbers and booleans are TOML's.
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
        write_text(folder / CONFIG_FILE, "\n".join(lines) + "\n")

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        from edgecls import models
        from edgecls.training.optimize import check_optimizer

        super().check()
        models.find(self.arch)
        check_optimizer(self.optimizer)
        if self.freeze not in FREEZES and not self.freeze.isdecimal():
            raise UsageError(f"`freeze` takes {', '.join(FREEZES)} or a number of blocks, not {self.freeze!r}")
        if self.balance == "logit-adjustment" and self.loss == "bce":
            raise UsageError("`balance` logit-adjustment is for scores that compete, not for `loss` bce; take sampling")
        if self.folds and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError("`folds` trains in one process; leave torchrun out, or `folds`")
        if self.accumulate > self.batch_size // 2:
            raise UsageError(
                f"`accumulate` is at most half of `batch_size`, {self.batch_size // 2}, not {self.accumulate}"
            )
        if self.out is not None and self.out.exists():
            raise OutputError(f"{self.out} exists already; choose another `out` or remove it")


def read_config(file: Path) -> dict[str, Any]:
    """The settings in a TOML file, by `TrainConfig`'s names. Raises `UsageError` where it holds anything else."""
    known = {each.name: each for each in settings_of(TrainConfig) if each.name != "out"}
    try:
        settings = parse_toml(read_text(file), str(file))
    except OSError as error:
        raise UsageError(f"cannot read the settings in {shortened(file)}: {error.strerror}") from error
    if isinstance(settings.get("balance"), bool):
        settings["balance"] = _BALANCE_WAS[settings["balance"]]
    for name, value in settings.items():
        if name not in known:
            near = get_close_matches(name, known, 1) or get_close_matches(f"{name}_px", known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"{file}: there is no setting {name!r}; {hint}")
        try:
            known[name].check(value)
        except UsageError as error:
            raise UsageError(f"{file}: {first_line(error)}") from error
    return settings
