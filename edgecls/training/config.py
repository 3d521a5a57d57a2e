"""What a training is asked for: one flat record that the command line, a TOML file and the Python API all fill."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgecls import models
from edgecls.errors import OutputError, UsageError
from edgecls.files import parse_toml, read_text, shortened, write_text
from edgecls.training import augment, optimize

CONFIG_FILE = "config.toml"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MIN_SIZE_PX = 32
MAX_SIZE_PX = 2048


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a training run is asked for; None means the default that suits the data and the weights.

    `batch_size` is that of an optimizer step, over all processes; `accumulate` is the number of gradient accumulation
    steps. `balance` weighs the loss by class. `freeze` names the layers to freeze: "none", "backbone" (all but the
    last layer), "gradual" (block by block it begins to learn), or a number of blocks from the front. `layer_decay` is
    the learning rate of a block as a share of that of the block behind it. `ema` is the decay of an average over the
    weights of past steps, which then is what is kept. `teacher` is a run whose answers are learned too. `patience`
    ends the training after so many epochs without improvement (early stopping).
    """

    data: str | None = None
    arch: str = models.DEFAULT_ARCH
    weights: str = "auto"
    epochs: int | None = None
    batch_size: int = 32
    lr: float | None = None
    size_px: int | None = None
    seed: int = 0
    mirror: bool = True
    out: Path | None = None
    augment: str | None = None
    policy: str | None = None
    erase: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    optimizer: str = "adamw"
    schedule: str = "one-cycle"
    weight_decay: float = 0.02
    loss: str = "cross-entropy"
    label_smoothing: float = 0.1
    balance: bool = False
    freeze: str = "none"
    layer_decay: float = 1.0
    dropout: float | None = None
    ema: float | None = None
    teacher: str | None = None
    patience: int | None = None
    clip: float = 5.0
    accumulate: int = 1
    precision: str = "auto"
    deterministic: bool = False
    tensorboard: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "out": str(self.out) if self.out else None}

    def write(self, folder: Path) -> None:
        """Write `config.toml`, from which `read_config` makes the same training again, in a folder of its own."""
        values = {name: value for name, value in self.to_json().items() if value is not None and name != "out"}
        # JSON's strings, numbers and booleans are TOML's.
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
        write_text(folder / CONFIG_FILE, "\n".join(lines) + "\n")

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        models.find(self.arch)
        optimize.check_optimizer(self.optimizer)
        for name, known in (
            ("schedule", optimize.SCHEDULES),
            ("loss", optimize.LOSSES),
            ("augment", (None, *augment.PRESETS)),
            ("policy", (None, *augment.POLICIES)),
            ("precision", PRECISIONS),
        ):
            if (value := getattr(self, name)) not in known:
                raise UsageError(f"--{name} takes {', '.join(filter(None, known))}, not {value!r}")
        if self.freeze not in optimize.FREEZES and not self.freeze.isdecimal():
            raise UsageError(f"--freeze takes {', '.join(optimize.FREEZES)} or a number of blocks, not {self.freeze!r}")
        for name, value, least, below in (
            ("epochs", self.epochs, 1, math.inf),
            ("batch-size", self.batch_size, 2, math.inf),
            ("size", self.size_px, MIN_SIZE_PX, MAX_SIZE_PX + 1),
            ("patience", self.patience, 1, math.inf),
            ("accumulate", self.accumulate, 1, self.batch_size // 2 + 1),
            ("label-smoothing", self.label_smoothing, 0, 1),
            ("weight-decay", self.weight_decay, 0, math.inf),
            ("dropout", self.dropout, 0, 1),
            ("ema", self.ema, 0, 1),
            ("mixup", self.mixup, 0, math.inf),
            ("cutmix", self.cutmix, 0, math.inf),
            ("erase", self.erase, 0, 1.000001),
        ):
            if value is not None and not least <= value < below:
                raise UsageError(f"--{name} must be {_range(least, below)}, not {value:g}")
        for name, value in (("lr", self.lr), ("clip", self.clip)):
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"--{name} must be above 0, not {value:g}")
        if not 0 < self.layer_decay <= 1:
            raise UsageError(f"--layer-decay must be above 0 and at most 1, not {self.layer_decay:g}")
        if self.out is not None and self.out.exists():
            raise OutputError(f"{self.out} exists already; choose another --out or remove it")


def _range(least: float, below: float) -> str:
    if below == math.inf:
        return f"at least {least}"
    if isinstance(below, int) and below > 1:
        return f"between {least} and {below - 1}"
    return f"at least {least} and {'below' if below == 1 else 'at most'} 1"


def read_config(file: Path) -> dict[str, Any]:
    """The settings in a TOML file, by `TrainConfig`'s names. Raises `UsageError` where it holds anything else."""
    known = {field.name: field for field in fields(TrainConfig) if field.name != "out"}
    try:
        settings = parse_toml(read_text(file), str(file))
    except OSError as error:
        raise UsageError(f"cannot read the settings in {shortened(file)}: {error.strerror}") from error
    for name, value in settings.items():
        if name not in known:
            raise UsageError(f"{file}: there is no setting {name!r}; there are {', '.join(known)}")
        wanted = str(known[name].type).removesuffix(" | None")
        default = known[name].default
        fits = {
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": isinstance(value, int | float) and not isinstance(value, bool),
            "bool": isinstance(value, bool),
            "str": isinstance(value, str),
        }[wanted]
        if not fits:
            example = "" if default in (None, MISSING) else f", such as {json.dumps(default)}"
            raise UsageError(f"{file}: {name} must be a {wanted}{example}, not {value!r}")
    return settings
