"""A device has numpy, OpenCV, Typer, Rich and ONNX Runtime, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecls.artifact.golden import Golden
from edgecls.imaging.opencv import cv2
from edgecls.runtime.store import Artifact

ROOT = Path(__file__).parents[1]
BLOCKED = (
    "torch",
    "torchvision",
    "onnx",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "nncf",
    "sklearn",
    "matplotlib",
    "jinja2",
    "markupsafe",
    "cuda",
    "av",
)
PROGRAM = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
sys.argv = {argv!r}
from edgecls.cli import main
main()
"""


def on_a_device(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process in which nothing but the base install can be imported."""
    program = PROGRAM.format(blocked=BLOCKED, argv=["edgecls", *map(str, arguments)])
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


@pytest.fixture
def model(bundle: Callable[[str, str], Artifact]) -> Path:
    return bundle("onnx", "int8").path


@pytest.fixture
def photo(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), cv2.cvtColor(Golden.read(model).images[3], cv2.COLOR_RGB2BGR))
    return path


def test_predict(model: Path, photo: Path):
    done = on_a_device("predict", photo, "--model", model, "--json")
    assert done.returncode == 0, done.stderr
    assert '"label": "three"' in done.stdout


def test_predict_with_a_bare_file(model: Path, photo: Path):
    done = on_a_device("predict", photo, "--model", model / "model.onnx")
    assert done.returncode == 0, done.stderr
    assert "three" in done.stdout


def test_stream(model: Path, tmp_path: Path):
    done = on_a_device(
        "stream", "--camera", "demo", "--model", model, "--frames", 20, "--record", tmp_path / "seen.mp4",
        "--events", tmp_path / "seen.jsonl",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "20 frames" in done.stdout
    assert (tmp_path / "seen.mp4").stat().st_size > 1000
    assert (tmp_path / "seen.jsonl").read_text().count("label") == 1


def test_verify_info_and_doctor(model: Path):
    assert "pass:" in on_a_device("verify", model).stdout
    assert "onnx int8" in on_a_device("info", model).stdout
    doctor = on_a_device("doctor")
    assert doctor.returncode == 0, doctor.stderr
    assert "edgecls[openvino]" in " ".join(doctor.stdout.split())


def test_benchmark_without_a_picture(model: Path):
    done = on_a_device("benchmark", model, "--rounds", 2, "--seconds", 0.1)
    assert done.returncode == 0, done.stderr
    assert "onnx-int8" in done.stdout
    assert "no picture" in done.stderr


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The command in an environment of its own, into which nothing but the wheel and what it asks for was installed."""
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = subprocess.run(
        [sys.executable, *pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT], capture_output=True, text=True
    )
    venv.create(tmp_path / "device", with_pip=True)
    python = tmp_path / "device" / "bin" / "python"
    command = [python, *pip, "install", "--constraint", ROOT / "constraints.txt", *tmp_path.glob("edgecls-*.whl")]
    done = built if built.returncode else subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install here: {done.stderr.strip().splitlines()[-1:]}")
    return python.with_name("edgecls")


def test_the_wheel_alone_does_what_a_device_is_for(installed: Path, model: Path, photo: Path, tmp_path: Path):
    def run(*arguments: object) -> str:
        command = [installed, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    packages = subprocess.run([installed.with_name("python"), "-m", "pip", "list"], capture_output=True, text=True)
    assert not {"torch", "onnx", "scikit-learn"} & {line.split()[0] for line in packages.stdout.splitlines()}
    program = "from edgecls.artifact.schemas import NAMES, schema; print(*(schema(name)['$id'] for name in NAMES))"
    schemas = subprocess.run([installed.with_name("python"), "-I", "-c", program], capture_output=True, text=True)
    assert schemas.stdout.startswith("urn:edgecls:card:"), schemas.stderr
    assert '"label": "three"' in run("predict", photo, "--model", model, "--json")
    assert "10 frames" in run("stream", "--camera", "demo", "--model", model, "--frames", 10, "--display", "none")
    assert "pass:" in run("verify", model)
    assert "onnx-int8" in run("benchmark", model, "--rounds", 2, "--seconds", 0.1)
    assert "onnx int8" in run("info", model)
    assert "onnxruntime" in run("doctor")


@pytest.mark.parametrize("arguments", [("train",), ("export", "--target", "openvino")])
def test_what_needs_an_extra_names_the_pip_line(arguments: tuple[str, ...], trained: Artifact):
    done = on_a_device(*arguments)
    assert done.returncode == 5
    assert "pip install 'edgecls[" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_and_import_load_nothing_heavy():
    program = (
        "import sys; sys.argv = ['edgecls', '--help']\n"
        "import edgecls\nfrom edgecls.cli import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        f"print(sorted(set({(*BLOCKED, 'numpy', 'cv2', 'onnxruntime')!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("[]"), done.stdout[-200:]


def test_an_opencv_that_cannot_be_imported_is_told_with_the_way_out(photo: Path, model: Path, tmp_path: Path):
    broken = tmp_path / "broken" / "cv2"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    program = f"import sys; sys.path.insert(0, {str(broken.parent)!r})\n" + PROGRAM.format(
        blocked=BLOCKED, argv=["edgecls", "predict", str(photo), "--model", str(model)]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 5
    assert "libGL.so.1" in done.stderr
    assert "pip install opencv-python-headless" in done.stderr
    assert "Traceback" not in done.stderr
