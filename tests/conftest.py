"""One small model, trained once for the whole suite, and its bundles."""

from __future__ import annotations

import ctypes
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edgecls import backends, cache
from edgecls.benchmarking.config import TimingConfig
from edgecls.cli import app
from edgecls.data.layout import DIGIT_NAMES
from edgecls.data.sources import DigitsSource
from edgecls.errors import BackendError
from edgecls.exporting import compare as compare_module
from edgecls.exporting import timing as timing_module
from edgecls.exporting.bundle import export
from edgecls.exporting.config import ExportConfig
from edgecls.imaging.opencv import cv2
from edgecls.runtime import store
from edgecls.runtime.store import Artifact
from edgecls.training.config import TrainConfig
from edgecls.training.loop import train
from tests.digit_photos import write_digits

VARIANTS = [(name, precision) for name, backend in backends.exportable().items() for precision in backend.precisions]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session", autouse=True)
def runs_folder(workspace: Path) -> Iterator[Path]:
    """Every test, and what tests share, sees the same runs folder and cache; none touches the developer's own."""
    folder = workspace / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(store.RUNS_VARIABLE, str(folder))
        patch.setenv(cache.VARIABLE, str(workspace / "cache"))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def _short_timings() -> Iterator[None]:
    """Tests look at what is done with a measurement; a good one takes its time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("QUICK_TIMING", "TIMING", "BORDERLINE_TIMING"):
            patch.setattr(timing_module, name, TimingConfig(rounds=1, seconds=0.02))
        patch.setattr(compare_module, "TIMING", TimingConfig(rounds=1, seconds=0.02))
        yield


@pytest.fixture(scope="session")
def trained(workspace: Path) -> Artifact:
    """A run: simple_cnn on the embedded digits at 32 pixels."""
    path = workspace / "runs" / "001-digits-simple_cnn"
    train(TrainConfig(arch="simple_cnn", epochs=3, size_px=32, batch_size=64, out=path))
    return store.find(path)


@pytest.fixture(scope="session")
def taught(workspace: Path) -> Artifact:
    """A run that learned five digits from forty image files of each: simple_cnn at 32 pixels."""
    photos = write_digits(workspace / "taught_photos", DIGIT_NAMES[:5], 0, 40)
    path = workspace / "taught"
    arch = "simple_cnn:widths=16-32-64"
    train(TrainConfig(data=str(photos), arch=arch, epochs=8, size_px=32, batch_size=16, mirror=False, out=path))
    return store.find(path)


@pytest.fixture(scope="session")
def bundle(trained: Artifact) -> Callable[[str, str], Artifact]:
    """The trained run exported for a target and precision; each variant is built once."""
    built: dict[tuple[str, str], Artifact] = {}

    def get(target: str, precision: str = "fp32") -> Artifact:
        backend = backends.find(target)
        try:
            backend.check_request(precision)
        except BackendError as error:
            pytest.skip(str(error))
        if target == "openvino" and backend.available():
            pytest.skip(str(backend.available()))
        if (target, precision) not in built:
            config = ExportConfig(target=target, run=trained.path, precision=precision, max_drop_points=5.0)
            built[target, precision] = export(config)
        return built[target, precision]

    return get


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Ctrl-C works in tests and in what they start, also where a shell started them in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def _usual_signal_stack() -> None:
    """Let this thread handle signals on its own stack.

    OpenVINO's cores set another one. Those of Model API, which other tests use, go in another order than they came, and
    leave the thread with a stack that is no more: the next signal would crash the tests.
    """

    class Stack(ctypes.Structure):
        _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    disabled = 2
    ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(None, disabled, 0)), None)


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Artifact], Path]:
    """A copy of an artifact's folder, without the bundles inside a run, that a test may damage."""

    def copy(artifact: Artifact) -> Path:
        path = tmp_path / "copy"
        shutil.copytree(artifact.path, path, ignore=shutil.ignore_patterns("bundles"))
        return path

    return copy


@pytest.fixture
def cli() -> Callable[..., Result]:
    """Run the command line in this process: `cli("info", path)`."""
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder data set of two classes, twelve 40x30 images each: dark and bright noise."""
    root = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 170)):
        (root / name).mkdir(parents=True)
        for index in range(12):
            image = generator.integers(low, low + 80, (30, 40, 3), dtype=np.uint8)
            cv2.imwrite(str(root / name / f"{index:02d}.jpg"), image)
    return root


@pytest.fixture
def digit_images(tmp_path: Path) -> Path:
    """Forty of the embedded digits as image files, one folder per class."""
    root = tmp_path / "digit_images"
    source = DigitsSource()
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    counts = dict.fromkeys(names, 0)
    for index, label in enumerate(source.labels):
        name = names[label]
        if counts[name] < 4:
            counts[name] += 1
            (root / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / name / f"{index}.png"), source.read(str(index)))
    return root
