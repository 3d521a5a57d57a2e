"""What our HTML pages share. Their templates escape every value; one file needs nothing else."""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.data.sources import Source
from edgecls.errors import ImageError, MissingExtraError
from edgecls.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

THUMBNAIL_PX = 160


def write(path: Path, template: str, **values: Any) -> None:
    """Fill in a template and write the page. Raises `MissingExtraError`."""
    write_text(path, environment().get_template(f"{template}.html.jinja").render(values))


@lru_cache
def environment() -> Environment:
    """Where the templates are loaded: it escapes, and a name that was not given is an error."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("jinja2", "train", "writing a page") from error
    made = Environment(
        loader=PackageLoader("edgecls.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters["percent"] = percent
    return made


def percent(fraction: float | None) -> str:
    """A fraction as a percentage, or a dash."""
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def data_url(kind: str, picture: bytes) -> str:
    """An address that holds the picture itself."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def thumbnail(source: Source, key: str) -> str | None:
    """The address of an image made small; None where it cannot be read any more."""
    from edgecls.imaging.opencv import cv2

    try:
        image = source.read(key)
    except ImageError:
        return None
    scale = THUMBNAIL_PX / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    _, jpeg = cv2.imencode(
        ".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA), [cv2.IMWRITE_JPEG_QUALITY, 80]
    )
    return data_url("jpeg", jpeg.tobytes())
