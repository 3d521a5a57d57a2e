"""Damaged files: bytes changed, cut, doubled and swapped by rule. An answer or one clear error, no crash, no hang."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgecls.artifact.golden import Golden
from edgecls.errors import ArtifactError, ImageError
from edgecls.imaging.decode import decode_image
from edgecls.imaging.opencv import cv2
from edgecls.models import read_weights
from edgecls.runtime.store import Artifact
from tests.fuzz.conftest import SECONDS

SHORT = 150
"""Mutations of each file in the short form."""


def mutations(content: bytes, short: int = SHORT) -> Iterator[bytes]:
    """The content with a few places changed, differently each time; the same every time for the short form."""
    generator = np.random.default_rng(0 if not SECONDS else None)
    begun, count = time.monotonic(), 0
    while count < short if not SECONDS else time.monotonic() - begun < SECONDS:
        count += 1
        changed = bytearray(content)
        for _ in range(int(generator.integers(1, 5))):
            at = int(generator.integers(0, max(1, len(changed))))
            length = int(generator.integers(1, 33))
            match int(generator.integers(0, 5)):
                case 0:
                    changed[at : at + 1] = generator.bytes(1)
                case 1:
                    changed[at : at + length] = b"\xff" * length
                case 2:
                    del changed[at : at + length]
                case 3:
                    changed[at:at] = changed[at : at + length]
                case 4:
                    del changed[max(1, at) :]
        yield bytes(changed)


def encoded(suffix: str) -> bytes:
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff", ".gif", ".avif"])
def test_a_damaged_image_is_read_or_refused(suffix: str):
    for content in mutations(encoded(suffix)):
        try:
            image = decode_image(content, "photo")
        except ImageError as error:
            assert len(str(error).splitlines()) == 1
            continue
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.size


def test_a_damaged_telephone_picture_is_read_or_refused():
    heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    heif.from_bytes("RGB", (60, 40), np.random.default_rng(0).bytes(7200)).save(stream, quality=60)
    for content in mutations(stream.getvalue(), 40):
        try:
            assert decode_image(content, "photo").dtype == np.uint8
        except ImageError as error:
            assert len(str(error).splitlines()) == 1


def test_damaged_golden_inputs_fit_the_card_or_are_refused(trained: Artifact, tmp_path: Path):
    whole = (trained.path / "golden.npz").read_bytes()
    for content in mutations(whole):
        (tmp_path / "golden.npz").write_bytes(content)
        try:
            golden = Golden.read(tmp_path, trained.card)
        except ArtifactError as error:
            assert len(str(error).splitlines()) == 1
            continue
        assert golden.images.shape[1:] == trained.card.input_shape
        assert np.isfinite(golden.scores).all()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_damaged_weights_are_finite_tensors_or_refused(trained: Artifact, tmp_path: Path, suffix: str):
    import torch

    weights = {"a.weight": torch.rand(8, 3), "a.bias": torch.rand(8)}
    file = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save({"model": weights, "epoch": 3}, file)
    else:
        from safetensors.torch import save_file

        save_file(weights, file)
    for content in mutations(file.read_bytes()):
        file.write_bytes(content)
        try:
            found = read_weights(file)
        except ArtifactError:
            continue
        assert all(bool(tensor.isfinite().all()) for tensor in found.values() if tensor.is_floating_point())


OPENED = """
import sys
import numpy as np
import edgecls
from edgecls.errors import EdgeclsError

for path in sys.argv[1:]:
    try:
        with edgecls.load(path) as model:
            model.predict(np.zeros((32, 32, 3), np.uint8))
    except EdgeclsError:
        pass
"""


def test_damaged_model_files_open_or_are_refused(bundle: Callable[[str, str], Artifact], tmp_path: Path):
    """In a process of its own: what is damaged in the runtime's own part must not end this one."""
    whole = (bundle("onnx", "fp32").path / "model.onnx").read_bytes()
    files = []
    for number, content in enumerate(mutations(whole, 40)):
        files.append(tmp_path / f"{number}.onnx")
        files[-1].write_bytes(content)
    ended = subprocess.run(
        [sys.executable, "-c", OPENED, *map(str, files)], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
