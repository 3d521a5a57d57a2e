"""The registry: every module of this package that defines `BACKEND` is a backend; a new one is one new file.

Other packages bring theirs as entry points of the group `edgecls.backends`, and so does our own workstation half.
Importing a backend module is cheap: the runtime itself is imported when it is used.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from edgecls import plugins
from edgecls.backends.base import LOW_LATENCY, THROUGHPUT, Backend, OnProgress, Parallelism, Pending, Session
from edgecls.errors import ArtifactError, UsageError

__all__ = [
    "LOW_LATENCY",
    "THROUGHPUT",
    "Backend",
    "OnProgress",
    "Parallelism",
    "Pending",
    "Session",
    "all_backends",
    "exportable",
    "find",
    "find_exportable",
    "find_for_file",
    "of_every_install",
]


@cache
def all_backends() -> dict[str, Backend]:
    """Every backend by name, in alphabetical order."""
    backends = dict(_of_this_package())
    for backend in _from_other_packages():
        backends.setdefault(backend.name, backend)
    return dict(sorted(backends.items()))


@cache
def _of_this_package() -> dict[str, Backend]:
    modules = (import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return {module.BACKEND.name: module.BACKEND for module in modules if hasattr(module, "BACKEND")}


def _from_other_packages() -> Iterator[Backend]:
    for name, backend in plugins.load_all(plugins.BACKENDS):
        if isinstance(backend, Backend):
            yield backend
        else:
            plugins.logger.warning("the entry point %s is no Backend but of the type %s", name, type(backend).__name__)


def exportable() -> dict[str, Backend]:
    """The backends that `edgecls export` can build for."""
    return {name: backend for name, backend in all_backends().items() if backend.exportable}


def of_every_install() -> Backend:
    """The backend whose runtime comes with the base install."""
    return next(backend for backend in all_backends().values() if backend.in_every_install)


def find(name: str) -> Backend:
    """The backend of that name. Raises `UsageError` that lists what there is."""
    try:
        # Entry points are looked up on the disk: who needs none of them does not wait.
        return _of_this_package().get(name) or all_backends()[name]
    except KeyError:
        raise UsageError(f"there is no target {name!r}; choose one of {', '.join(exportable())}", "target") from None


def find_exportable(name: str) -> Backend:
    """The backend of that name, that bundles can be built for. Raises `UsageError` that lists those."""
    backend = find(name)
    if not backend.exportable:
        raise UsageError(f"{name} is no export target; choose one of {', '.join(exportable())}", "target")
    return backend


def find_for_file(path: Path) -> Backend:
    """The backend that opens a bare model file. Raises `ArtifactError` for a suffix that none opens."""
    bare = {backend.bare_suffix: backend for backend in all_backends().values() if backend.bare_suffix}
    try:
        return bare[path.suffix.lower()]
    except KeyError:
        raise ArtifactError(f"{path} is not a model file; a bare model ends in {' or '.join(sorted(bare))}") from None
