"""Arrays in files that somebody may have damaged; nothing in them is ever unpickled."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

from edgecls.files import read_bytes


def read_arrays(path: Path, *names: str) -> list[Any]:
    """The NumPy arrays of these names in an .npz file.

    Raises `OSError` where it cannot be read and `ValueError` where it is no whole archive that holds them all.
    """
    return parse_arrays(read_bytes(path), *names)


def parse_arrays(content: bytes, *names: str) -> list[Any]:
    """The NumPy arrays of these names in the content of an .npz file. Raises as `read_arrays` does."""
    import numpy as np

    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, KeyError, ValueError, TypeError, EOFError, MemoryError, NotImplementedError, RuntimeError,
            zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise ValueError("no whole archive of arrays") from error
