"""Reading torch checkpoints as tensors and plain values, whatever classes their trainers kept beside them."""

from __future__ import annotations

import errno
import pickle
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgecls.errors import first_line

if TYPE_CHECKING:
    import torch

MAX_PICKLE_BYTES = 256 << 20
"""Of the part of a checkpoint that holds no tensor values; ten thousand tensors take two megabytes."""
MAX_DEPTH = 6
"""Of mappings in mappings that are searched for weights."""
NO_WEIGHTS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optim", "scaler", "lr_scheduler", "scheduler")
"""What trainers keep beside the weights that holds tensors of the same shapes."""
SAVE_OTHERWISE = "it holds more than tensors and plain values can tell; save the network's state_dict(), and only that"


def read_checkpoint(path: Path) -> Any:
    """What a torch checkpoint holds: tensors and plain values. Raises `OSError` for what is none.

    Nothing else is unpickled (`weights_only`): a mapping or list of a class of its own becomes a plain one, and any
    other object one that does nothing.
    """
    import torch

    try:
        with torch.serialization.safe_globals(list(_stand_ins(path))), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual formats, which are read or refused
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The unpickler raises whatever bytes that are no checkpoint lead it to.
        raise OSError(errno.EINVAL, _reason(error, zipfile.is_zipfile(path))) from error
    if isinstance(loaded, _Ignored):
        raise OSError(errno.EINVAL, "it is a whole pickled network, which is not run: save its state_dict()")
    return loaded


def _reason(error: Exception, archive: bool) -> str:
    """Why a file cannot be read. torch's own advice, to run whatever it holds, is not passed on."""
    text = str(error).lower()
    if "torchscript" in text:
        return "it is a TorchScript program, which is not run: save the network's state_dict()"
    if isinstance(error, pickle.UnpicklingError):
        known = archive or any(word in text for word in ("unsupported global", "can only", "call reduce"))
        return SAVE_OTHERWISE if known else "no checkpoint"
    if not text or "weights" in text or isinstance(error, (KeyError, IndexError)):
        return "no checkpoint"
    return first_line(error)


class _Ignored:
    """Stands for an object that a trainer kept beside the weights (its arguments, say): it takes all, does nothing."""

    def __init__(self, *_args: object, **_kwargs: object):
        pass

    def __setstate__(self, _state: object) -> None:
        pass


class _PlainMapping:
    """Stands for a class of mappings: torch fills exact dictionaries only, and gives attributes to `Counter`s too."""

    def __new__(cls, *_args: object) -> Counter[Any]:  # type: ignore[misc]
        return Counter()


class _PlainList:
    """Stands for a class of lists: torch fills exact lists only."""

    def __new__(cls, *_args: object) -> list[Any]:  # type: ignore[misc]
        return []


def _stand_ins(path: Path) -> Iterator[tuple[type, str]]:
    """What the classes and functions that a checkpoint names are replaced by; torch's own names take precedence."""
    for name, uses in _uses(path).items():
        yield _PlainMapping if "items" in uses else _PlainList if "appends" in uses else _Ignored, name


def _uses(path: Path) -> dict[str, set[str]]:
    """Whether the objects of each class that a checkpoint names get items or are appended to."""
    uses: dict[str, set[str]] = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                record = next(name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"])
                if archive.getinfo(record).file_size <= MAX_PICKLE_BYTES:
                    with archive.open(record) as file:
                        _Tracer(file, uses).load()
        else:
            with path.open("rb") as file:
                for _ in ("magic number", "protocol", "system", "the checkpoint"):  # the format before torch 1.6
                    _Tracer(file, uses).load()
    except Exception:
        return uses  # torch is to say what is wrong with a file that is no checkpoint
    return uses


class _Traced:
    """Takes whatever an unpickler does to an object and keeps in `uses` whether it filled it."""

    uses: set[str]

    def __init__(self, *_args: object):
        pass

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        self.uses.add("items")

    def extend(self, _items: object) -> None:
        self.uses.add("appends")

    append = extend

    def __call__(self, *_args: object) -> _Traced:
        return self


class _Tracer(pickle._Unpickler):
    """Goes through a pickle without importing, calling or making anything that it names.

    It is the unpickler in Python because that in C takes memory for the index that a damaged file may name.
    """

    def __init__(self, file: IO[bytes], uses: dict[str, set[str]]):
        super().__init__(file, encoding="bytes")
        self._uses = uses

    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        return type("Traced", (_Traced,), {"uses": self._uses.setdefault(f"{module}.{name}", set())})

    def persistent_load(self, _pid: object) -> None:
        return None


def state_dicts(value: Any, key: str = "", depth: int = MAX_DEPTH) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Every mapping from names to tensors inside a checkpoint, with the keys that lead to it, a dot after each."""
    import torch

    if not isinstance(value, Mapping) or not depth:
        return
    tensors = {name: each for name, each in value.items() if isinstance(name, str) and isinstance(each, torch.Tensor)}
    if any(tensor.is_floating_point() and tensor.dim() for tensor in tensors.values()):
        yield key, tensors
    for name, each in value.items():
        if name not in NO_WEIGHTS:
            yield from state_dicts(each, f"{key}{name}.", depth - 1)
