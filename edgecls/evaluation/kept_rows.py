"""What was computed of single images, kept on this machine: the next time only new images are computed."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgecls.artifact.arrays import parse_arrays
from edgecls.cache import Entry, keeps

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray


def kept_rows(
    entry: Entry, digests: Sequence[str], compute: Callable[[Sequence[int]], NDArray[float32]]
) -> NDArray[float32]:
    """One row of figures (N, D) for each image with these SHA-256; `compute` gives those at some positions.

    Rows of other images stay kept as long as the entry does not grow to twice of what was asked for.
    """
    import numpy as np

    known = _read(entry)
    missing = [position for position, digest in enumerate(digests) if digest not in known]
    if missing:
        known.update(zip((digests[position] for position in missing), compute(missing), strict=True))
        names = list(known) if len(known) <= 2 * len(digests) else list(dict.fromkeys(digests))
        if keeps(len(names) * known[names[0]].nbytes):
            content = io.BytesIO()
            np.savez(content, digests=np.array(names), rows=np.stack([known[name] for name in names]))
            entry.write(content.getvalue())
    return np.stack([known[digest] for digest in digests]) if len(digests) else np.empty((0, 0), np.float32)


def _read(entry: Entry) -> dict[str, NDArray[float32]]:
    if (content := entry.read()) is None:
        return {}
    try:
        digests, rows = parse_arrays(content, "digests", "rows")
        return dict(zip(digests.tolist(), rows, strict=True))
    except ValueError:
        entry.discard()
        return {}
