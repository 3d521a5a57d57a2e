"""Model repositories: bundles as Triton and OpenVINO Model Server take them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgecls.artifact.card import CARD_FILE, check_files, read_card
from edgecls.errors import ArtifactError, OutputError, UsageError
from edgecls.files import make_folder, new_folder, read_text, shortened, write_text
from edgecls.runtime import store
from edgecls.serving import triton
from edgecls.serving.naming import checked_name, parse_named
from edgecls.settings import Config, setting

Layout = Literal["triton", "ovms"]
OVMS_CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class RepositoryConfig(Config):
    """Which bundles go into which repository, and how the server is to run them."""

    models: tuple[str, ...] = setting((), "Bundles, or runs, of which the best one is taken; NAME=PATH names one.")
    layout: Layout = setting("triton", "Whose repository: Triton's, or OpenVINO Model Server's.")
    out: Path = setting(Path("models"), "The repository's folder; models that are there get a further version.")
    images: bool = setting(
        False,
        "Take encoded images, too, as NAME_images: decoded by edgecls in the server's Python, which needs it (triton).",
    )
    max_batch: int = setting(8, "Images that the server may put together.", low=1, high=1024)
    batch_delay_us: int = setting(
        0, "How long a request waits for others to be put together with (triton).", low=0, high=10**7, unit="us"
    )
    gpu: bool = setting(False, "Run on the server's GPUs instead of its processor (triton, ONNX bundles).")

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        super().check()
        if not self.models:
            raise UsageError("`models` names at least one bundle")
        for name in ("images", "batch_delay_us", "gpu"):
            if self.layout == "ovms" and getattr(self, name):
                raise UsageError(
                    f"`{name}` is for the layout triton alone: OpenVINO Model Server decodes to other colours"
                )


@dataclass(frozen=True)
class Written:
    """A version of a model in a repository. `images` is the name under which it takes encoded images, if it does."""

    name: str
    version: int
    bundle: Path
    images: str | None = None


def write_repository(config: RepositoryConfig) -> list[Written]:
    """Write each bundle's next version into the repository; each is there as a whole or not at all.

    Raises `UsageError` for names, and for a version that answers otherwise than the last one; `ArtifactError` for what
    these servers cannot open, and `OutputError`.
    """
    config = RepositoryConfig.checked(config)
    chosen = [_chosen(each, config.layout) for each in config.models]
    names = Counter(each for name, _ in chosen for each in (name, *_steps(name, config.images)))
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise UsageError(f"two models are called {twice[0]}; name them: NAME=PATH")
    if config.gpu and (others := [each for _, each in chosen if not each.backend.in_triton_on_gpu]):
        raise UsageError(f"`gpu` takes ONNX bundles; {shortened(others[0].path)} is for {others[0].card.target}")
    versions = [_next_version(config.out / name, artifact) for name, artifact in chosen]  # all is checked first
    listed = _ovms_list(config.out / OVMS_CONFIG, [name for name, _ in chosen]) if config.layout == "ovms" else None
    written = [
        _write(config, name, version, artifact)
        for (name, artifact), version in zip(chosen, versions, strict=True)
    ]  # fmt: skip
    if listed:
        write_text(config.out / OVMS_CONFIG, listed)
    return written


def _chosen(model: str, layout: Layout) -> tuple[str, store.Artifact]:
    """A model's name, and the bundle that is meant."""
    path, named, version = parse_named(model)
    if version:
        raise UsageError(f"`models` takes NAME=PATH, not {model!r}: a model's next version is counted")
    artifact = next((each for each in store.candidates(path) if _opens(layout, each)), None)
    if artifact is None:
        raise ArtifactError(
            f"{shortened(path)} is no bundle that the server opens; make one with: edgecls export RUN --target onnx"
        )
    check_files(artifact.card, artifact.path)
    folder = artifact.path.parents[1] if artifact.path.parent.name == "bundles" else artifact.path
    return named or checked_name(folder.name), artifact


def _opens(layout: Layout, artifact: store.Artifact) -> bool:
    backend = artifact.backend
    return artifact.path.is_dir() and (backend.in_model_server if layout == "ovms" else backend.in_triton is not None)


def _next_version(folder: Path, artifact: store.Artifact) -> int:
    """One more than the newest version in a model's folder, which must take and give the same."""
    if not folder.exists():
        return 1
    versions = sorted(int(each.name) for each in folder.iterdir() if each.name.isdecimal())
    if not versions or not (folder / str(versions[-1]) / CARD_FILE).is_file():
        raise OutputError(f"{shortened(folder)} is there already and was not written by edgecls; choose another name")
    last, new = read_card(folder / str(versions[-1])), artifact.card
    for what in ("classes", "input_shape", "output", "target"):
        if getattr(last, what) != getattr(new, what):
            raise UsageError(
                f"{shortened(folder)} holds a model with other {what.replace('_', ' ')}, and clients count on them; "
                "choose another name: NAME=PATH"
            )
    return versions[-1] + 1


def _write(config: RepositoryConfig, name: str, version: int, artifact: store.Artifact) -> Written:
    def model(folder: Path) -> None:
        for file in (*artifact.card.lineage.files, CARD_FILE):
            shutil.copyfile(artifact.path / file, folder / file)

    def preprocess(folder: Path) -> None:
        shutil.copyfile(artifact.path / CARD_FILE, folder / CARD_FILE)
        write_text(folder / "model.py", triton.PREPROCESS)

    if config.layout == "ovms":
        _put(config.out / name, version, {}, model)
        return Written(name, version, artifact.path)
    options = triton.Options(config.max_batch, config.batch_delay_us, config.gpu)
    images = None
    if config.images:  # before the model: no server sees a version that its steps cannot prepare images for
        step, images = _steps(name, True)
        _put(config.out / step, version, triton.preprocess_files(step, artifact.card, options), preprocess)
    _put(
        config.out / name,
        version,
        triton.model_files(name, artifact.card, str(artifact.backend.in_triton), options),
        model,
    )
    if images:
        files = triton.ensemble_files(images, name, step, artifact.card, options)
        _put(config.out / images, 1, files, lambda _: None)
    return Written(name, version, artifact.path, images)


def _steps(name: str, images: bool) -> tuple[str, ...]:
    """The models that stand beside one which takes images: what prepares them, and both in one."""
    return (f"{name}_preprocess", f"{name}_images") if images else ()


def _put(folder: Path, version: int, files: Mapping[str, str], fill: Callable[[Path], object]) -> None:
    """Write a model's version, and the files beside its versions where they are others than before."""
    if not folder.exists():
        with new_folder(folder) as temporary:
            fill(make_folder(temporary / str(version)))
            for name, text in files.items():
                write_text(temporary / name, text)
        return
    if not (folder / str(version)).exists():
        with new_folder(folder / str(version)) as temporary:
            fill(temporary)
    for name, text in files.items():
        if not (folder / name).is_file() or read_text(folder / name) != text:
            write_text(folder / name, text)


def _ovms_list(path: Path, names: list[str]) -> str:
    """The server's list with these models in it; what others wrote there stays."""
    content: object = {}
    if path.exists():
        try:
            content = json.loads(read_text(path))
        except ValueError as error:
            raise OutputError(f"{shortened(path)} is no JSON: {error}; mend it or choose another `out`") from error
    models = content.setdefault("model_config_list", []) if isinstance(content, dict) else None
    if not isinstance(models, list) or not all(isinstance(each, dict) for each in models):
        raise OutputError(
            f"{shortened(path)} is no list of models as OpenVINO Model Server reads it; choose another `out`"
        )
    configs = [each.get("config") for each in models]
    listed = {each.get("name") for each in configs if isinstance(each, dict)}
    models += [{"config": {"name": name, "base_path": name}} for name in names if name not in listed]
    return json.dumps(content, indent=2) + "\n"
