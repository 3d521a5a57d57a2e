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
from edgecls.errors import ArtefactError
from edgecls.files import expanded, is_folder, make_folder, require_regular, shortened, writing_to

RUNS_VARIABLE = "EDGECLS_RUNS"
BUNDLES_FOLDER = "bundles"
_RUN_NAME = re.compile(r"^(\d{3,})-")


@dataclass(frozen=True)
class Artefact:
    """A run, a bundle or a bare model file, with its card."""

    place: Path
    card: Card

    @property
    def backend(self) -> backends.Backend:
        """The backend that opens it."""
        return backends.find(self.card.target)

    @property
    def is_run(self) -> bool:
        """Whether this is a trained run, the parent of bundles."""
        return self.place.is_dir() and self.card.is_parent

    def open(
        self, parallelism: backends.Parallelism = backends.LOW_LATENCY, tell: backends.Tell = lambda _: None
    ) -> backends.Session:
        """Open a session; see `Backend.open`."""
        return self.backend.open(self.place, self.card, parallelism, tell)

    def size_bytes(self) -> int:
        """Bytes of the model files, caches left out."""
        folder = self.place if self.place.is_dir() else self.place.parent
        names = list(self.card.lineage.files) or [self.place.name]
        return sum((folder / name).stat().st_size for name in names)


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
        place = root / f"{number:03d}-{named}"
        with writing_to(root), suppress(FileExistsError):
            place.mkdir()
            break
    try:
        yield place
    finally:
        with suppress(OSError):
            place.rmdir()


def _safe(name: str) -> str:
    """A name as a part of a folder's name that every file system takes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")


def all_runs() -> list[Path]:
    """Finished runs, oldest first."""
    root = runs_folder()
    found = root.iterdir() if root.is_dir() else ()
    return sorted((path for path in found if _number(path) and (path / CARD_FILE).is_file()), key=_number)


def latest_run() -> Path:
    """The newest run. Raises `ArtefactError` where there is none."""
    runs = all_runs()
    if not runs:
        raise ArtefactError(f"there is no run in {runs_folder()}/ yet; make one with: edgecls train")
    return runs[-1]


def bundles_of(run: Path) -> list[Artefact]:
    """The bundles exported from a run, by name. Folders without a readable card are left out."""
    found = []
    for folder in sorted((run / BUNDLES_FOLDER).glob("*/")):
        if not folder.name.startswith("."):
            try:
                found.append(Artefact(folder, read_card(folder)))
            except ArtefactError:
                continue
    return found


def find(path: str | Path) -> Artefact:
    """The artefact at exactly this path: a folder with a card, or a bare model file that carries one.

    Raises `ArtefactError`.
    """
    try:
        place = expanded(path)
    except OSError as error:
        raise ArtefactError(f"there is no model at {shortened(path)}: {error.strerror}") from error
    if is_folder(place):
        return Artefact(place, read_card(place))
    try:
        require_regular(place)
    except FileNotFoundError as error:
        shown = shortened(path)
        raise ArtefactError(f"there is no model at {shown}; give a run, a bundle or a model file") from error
    except OSError as error:
        raise ArtefactError(f"cannot read the model {shortened(path)}: {error.strerror}") from error
    if bundle := next(filter(None, (backend.bundle_of(place) for backend in backends.all_backends().values())), None):
        return Artefact(bundle, read_card(bundle))
    return Artefact(place, backends.find_for_file(place).read_embedded(place))


def find_run(path: str | Path | None) -> Artefact:
    """The run at this path, or the latest. Raises `ArtefactError` for anything but a run."""
    artefact = find(latest_run() if path is None else path)
    if not artefact.is_run:
        raise ArtefactError(f"{path} is not a run but a model for {artefact.card.target}; give the run's folder")
    return artefact


def resolve(model: str | Path | None, machine: str) -> Artefact:
    """What to classify with: the named bundle or file; for a run, or for None the latest run, its best bundle here."""
    artefact = find(latest_run() if model is None else model)
    return best_here(artefact, machine) if artefact.is_run else artefact


def best_here(run: Artefact, machine: str) -> Artefact:
    """The fastest verified bundle of a run that this machine can open; the run itself where there is none.

    What its card does not recommend comes last; latencies measured on this machine count before those of the machine
    that built the bundle.
    """
    candidates = [
        bundle for bundle in bundles_of(run.place) if bundle.card.verified and bundle.backend.available() is None
    ]
    return min(candidates, key=_speed(machine), default=run)


def _speed(machine: str) -> Callable[[Artefact], tuple[bool, bool, float]]:
    def key(artefact: Artefact) -> tuple[bool, bool, float]:
        quality = artefact.card.quality
        measured = quality.latency_ms if quality.latency_ms is not None else float("inf")
        return quality.recommended is False, quality.latency_machine != machine, measured

    return key


def _number(run: Path) -> int:
    match = _RUN_NAME.match(run.name)
    return int(match.group(1)) if match else 0
