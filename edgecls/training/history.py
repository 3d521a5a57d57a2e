"""What a training tells while it runs, and what is kept of it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgecls.data.dataset import Dataset
from edgecls.errors import MissingExtraError
from edgecls.files import write_text
from edgecls.training.balance import Merit
from edgecls.training.weights import InitialWeights

HISTORY_FILE = "metrics.csv"
TENSORBOARD_FOLDER = "tensorboard"


@dataclass(frozen=True)
class Epoch:
    """One line of the history; `val_top1` and `val_macro_f1` are fractions, and `selected_by` names one of the two."""

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_top1: float
    images_per_s: float
    seconds: float
    val_macro_f1: float = math.nan
    selected_by: Merit = "top1"

    @property
    def merit(self) -> tuple[float, float]:
        """What epochs are compared by: validation accuracy, or macro F1, then validation loss."""
        return self.val_macro_f1 if self.selected_by == "macro-f1" else self.val_top1, -self.val_loss


class TrainingCallbacks:
    """What a training tells about itself; the command line draws it. The base watches in silence."""

    def started(
        self, dataset: Dataset, start: InitialWeights, epochs: int, batches: int, device: str, done: int
    ) -> None:
        """Data and network are ready; `done` optimizer steps of `epochs` times `batches` were taken before."""

    def remark(self, line: str) -> None:
        """Something that the person should know."""

    def fold(self, number: int, folds: int, epochs: int, batches: int) -> None:
        """The model of a fold begins to learn, in `epochs` times `batches` steps, before the run itself is started."""

    def batch(self, epoch: int, loss: float) -> None:
        """One optimizer step was taken."""

    def epoch(self, epoch: Epoch) -> None:
        """One epoch was validated."""

    def stopped(self, path: Path) -> None:
        """The training was interrupted; `resume(place)` goes on."""


class TensorBoardLog(TrainingCallbacks):
    """Passes on to another callbacks, and writes scalars for TensorBoard to `tensorboard/` beside the run."""

    def __init__(self, callbacks: TrainingCallbacks, path: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard", "`tensorboard`") from error
        self._callbacks, self._step = callbacks, 0
        self.folder = path.parent / TENSORBOARD_FOLDER / path.name
        self._new_writer: Any = lambda: SummaryWriter(str(self.folder), purge_step=self._step)

    def started(
        self, dataset: Dataset, start: InitialWeights, epochs: int, batches: int, device: str, done: int
    ) -> None:
        """See `TrainingCallbacks`."""
        self._step = done
        self._writer = self._new_writer()
        self._callbacks.started(dataset, start, epochs, batches, device, done)

    def remark(self, line: str) -> None:
        """See `TrainingCallbacks`."""
        self._callbacks.remark(line)

    def batch(self, epoch: int, loss: float) -> None:
        """See `TrainingCallbacks`."""
        self._step += 1
        self._writer.add_scalar("loss/step", loss, self._step)
        self._callbacks.batch(epoch, loss)

    def epoch(self, epoch: Epoch) -> None:
        """See `TrainingCallbacks`."""
        for name, value in (
            ("loss/train", epoch.train_loss),
            ("loss/val", epoch.val_loss),
            ("top1/val", epoch.val_top1),
            ("macro_f1/val", epoch.val_macro_f1),
            ("lr", epoch.lr),
            ("images_per_s", epoch.images_per_s),
        ):
            self._writer.add_scalar(name, value, self._step)
        self._writer.flush()
        self._callbacks.epoch(epoch)

    def stopped(self, path: Path) -> None:
        """See `TrainingCallbacks`."""
        self._writer.close()
        self._callbacks.stopped(path)


def write_history(history: Sequence[Epoch], folder: Path) -> None:
    """Write the epochs to `metrics.csv`."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Epoch)])
    writer.writeheader()
    writer.writerows({name: _rounded(value) for name, value in asdict(epoch).items()} for epoch in history)
    write_text(folder / HISTORY_FILE, text.getvalue())


def _rounded(value: float | str) -> float | str:
    return f"{value:.6g}" if isinstance(value, float) else value


def read_history(run: Path) -> list[Epoch]:
    """The epochs of a run, from its `metrics.csv`, in which columns of later versions may be missing."""
    with (run / HISTORY_FILE).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    kinds: dict[str, Any] = {"epoch": int, "selected_by": str}
    named = [field.name for field in fields(Epoch)]
    return [Epoch(**{name: kinds.get(name, float)(row[name]) for name in named if name in row}) for row in rows]
