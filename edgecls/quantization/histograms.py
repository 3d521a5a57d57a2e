"""Histograms of activations for ONNX Runtime's range estimators, counted by OpenCV in threads.

NumPy, which ONNX Runtime's own collector counts with, takes most of the time of a calibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgecls.concurrency import ordered_map
from edgecls.imaging.opencv import cv2

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray


def use_fast_histograms(calibrator: Any) -> None:
    """Let a histogram calibrator of ONNX Runtime count in this way; ranges are still its own to compute."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    class Collector(HistogramCollector):  # type: ignore[misc]
        """Keeps (counts, edges, lowest, highest, end) of each tensor, as the base class does."""

        def collect(self, name_to_arr: Mapping[str, Sequence[NDArray[float32]]]) -> None:
            """Add what the tensors hold for some images."""
            absolute = self.method == "percentile" and self.symmetric

            def grown(item: tuple[str, Sequence[NDArray[float32]]]) -> tuple[str, Any]:
                name, arrays = item
                return name, _grown(self.histogram_dict.get(name), arrays, self.num_bins, absolute)

            self.histogram_dict.update(ordered_map(grown, name_to_arr.items()))

    calibrator.collector = Collector(
        calibrator.method,
        calibrator.symmetric,
        calibrator.num_bins,
        calibrator.num_quantized_bins,
        calibrator.percentile,
        calibrator.scenario,
    )


def _grown(old: Any, arrays: Sequence[NDArray[float32]], bins: int, absolute: bool) -> tuple[Any, ...]:
    """A histogram with further values; where they lie outside of it, it gets more bins of the same width.

    Bins reach from 0, for magnitudes, or else from the negative end, to the end. Raises `ValueError` for values that
    are not finite.
    """
    import numpy as np

    values = [np.ascontiguousarray(array, np.float32).reshape(-1, 1) for array in arrays if array.size]
    low = min((value.min() for value in values), default=np.float32(0))
    high = max((value.max() for value in values), default=np.float32(0))
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("an activation is not finite on the calibration images")
    end = float(max(abs(low), abs(high)))
    counts: NDArray[int64] = np.zeros(bins, np.int64)
    if old is not None:
        counts, _, old_low, old_high, old_end = old
        low, high = min(low, old_low), max(high, old_high)
        counts, end = _widened(counts, old_end, end, absolute)
    for value in values:
        counts = counts + _counted(np.abs(value) if absolute else value, 0.0 if absolute else -end, end, len(counts))
    edges = np.linspace(0.0 if absolute else -end, end, len(counts) + 1, dtype=np.float32)
    return counts, edges, low, high, end


def _widened(counts: NDArray[int64], old_end: float, end: float, absolute: bool) -> tuple[NDArray[int64], float]:
    """Counts with as many bins more at the end, or at both ends, as `end` needs, and where they end then."""
    import numpy as np

    if end <= old_end:
        return counts, old_end
    if old_end == 0:
        return counts, end
    width = old_end / len(counts) if absolute else 2 * old_end / len(counts)
    more = int((end - old_end) // width) + 1
    return np.pad(counts, (0 if absolute else more, more)), old_end + more * width


def _counted(values: NDArray[float32], low: float, high: float, bins: int) -> NDArray[int64]:
    """How many values (N, 1) lie in each bin; the last one holds `high` too."""
    import numpy as np

    if low == high:
        low, high = low - 0.5, high + 0.5  # as NumPy does
    beyond = float(np.nextafter(np.float32(high), np.float32(np.inf)))
    counts = cv2.calcHist([values], [0], None, [bins], [low, beyond])
    return counts.ravel().astype(np.int64)
