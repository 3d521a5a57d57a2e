"""The models that are served, by name and version: opened, replaced and closed while others go on."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgecls.errors import EdgeclsError, UsageError, first_line
from edgecls.runtime import store
from edgecls.serving.errors import RequestError, invalid
from edgecls.serving.metrics import Statistics
from edgecls.serving.model import Model
from edgecls.serving.protocol import shown

logger = logging.getLogger(__name__)

State = Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_SPEC = re.compile(rf"(?:(?P<name>{_NAME})(?::(?P<version>0*[1-9][0-9]{{0,8}}))?=)?(?P<path>.+)", re.DOTALL)


@dataclass(frozen=True)
class Spec:
    """A model to serve: what it is called, and where it lies."""

    name: str
    version: str
    path: Path


def specs_of(models: Sequence[str]) -> list[Spec]:
    """The models that texts such as PATH, NAME=PATH or NAME:VERSION=PATH mean; of none the latest run.

    A name that is not given is that of the folder or file, and a version is one more than the highest of that name
    before. Raises `UsageError`, and `ArtifactError` where there is no run.
    """
    specs: list[Spec] = []
    for text in models or [str(store.latest_run())]:
        match = _SPEC.fullmatch(text)
        if match is None:
            raise UsageError(f"`models` takes PATH, NAME=PATH or NAME:VERSION=PATH, not {text!r}")
        path = Path(match["path"])
        if match["name"] is None and "=" in text and not path.expanduser().exists():
            raise UsageError(
                f"`models` takes PATH, NAME=PATH or NAME:VERSION=PATH, a name of letters, digits, _, . and - and a "
                f"version from 1 on, not {text!r}"
            )
        name = match["name"] or _name_of(path)
        taken = {int(spec.version) for spec in specs if spec.name == name}
        version = int(match["version"] or max(taken, default=0) + 1)
        if version in taken:
            raise UsageError(f"`models` names version {version} of {name!r} twice")
        specs.append(Spec(name, str(version), path))
    return specs


def _name_of(path: Path) -> str:
    folder = path.expanduser().absolute()
    name = folder.stem if folder.is_file() else folder.name
    if not re.fullmatch(_NAME, name):
        raise UsageError(
            f"`models`: {name[:60]!r} cannot be a model's name, of letters, digits, _, . and -; give NAME={path}"
        )
    return name


@dataclass
class Entry:
    """What is known of one version of a model."""

    spec: Spec
    statistics: Statistics = field(default_factory=Statistics)
    model: Model | None = None
    state: State = "UNAVAILABLE"
    reason: str = "not loaded yet"
    wanted: bool = True
    """Whether nobody has unloaded it."""


class Models:
    """All versions of all models. Changes come one after the other; answering does not wait for them."""

    def __init__(self, specs: Sequence[Spec], open_model: Callable[[Spec, Statistics], Awaitable[Model]]):
        self._entries = [Entry(spec) for spec in specs]
        self._open = open_model
        self._changing = asyncio.Lock()

    def __iter__(self) -> Iterator[Model]:
        """The models that are loaded."""
        return (entry.model for entry in self._entries if entry.model is not None)

    @property
    def ready(self) -> bool:
        """Whether every model that somebody wants loaded is."""
        return all(entry.model is not None or not entry.wanted for entry in self._entries)

    def get(self, name: str, version: str = "") -> Model:
        """A model by its name, and the highest loaded version unless that is told. Raises `RequestError`."""
        entries = self._named(name)
        if version:
            entries = [entry for entry in entries if entry.spec.version == version]
            if not entries:
                raise RequestError("unknown", f"model {shown(name)} has no version {shown(version)}")
        loaded = [entry.model for entry in entries if entry.model is not None and entry.state == "READY"]
        if not loaded:
            entry = entries[-1]
            raise RequestError("not_ready", f"model {shown(name)} is not ready: {entry.reason or entry.state.lower()}")
        return max(loaded, key=lambda model: int(model.version))

    def versions(self, name: str) -> list[str]:
        """The loaded versions of a model, in order. Raises `RequestError`."""
        loaded = (entry.model.version for entry in self._named(name) if entry.model is not None)
        return sorted(loaded, key=int)

    def index(self, ready_only: bool = False) -> list[dict[str, str]]:
        """Name, version, state and reason of each version."""
        return [
            {
                "name": entry.spec.name, "version": entry.spec.version, "state": entry.state, "reason": entry.reason,
            }
            for entry in self._entries
            if entry.state == "READY" or not ready_only
        ]  # fmt: skip

    async def load_all(self) -> None:
        """Load every model; the first error ends it."""
        for entry in self._entries:
            await self._load(entry)

    async def load(self, name: str) -> None:
        """Load the versions of a model, again where they are loaded: the new one takes over when it is ready.

        Raises `RequestError` where one cannot be loaded; what was loaded goes on then.
        """
        # Whoever asks for it may leave meanwhile, and nothing must stay half done.
        await asyncio.shield(self._load_again(self._named(name)))

    async def _load_again(self, entries: list[Entry]) -> None:
        for entry in entries:
            name = entry.spec.name
            try:
                await self._load(entry)
            except EdgeclsError as error:
                goes_on = "; the one that was loaded goes on" if entry.model is not None else ""
                raise invalid(f"model {shown(name)} cannot be loaded: {first_line(error)}{goes_on}") from error

    async def reload(self) -> None:
        """Load all models again that are loaded; the log tells of those that cannot be."""
        for name in dict.fromkeys(model.name for model in self):
            try:
                await self.load(name)
                logger.info("model %s was loaded again", name)
            except RequestError as error:
                logger.error("%s", error)

    async def unload(self, name: str) -> None:
        """Take the versions of a model out of service, and free each after the requests that it is answering.

        Raises `RequestError` for a name that is none.
        """
        await asyncio.shield(self._unload(self._named(name)))

    async def _unload(self, entries: list[Entry]) -> None:
        for entry in entries:
            async with self._changing:
                entry.wanted = False
                if (model := entry.model) is None:
                    continue
                entry.state, entry.reason = "UNLOADING", "being unloaded"
                entry.model = None
                await model.close()
                entry.state, entry.reason = "UNAVAILABLE", "unloaded"

    async def close(self) -> None:
        """Unload all."""
        for name in dict.fromkeys(entry.spec.name for entry in self._entries):
            await self.unload(name)

    async def _load(self, entry: Entry) -> None:
        async with self._changing:
            before, state = entry.model, entry.state
            entry.wanted = True
            if before is None:
                entry.state, entry.reason = "LOADING", "being loaded"
            try:
                model = await self._open(entry.spec, entry.statistics)
            except BaseException as error:
                entry.state = state
                if before is None:
                    entry.reason = first_line(error) if isinstance(error, Exception) else "not loaded"
                raise
            entry.model, entry.state, entry.reason = model, "READY", ""
            if before is not None:
                await before.close()

    def _named(self, name: str) -> list[Entry]:
        entries = [entry for entry in self._entries if entry.spec.name == name]
        if not entries:
            raise RequestError("unknown", f"there is no model {shown(name)}")
        return entries
