"""Where runs and bundles live, and which one is meant when none is named."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgecls import backends
from edgecls.artifact.card import CARD_FILE, Card, read_card
from edgecls.artifact.measurements import read_measurements
from edgecls.artifact.terms import InnerTensor
from edgecls.errors import ArtifactError, UsageError
from edgecls.files import expanded, is_folder, make_folder, require_regular, shortened, writing_to
from edgecls.runtime.machine import this_machine

RUNS_VARIABLE = "EDGECLS_RUNS"
BUNDLES_FOLDER = "bundles"
_RUN_NAME = re.compile(r"^(\d{3,})-")


@dataclass(frozen=True)
class Artifact:
    """A run, a bundle or a bare model file, with its card."""

    path: Path
    card: Card

    @property
    def backend(self) -> backends.Backend:
        """The backend that opens it."""
        return backends.find(self.card.target)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def is_run(self) -> bool:
        """Whether this is a trained run, the parent of bundles."""
        return self.path.is_dir() and self.card.is_parent

    def open(
        self,
        parallelism: backends.Parallelism = backends.LOW_LATENCY,
        on_progress: backends.OnProgress = lambda _: None,
        cached: bool = False,
        tensors: tuple[InnerTensor, ...] = (),
    ) -> backends.Session:
        """Open a session; see `Backend.open`."""
        return self.backend.open(self.path, self.card, parallelism, on_progress, cached, tensors)

    @property
    def is_runnable(self) -> bool:
        """Whether its runtime, and the device that it was built for, are on this machine."""
        return self.backend.available() is None and self.backend.has_device(self.card.device or None)

    def size_bytes(self) -> int:
        """Bytes of the model files, caches left out."""
        folder = self.path if self.path.is_dir() else self.path.parent
        names = list(self.card.lineage.files) or [self.path.name]
        return sum((folder / name).stat().st_size for name in names)


def giving(tensors: tuple[InnerTensor, ...], artifacts: list[Artifact]) -> list[Artifact]:
    """Those of some artifacts that give these tensors inside of the network. Raises `UsageError` where none does."""
    kept = []
    refusal: UsageError | None = None
    for artifact in artifacts:
        try:
            artifact.backend.check_tensors(artifact.card, tensors)
            kept.append(artifact)
        except UsageError as error:
            refusal = refusal or error
    if refusal and not kept:
        raise refusal
    return kept


def runs_folder() -> Path:
    """The folder of all runs: `runs` in the working folder, or what EDGECLS_RUNS says."""
    return Path(os.environ.get(RUNS_VARIABLE) or "runs")


@contextmanager
def new_run(data_name: str, arch: str) -> Iterator[Path]:
    """Yield an empty folder for the next run, numbered after the last one, that no other process gets.

    It is taken away again where nothing was put in its place.
    """
    root = make_folder(runs_folder())
    named = f"{_safe(data_name) or 'data'}-{_safe(arch.rpartition('/')[2])}"
    for number in itertools.count(max(map(_number, root.iterdir()), default=0) + 1):
        path = root / f"{number:03d}-{named}"
        with writing_to(root), suppress(FileExistsError):
            path.mkdir()
            break
    try:
        yield path
    finally:
        with suppress(OSError):
            path.rmdir()


def _safe(name: str) -> str:
    """A name as a part of a folder's name that every file system takes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")


def all_runs() -> list[Path]:
    """Finished runs, oldest first."""
    root = runs_folder()
    artifacts = root.iterdir() if root.is_dir() else ()
    return sorted((path for path in artifacts if _number(path) and (path / CARD_FILE).is_file()), key=_number)


def latest_run() -> Path:
    """The newest run. Raises `ArtifactError` where there is none."""
    runs = all_runs()
    if not runs:
        raise ArtifactError(f"there is no run in {runs_folder()}/ yet; make one with: edgecls train")
    return runs[-1]


def bundles_of(run: Path) -> list[Artifact]:
    """The bundles exported from a run, by name. Adapted ones, and folders without a readable card, are left out.

    Raises `ArtifactError` for damaged measurements beside a card.
    """
    artifacts = []
    for folder in sorted((run / BUNDLES_FOLDER).glob("*/")):
        if not folder.name.startswith("."):
            try:
                card = read_card(folder)
            except ArtifactError:
                continue
            if card.lineage.relearned is None:  # else it knows what the run does not
                artifacts.append(_measured(folder, card))
    return artifacts


def find(path: str | Path | Artifact) -> Artifact:
    """The artifact at exactly this path: a folder with a card, or a bare model file that carries one.

    One that was found already is returned as it is. Raises `ArtifactError`.
    """
    if isinstance(path, Artifact):
        return path
    if not isinstance(path, (str, Path)):
        raise UsageError(f"a model is named by its path, not by {type(path).__name__}")
    try:
        folder = expanded(path)
    except OSError as error:
        raise ArtifactError(f"there is no model at {shortened(path)}: {error.strerror}") from error
    if is_folder(folder):
        return _in_folder(folder)
    try:
        require_regular(folder)
    except FileNotFoundError as error:
        shown = shortened(path)
        raise ArtifactError(f"there is no model at {shown}; give a run, a bundle or a model file") from error
    except OSError as error:
        raise ArtifactError(f"cannot read the model {shortened(path)}: {error.strerror}") from error
    if bundle := next(filter(None, (backend.bundle_of(folder) for backend in backends.all_backends().values())), None):
        return _in_folder(bundle)
    return Artifact(folder, backends.find_for_file(folder).read_embedded(folder))


def _in_folder(folder: Path) -> Artifact:
    """The artifact in a folder, with what was measured about it since, on this machine where it depends on that."""
    return _measured(folder, read_card(folder))


def _measured(folder: Path, card: Card) -> Artifact:
    return Artifact(folder, read_measurements(folder).applied_to(card, this_machine().name))


def find_run(path: str | Path | None) -> Artifact:
    """The run at this path, or the latest. Raises `ArtifactError` for anything but a run."""
    artifact = find(latest_run() if path is None else path)
    if not artifact.is_run:
        raise ArtifactError(f"{path} is not a run but a model for {artifact.card.target}; give the run's folder")
    return artifact


def candidates(model: str | Path | None) -> list[Artifact]:
    """What to classify with, the best first: the named bundle or file; for a run, or for None the latest run, its
    verified bundles that this machine can open, and the run itself where there is none.

    The fastest bundle comes first, what its card does not recommend last; latencies measured on this machine count
    before those of the machine that built the bundle.
    """
    artifact = find(latest_run() if model is None else model)
    if not artifact.is_run:
        return [artifact]
    usable = [bundle for bundle in bundles_of(artifact.path) if bundle.card.verified and bundle.is_runnable]
    return sorted(usable, key=_speed(this_machine().name)) or [artifact]


def _speed(machine: str) -> Callable[[Artifact], tuple[bool, bool, float]]:
    def key(artifact: Artifact) -> tuple[bool, bool, float]:
        quality = artifact.card.quality
        measured = quality.latency_ms if quality.latency_ms is not None else float("inf")
        return quality.recommended is False, quality.latency_machine != machine, measured

    return key


def _number(run: Path) -> int:
    match = _RUN_NAME.match(run.name)
    return int(match.group(1)) if match else 0
