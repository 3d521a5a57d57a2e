"""Random variation of training images, in front of the preprocessing that every stage shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecls.imaging.preprocess import Preprocess
from edgecls.training.policies import rand_augment, trivial_augment

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.random import Generator
    from numpy.typing import NDArray

POLICIES = {"none": None, "trivial": trivial_augment, "rand": rand_augment}
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = 3.3
"""Share of the image and largest aspect ratio of what random erasing covers (Zhong et al. 2017, arXiv:1708.04896)."""


@dataclass(frozen=True)
class Augmentation:
    """One random affine map (crop, zoom, aspect, rotation, mirror), then random changes of its colours.

    `area` is the range of the kept part of the image, `aspect` the largest stretch, as in the Inception recipe (Szegedy
    et al. 2015, "Going deeper with convolutions"), with milder values for small data sets. `contrast` and `saturation`
    are relative, `brightness` is in steps of 255, `hue_deg` in degrees. `policy` names operations that come on top,
    `erase` is the share of the images that get a rectangle of noise. `mixup` and `cutmix` are for whole batches: the
    parameter of the Beta distribution by which two images are blended or pasted together, 0 for neither.
    """

    area: tuple[float, float] = (0.45, 1.0)
    aspect: float = 1.25
    rotate_deg: float = 8.0
    mirror: bool = True
    contrast: float = 0.2
    brightness: float = 25.0
    saturation: float = 0.2
    hue_deg: float = 0.0
    policy: str = "none"
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, image: NDArray[uint8], preprocess: Preprocess, generator: Generator) -> NDArray[uint8]:
        """A random view of a BGR image (H, W, 3), at the size of the network's input, still BGR uint8."""
        if self == Augmentation.nothing():
            return image
        view = self._coloured(self._warped(image, preprocess, generator), generator)
        if operations := POLICIES[self.policy]:
            view = operations(view, generator)
        return _erased(view, generator) if generator.random() < self.erase else view

    @classmethod
    def nothing(cls) -> Augmentation:
        """The one that leaves every image as it is."""
        return PRESETS["none"]

    def _warped(self, image: NDArray[uint8], preprocess: Preprocess, generator: Generator) -> NDArray[uint8]:
        import numpy as np

        from edgecls.imaging.opencv import cv2

        height, width = image.shape[:2]
        out_h, out_w = preprocess.height_px, preprocess.width_px
        side = math.sqrt(generator.uniform(*self.area))
        stretch = math.exp(generator.uniform(-1, 1) * math.log(self.aspect) / 2)
        fit = min(width / out_w, height / out_h)
        step_x, step_y = fit * side * stretch, fit * side / stretch
        if self.mirror and generator.random() < 0.5:
            step_x = -step_x
        centre_x = width / 2 + generator.uniform(-1, 1) * max(0.0, width - abs(step_x) * out_w) / 2
        centre_y = height / 2 + generator.uniform(-1, 1) * max(0.0, height - step_y * out_h) / 2
        angle = math.radians(generator.uniform(-self.rotate_deg, self.rotate_deg))
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = np.array([[step_x * cos, -step_y * sin, 0.0], [step_x * sin, step_y * cos, 0.0]])
        matrix[:, 2] = np.array([centre_x, centre_y]) - matrix[:, :2] @ ((out_w - 1) / 2, (out_h - 1) / 2)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, matrix, (out_w, out_h), flags=flags, borderMode=cv2.BORDER_REFLECT_101)

    def _coloured(self, view: NDArray[uint8], generator: Generator) -> NDArray[uint8]:
        import numpy as np

        from edgecls.imaging.opencv import cv2

        gain = 1 + generator.uniform(-self.contrast, self.contrast)
        view = cv2.convertScaleAbs(view, alpha=gain, beta=generator.uniform(-1, 1) * self.brightness)
        if self.hue_deg:
            hsv = cv2.cvtColor(view, cv2.COLOR_BGR2HSV)  # hue in steps of two degrees, 0 to 179
            turned = (hsv[:, :, 0] + generator.uniform(-1, 1) * self.hue_deg / 2) % 180
            hsv[:, :, 0] = turned.astype(np.uint8)
            view = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        if self.saturation:
            share = 1 + generator.uniform(-self.saturation, self.saturation)
            grey = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
            view = cv2.addWeighted(view, share, grey, 1 - share, 0)
        return view.astype(np.uint8, copy=False)


def _erased(view: NDArray[uint8], generator: Generator) -> NDArray[uint8]:
    """The view with a random rectangle of noise."""
    import numpy as np

    height, width = view.shape[:2]
    area = generator.uniform(*ERASED_AREA) * height * width
    aspect = math.exp(generator.uniform(-1, 1) * math.log(ERASED_ASPECT))
    rows = min(height, max(1, round(math.sqrt(area * aspect))))
    columns = min(width, max(1, round(math.sqrt(area / aspect))))
    top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
    view = view.copy()
    view[top : top + rows, left : left + columns] = generator.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    return view


PRESETS = {
    "none": Augmentation((1.0, 1.0), 1.0, 0.0, mirror=False, contrast=0.0, brightness=0.0, saturation=0.0),
    "light": Augmentation((0.85, 1.1), 1.1, 6.0, contrast=0.1, brightness=10.0, saturation=0.0),
    "medium": Augmentation(),
    "strong": Augmentation((0.25, 1.0), 4 / 3, 10.0, hue_deg=10.0, policy="trivial", erase=0.25, mixup=0.2, cutmix=1.0),
}
"""Light suits what is always framed alike, such as digits; medium photographs; strong long trainings."""
