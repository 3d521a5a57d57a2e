"""Whether a changed graph gives the scores that somebody's untouched one gives: both are run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import INPUT_NAME, OUTPUT_NAME
from edgecls.errors import ArtifactError, first_line
from edgecls.importers.classifier import Classifier, Pixels

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

CHECKED_IMAGES = 3
TOLERANCE = 0.01
"""Largest allowed difference between their answers and those of the changed graph, relative to the largest score."""
COARSE_TOLERANCE = 0.05
"""The same for graphs that compute in float16 or int8, where the last bit of an input decides more."""


def random_patches(count: int, size_px: tuple[int, int]) -> NDArray[uint8]:
    """Raw images (count, h, w, 3) of random colours in patches."""
    import numpy as np

    from edgecls.imaging.opencv import cv2

    height, width = size_px
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST) for image in coarse])


def untouched_scores(theirs: Classifier, pixels: Pixels, images: NDArray[uint8], classes: int) -> NDArray[Any]:
    """What the untouched file answers, the first dimension being the images."""
    import numpy as np

    run = _session(theirs.file)
    arranged = _arranged(theirs, pixels, images)
    answers: list[Any] = []
    for few in _groups(arranged, theirs.batch or 1):
        try:
            [scores] = run.run([theirs.scores], {theirs.image: few})
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise ArtifactError(f"{theirs.file} does not run in ONNX Runtime: {first_line(error)}") from error
        if scores.size != len(few) * classes:
            raise ArtifactError(
                f"{theirs.file} gives {scores.size // len(few)} scores, the classes file names {classes}; they must be "
                f"the same (the output {theirs.scores} has shape {list(scores.shape)})"
            )
        answers.append(scores if scores.ndim > 1 else scores.reshape(len(few), 1, 1, classes))
    return np.concatenate(answers)[: len(images)].astype(np.float32)


def _arranged(theirs: Classifier, pixels: Pixels, images: NDArray[uint8]) -> NDArray[Any]:
    """Raw images as their network wants them."""
    import numpy as np
    import onnx

    from edgecls.imaging.opencv import cv2

    if theirs.channels == 1:
        images = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] for image in images])
    values = images if theirs.channels_last else images.transpose(0, 3, 1, 2)
    if not theirs.takes_raw_pixels:
        scale, shift = scale_and_shift(theirs, pixels)
        values = values * scale - shift
    dtype = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(theirs.kind))
    return np.ascontiguousarray(values.astype(dtype))


def scale_and_shift(theirs: Classifier, pixels: Pixels) -> tuple[NDArray[Any], NDArray[Any]]:
    """By what pixels of 0 to 255 are multiplied, and what is then taken away, in the layout of their input."""
    import numpy as np

    shape = (1, 1, 1, -1) if theirs.channels_last else (1, -1, 1, 1)
    mean, std = (np.array(values[: theirs.channels], np.float32).reshape(shape) for values in (pixels.mean, pixels.std))
    return 1 / (255 * std), mean / std


def _groups(images: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """Batches of exactly that size, the last one filled up with its last image."""
    import numpy as np

    for start in range(0, len(images), size):
        few = images[start : start + size]
        yield np.concatenate([few, np.repeat(few[-1:], size - len(few), axis=0)])


def difference(theirs: Classifier, changed: Path, images: NDArray[uint8], wanted: NDArray[Any]) -> str:
    """Why the changed graph does not answer as theirs did, alone and all at once; empty where it does."""
    import numpy as np

    if not np.isfinite(wanted).all():
        return ""  # told for what it is when the run is examined
    exact = theirs.kind in ("FLOAT", "DOUBLE") and not _is_coarse(theirs.model)
    allowed = (TOLERANCE if exact else COARSE_TOLERANCE) * float(np.abs(wanted).max())
    for count in (1, len(images)):
        try:
            [scores] = _session(changed).run([OUTPUT_NAME], {INPUT_NAME: images[:count]})
        except ArtifactError as error:
            return str(error)
        except Exception as error:  # as above
            return first_line(error)
        if scores.shape != wanted[:count].shape:
            return f"scores {scores.shape} for {count} images"
        difference = float(np.abs(scores - wanted[:count]).max())
        if not difference <= allowed:
            return f"scores of {count} images differ by up to {difference:.3g} from those of one image each"
    return ""


def _is_coarse(model: Any) -> bool:
    from onnx import TensorProto

    half = any(tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for tensor in model.graph.initializer)
    return half or any("Quantize" in node.op_type or "Integer" in node.op_type for node in model.graph.node)


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters is told as an exception
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ArtifactError(f"{file} does not run in ONNX Runtime: {first_line(error)}") from error
