"""Geometry of an image on its way to the network: the same code in validation, calibration, parity and every runtime.

Arithmetic (mean, std) is recorded here as well, but it runs inside the exported graph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgecls.errors import ImageError
from edgecls.fields import Fields
from edgecls.imaging.yuv import Picture, Yuv

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

Resize = Literal["crop", "stretch", "letterbox"]
Interpolation = Literal["pyramid", "linear", "area", "cubic", "nearest"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Channel means of ImageNet in RGB order on a 0..1 scale, as torchvision's weights expect them."""
IMAGENET_STD = (0.229, 0.224, 0.225)
LETTERBOX_GREY = 114
MAX_SIDE_PX = 8192
"""Of a network's input; a larger one is a mistake in a card."""
MIN_STD = 1e-6
MAX_SHIFT = 1e4
"""Of means and standard deviations; on a scale of 0 to 1 they are about one."""


@dataclass(frozen=True)
class Preprocess:
    """How an image of any size becomes the network's input.

    `crop` takes the largest centred region with the aspect ratio of the input, `stretch` ignores the aspect ratio,
    `letterbox` keeps the whole image and fills the rest with grey. `crop` keeps only that share of the region's sides:
    0.875 is the field's "resize to 256, then crop 224". `mean` and `std` are per RGB channel, on 0..1.

    `pyramid` halves the image by averaging while it is at least twice too large, then interpolates linearly: on large
    photographs it is as accurate as `area` and several times faster, where plain `linear` skips pixels and loses
    accuracy. The others are OpenCV's.

    >>> import numpy as np
    >>> Preprocess(height_px=64, width_px=64)(np.zeros((480, 640, 3), np.uint8)).shape
    (64, 64, 3)
    """

    height_px: int
    width_px: int
    resize: Resize = "crop"
    interpolation: Interpolation = "pyramid"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop: float = 1.0

    def __call__(self, image: Picture) -> NDArray[uint8]:
        """Bring one image into shape.

        Takes BGR uint8 (H, W, 3) as OpenCV delivers it; grey (H, W) or (H, W, 1) and BGRA (H, W, 4) are accepted too,
        and `Yuv` as video decoders deliver it, whose planes are scaled one by one by the same rule.
        Returns RGB uint8 (height_px, width_px, 3), contiguous. Raises `ImageError` for anything else.
        """
        from edgecls.imaging.opencv import cv2

        if not isinstance(image, Yuv):
            image = _as_bgr(image)
        image = self._crop(image) if self.resize == "crop" else image[:, :]
        height, width = self._scaled_size(*image.shape[:2])
        if isinstance(image, Yuv):
            pixels = image.to_rgb(lambda plane: self._scaled(plane, height, width))
        else:
            pixels = cv2.cvtColor(self._scaled(image, height, width), cv2.COLOR_BGR2RGB)
        return self._filled(pixels) if self.resize == "letterbox" else pixels

    def reduction(self, height: int, width: int) -> int:
        """By how much, 1, 2, 4, ..., an image of this size may be scaled down by averaging before anything else.

        What is left is at least as large as the network's input needs, whichever way the image is turned. 1 where the
        geometry does not average pixels, as others would come out then.
        """
        return _reduction(self, height, width)

    def _is_enough(self, height: int, width: int) -> bool:
        if not (height and width):
            return False
        if self.resize == "letterbox":
            return height >= self.height_px or width >= self.width_px
        if self.resize == "crop":
            height, width = self._kept(height, width)
        return height >= self.height_px and width >= self.width_px

    def _scaled(self, image: NDArray[uint8], height: int, width: int) -> NDArray[uint8]:
        from edgecls.imaging.opencv import cv2

        if self.interpolation == "pyramid":
            # OpenCV averages 2x2 blocks exactly, and fast, where both sides are even.
            while image.shape[0] >= 2 * height and image.shape[1] >= 2 * width:
                half_h, half_w = image.shape[0] // 2, image.shape[1] // 2
                even = image[: 2 * half_h, : 2 * half_w]
                image = cv2.resize(even, (half_w, half_h), interpolation=cv2.INTER_AREA)
        if image.shape[:2] == (height, width):
            return image
        flags = {"area": cv2.INTER_AREA, "cubic": cv2.INTER_CUBIC, "nearest": cv2.INTER_NEAREST}
        return cv2.resize(image, (width, height), interpolation=flags.get(self.interpolation, cv2.INTER_LINEAR))

    def seen(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width, in pixels, of the region of an image of this size that the network gets to see.

        It begins and ends at multiples of the reduction: it is the same of an image that comes reduced.
        """
        if self.resize != "crop":
            return 0, 0, height, width
        by = self.reduction(height, width)
        keep_h, keep_w = self._kept(height // by, width // by)
        top, left = (height // by - keep_h) // 2, (width // by - keep_w) // 2
        return by * top, by * left, by * keep_h, by * keep_w

    def laid_over(self, values: NDArray[float32], height: int, width: int) -> NDArray[float32]:
        """A map of the network's input (height_px, width_px) as one (height, width) of an image of that size.

        What the network does not see is NaN.
        """
        import numpy as np

        from edgecls.imaging.opencv import cv2

        top, left, seen_h, seen_w = self.seen(height, width)
        scaled_h, scaled_w = self._scaled_size(seen_h, seen_w)
        edge_y, edge_x = (self.height_px - scaled_h) // 2, (self.width_px - scaled_w) // 2
        inside = values[edge_y : edge_y + scaled_h, edge_x : edge_x + scaled_w]
        laid = np.full((height, width), np.nan, np.float32)
        laid[top : top + seen_h, left : left + seen_w] = cv2.resize(
            inside, (seen_w, seen_h), interpolation=cv2.INTER_LINEAR
        )
        return laid

    def _crop(self, image: Picture) -> Picture:
        top, left, height, width = self.seen(*image.shape[:2])
        return image[top : top + height, left : left + width]

    def _kept(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the region that `crop` takes of an image."""
        if height * self.width_px > width * self.height_px:
            keep_h, keep_w = max(1, width * self.height_px // self.width_px), width
        else:
            keep_h, keep_w = height, max(1, height * self.width_px // self.height_px)
        return max(1, round(keep_h * self.crop)), max(1, round(keep_w * self.crop))

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which a region of this size is scaled."""
        if self.resize != "letterbox":
            return self.height_px, self.width_px
        scale = min(self.height_px / height, self.width_px / width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _filled(self, image: NDArray[uint8]) -> NDArray[uint8]:
        """The image in the middle of the network's input, grey around it."""
        from edgecls.imaging.opencv import cv2

        height, width = self.height_px - image.shape[0], self.width_px - image.shape[1]
        top, left = height // 2, width // 2
        grey = (LETTERBOX_GREY,) * 3
        return cv2.copyMakeBorder(image, top, height - top, left, width - left, cv2.BORDER_CONSTANT, value=grey)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the card."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std), "color": "rgb"}

    @classmethod
    def from_fields(cls, fields: Fields) -> Preprocess:
        """Read what `to_json` wrote. Raises `ArtifactError` for a geometry that this program does not know."""
        red, green, blue = fields.numbers("mean", 3, -MAX_SHIFT, MAX_SHIFT)
        std_red, std_green, std_blue = fields.numbers("std", 3, MIN_STD, MAX_SHIFT)
        fields.choice("color", ("rgb",), "rgb")
        return cls(
            height_px=fields.integer("height_px", 1, MAX_SIDE_PX),
            width_px=fields.integer("width_px", 1, MAX_SIDE_PX),
            resize=fields.choice("resize", get_args(Resize)),
            interpolation=fields.choice("interpolation", get_args(Interpolation)),
            mean=(red, green, blue),
            std=(std_red, std_green, std_blue),
            crop=fields.number("crop", 0.0, 1.0, 1.0, above=True),
        )


@lru_cache(maxsize=256)
def _reduction(preprocess: Preprocess, height: int, width: int) -> int:
    """See `Preprocess.reduction`: asked for every frame, and the same for all of a camera."""
    by = 1
    if preprocess.interpolation in ("pyramid", "area"):
        while all(preprocess._is_enough(h // (2 * by), w // (2 * by)) for h, w in ((height, width), (width, height))):
            by *= 2
    return by


ANY_SIZE = Preprocess(height_px=1, width_px=1)
"""For whoever only wants to know whether an image can be decoded."""


def _as_bgr(image: NDArray[uint8]) -> NDArray[uint8]:
    from edgecls.imaging.opencv import cv2

    if getattr(image, "dtype", None) != "uint8" or image.ndim not in (2, 3) or image.size == 0:
        what = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise ImageError(f"an image must be a uint8 array (H, W, 3) in BGR order, as cv2.imread gives; got {what}")
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if channels == 4:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    if channels != 3:
        raise ImageError(f"an image has 1, 3 or 4 channels, this one has {channels}")
    return image
