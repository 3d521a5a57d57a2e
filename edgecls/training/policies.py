"""TrivialAugment and RandAugment: random operations from one list, drawn from a generator of one's own.

Operations and their ranges are those of TrivialAugment's "wide" space (Müller and Hutter 2021, arXiv:2103.10158, table
4); Pillow computes them. Torchvision's classes draw from the process's one generator, which in threads is unrepeatable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.random import Generator
    from numpy.typing import NDArray

    Operation = Callable[[Any, float], Any]

RAND_OPERATIONS = 2
RAND_MAGNITUDE = 9 / 30
"""As RandAugment's authors found for ImageNet (Cubuk et al. 2019, arXiv:1909.13719)."""
SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "colour", "contrast", "sharpness")


def trivial_augment(image: NDArray[uint8], generator: Generator) -> NDArray[uint8]:
    """One random operation of random strength on an image (H, W, 3) BGR uint8."""
    return _applied(image, [(int(generator.integers(len(OPERATIONS))), generator.random(), generator.random() < 0.5)])


def rand_augment(image: NDArray[uint8], generator: Generator) -> NDArray[uint8]:
    """Two random operations of one strength on an image (H, W, 3) BGR uint8."""
    picks = [
        (int(generator.integers(len(OPERATIONS))), RAND_MAGNITUDE, generator.random() < 0.5)
        for _ in range(RAND_OPERATIONS)
    ]
    return _applied(image, picks)


def _applied(image: NDArray[uint8], picks: list[tuple[int, float, bool]]) -> NDArray[uint8]:
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(image[:, :, ::-1])
    for index, strength, negative in picks:
        name, operation = OPERATIONS[index]
        picture = operation(picture, -strength if negative and name in SIGNED else strength)
    return np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])


def _shear(picture: Any, x: float, y: float) -> Any:
    return _affine(picture, (1, x, -x * picture.height / 2, y, 1, -y * picture.width / 2))


def _affine(picture: Any, matrix: tuple[float, ...]) -> Any:
    from PIL import Image

    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _rotate(picture: Any, strength: float) -> Any:
    from PIL import Image

    return picture.rotate(135 * strength, Image.Resampling.BILINEAR)


def _enhanced(kind: str) -> Operation:
    def enhance(picture: Any, strength: float) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, kind)(picture).enhance(1 + 0.99 * strength)

    return enhance


def _posterize(picture: Any, strength: float) -> Any:
    from PIL import ImageOps

    return ImageOps.posterize(picture, 8 - round(6 * strength))


def _solarize(picture: Any, strength: float) -> Any:
    from PIL import ImageOps

    return ImageOps.solarize(picture, round(255 * (1 - strength)))


def _autocontrast(picture: Any, _strength: float) -> Any:
    from PIL import ImageOps

    return ImageOps.autocontrast(picture)


def _equalize(picture: Any, _strength: float) -> Any:
    from PIL import ImageOps

    return ImageOps.equalize(picture)


OPERATIONS: tuple[tuple[str, Operation], ...] = (
    ("identity", lambda picture, _strength: picture),
    ("shear_x", lambda picture, strength: _shear(picture, 0.99 * strength, 0)),
    ("shear_y", lambda picture, strength: _shear(picture, 0, 0.99 * strength)),
    ("translate_x", lambda picture, strength: _affine(picture, (1, 0, 32 / 224 * picture.width * strength, 0, 1, 0))),
    ("translate_y", lambda picture, strength: _affine(picture, (1, 0, 0, 0, 1, 32 / 224 * picture.height * strength))),
    ("rotate", _rotate),
    ("brightness", _enhanced("Brightness")),
    ("colour", _enhanced("Color")),
    ("contrast", _enhanced("Contrast")),
    ("sharpness", _enhanced("Sharpness")),
    ("posterize", _posterize),
    ("solarize", _solarize),
    ("autocontrast", _autocontrast),
    ("equalize", _equalize),
)
