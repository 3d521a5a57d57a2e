"""Features of pictures, computed once: small copies for the page, and embeddings."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

from edgecls.concurrency import chunked
from edgecls.errors import EdgeclsError, ImageError
from edgecls.files import make_folder, write_bytes
from edgecls.imaging.decode import read_image

if TYPE_CHECKING:
    from numpy import float16, float32, uint8
    from numpy.typing import NDArray

    from edgecls.runtime.classifier import Classifier


class Features(NamedTuple):
    """What is seen in a picture, (D,), what the model takes it for ("" without one), and how unsure it is, 0 to 1."""

    point: NDArray[float16] | NDArray[float32]
    guess: str = ""
    unsure: float = 1.0


THUMBNAIL_PX = 240
PLAIN = "colours-1"
"""Names the features that need no model, and their version."""
CELLS = 8
TOGETHER = 128
"""Pictures that are written to the disk at once: as many are looked at again after a crash, at most."""
THUMBNAIL_QUALITY = 82
END_OF_JPEG = b"\xff\xd9"


class Thumbnails:
    """Small JPEGs of pictures, made once and kept in a folder. Safe to share between threads."""

    def __init__(self, pictures: Path, folder: Path):
        self._pictures, self._folder = pictures, folder

    def get(self, item: str) -> bytes:
        """The small JPEG of a picture. Raises `ImageError` for what is none."""
        try:
            content = self._file(item).read_bytes()
        except OSError:
            content = b""
        return content if content.endswith(END_OF_JPEG) else self.put(item, read_image(self._pictures / item))

    def put(self, item: str, image: NDArray[uint8]) -> bytes:
        """Make the small copy of a picture that is decoded already, BGR; returns it. A full disk troubles nobody."""
        from edgecls.imaging.opencv import cv2

        scale = THUMBNAIL_PX / max(image.shape[:2])
        if scale < 1:
            size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        content: bytes = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY])[1].tobytes()
        try:  # not synced: one that was torn is made again
            file = self._file(item)
            make_folder(file.parent)
            file.write_bytes(content)
        except (OSError, EdgeclsError):
            pass
        return content

    def _file(self, item: str) -> Path:
        """Named by the picture's path, time and size, so that another picture of that name gets its own."""
        found = (self._pictures / item).stat()
        named = hashlib.sha256(f"{item}\0{found.st_size}\0{found.st_mtime_ns}".encode("utf-8", "surrogateescape"))
        return self._folder / named.hexdigest()[:2] / f"{named.hexdigest()[2:34]}.jpg"


class FeatureExtractor:
    """Embeddings of pictures, written to a folder piece by piece, so that they are computed once.

    Without a model that gives embeddings pictures are told apart by their colours and brightness in 8 by 8 cells.
    With `thumbnails` the small copies are made on the way.
    """

    def __init__(self, pictures: Path, folder: Path, thumbnails: Thumbnails | None, model: Classifier | None = None):
        self._pictures, self._thumbnails, self._model = pictures, thumbnails, model
        self._folder = folder / (PLAIN if model is None else _named(model))
        self.unreadable: dict[str, str] = {}
        """Pictures that cannot be read, and why."""

    def find(
        self,
        items: Sequence[str],
        heard: Callable[[Mapping[str, Features]], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Give the features of each picture: first of those that are known, then piece by piece of the others."""
        known = self._read()
        wanted = {item: known[item] for item in items if item in known}
        if wanted:
            heard(wanted)
        for piece in chunked((item for item in items if item not in known), TOGETHER):
            found: dict[str, Features] = {}
            for item in piece:
                if stopped():
                    break
                try:
                    image = read_image(self._pictures / item)
                    if self._thumbnails is not None:
                        self._thumbnails.put(item, image)
                    features = self._extract(image)
                    found[item] = features._replace(point=features.point.astype("float16"))
                except (ImageError, OSError) as error:
                    self.unreadable[item] = str(error)
            if found:
                self._write(found)
                heard(found)
            if stopped():
                return

    def _extract(self, image: NDArray[uint8]) -> Features:
        if self._model is None:
            return Features(plain_features(image))
        prediction, embedding = self._model.embed(image)
        (best, score), *others = prediction.top(2)
        return Features(embedding, best, 1 - (score - others[0][1]) if others else 1.0)

    def _read(self) -> dict[str, Features]:
        import numpy as np

        known: dict[str, Features] = {}
        for file in sorted(self._folder.glob("*.npz")):
            try:
                with np.load(file, allow_pickle=False) as content:
                    items, guesses = (_texts(content[name]) for name in ("items", "guesses"))
                    points, unsure = content["points"], content["unsure"].tolist()
                known.update(zip(items, map(Features, points, guesses, unsure), strict=True))
            except (OSError, ValueError, KeyError, BadZipFile):
                continue  # looked at again
        return known

    def _write(self, found: Mapping[str, Features]) -> None:
        import numpy as np

        named, features = _bytes(found), [*found.values()]
        content = io.BytesIO()
        np.savez(
            content,
            items=np.frombuffer(named, np.uint8),
            guesses=np.frombuffer(_bytes(each.guess for each in features), np.uint8),
            points=np.stack([each.point for each in features]).astype(np.float16),
            unsure=np.array([each.unsure for each in features], np.float32),
        )
        try:
            make_folder(self._folder)
            write_bytes(self._folder / f"{hashlib.sha256(named).hexdigest()[:16]}.npz", content.getvalue())
        except EdgeclsError:
            pass  # a full disk: the next program computes them again


def _bytes(texts: Iterable[str]) -> bytes:
    return "\0".join(texts).encode("utf-8", "surrogateescape")


def _texts(content: Any) -> list[str]:
    return str(content.tobytes().decode("utf-8", "surrogateescape")).split("\0")


def plain_features(image: NDArray[uint8]) -> NDArray[float32]:
    """Colours (CIELAB) of 8 by 8 cells and how much varies in each, (256,)."""
    import numpy as np

    from edgecls.imaging.opencv import cv2

    small = cv2.resize(image, (CELLS * 8, CELLS * 8), interpolation=cv2.INTER_AREA)
    cells = cv2.cvtColor(small, cv2.COLOR_BGR2LAB).astype(np.float32).reshape(CELLS, 8, CELLS, 8, 3)
    means, spread = cells.mean(axis=(1, 3)), cells[..., 0].std(axis=(1, 3))
    result: NDArray[float32] = np.concatenate([means.ravel(), spread.ravel()]).astype(np.float32)
    return result


def _named(model: Classifier) -> str:
    """A folder's name for what a model sees."""
    files: Any = sorted(model.card.lineage.files.items())
    return f"embeddings-{hashlib.sha256(repr((str(model.path.resolve()), files)).encode()).hexdigest()[:16]}"
