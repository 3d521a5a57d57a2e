"""The ranges are those of ONNX Runtime's own collector, to a bin."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from edgecls.quantization.histograms import use_fast_histograms

BINS = 2048


def collectors(method: str, symmetric: bool):
    """ONNX Runtime's collector, and ours."""
    arguments = (method, symmetric, BINS if method == "percentile" else 128, 128, 99.9, "same")
    names = ("method", "symmetric", "num_bins", "num_quantized_bins", "percentile", "scenario")
    calibrator = SimpleNamespace(**dict(zip(names, arguments, strict=True)), collector=None)
    use_fast_histograms(calibrator)
    return HistogramCollector(*arguments), calibrator.collector


def batches(shape: str):
    """Three times four images' activations, in a range that grows."""
    generator = np.random.default_rng(0)
    for scale in (1.0, 3.0, 2.5):
        values = generator.normal(size=(4, 1, 8, 40, 40)).astype(np.float32) * scale
        if shape == "rectified":
            values = np.maximum(values, 0)
        elif shape == "saturated":
            values = np.clip(values, 0, 6)
        elif shape == "negative":
            values = -np.abs(values)
        yield {"tensor": list(values), "constant": [np.zeros((1, 3), np.float32)] * 4}


@pytest.mark.parametrize("shape", ["normal", "rectified", "saturated", "negative"])
@pytest.mark.parametrize(
    ("method", "symmetric"), [("percentile", False), ("percentile", True), ("entropy", False), ("entropy", True)]
)
def test_ranges_are_those_of_onnx_runtimes_collector(method: str, symmetric: bool, shape: str):
    theirs, ours = collectors(method, symmetric)
    for batch in batches(shape):
        theirs.collect(batch)
        ours.collect(batch)
    wanted, actual = theirs.compute_collection_result(), ours.compute_collection_result()
    assert actual.keys() == wanted.keys()
    bins = 2 if method == "percentile" else 4  # entropy tries ranges step by step
    for name in wanted:
        width = float(ours.histogram_dict[name][1][1] - ours.histogram_dict[name][1][0])
        np.testing.assert_allclose(actual[name][:2], wanted[name][:2], atol=bins * width + 1e-6)
    assert ours.histogram_dict["tensor"][0].sum() == 3 * 4 * 8 * 40 * 40


def test_activations_that_are_not_finite_are_an_error():
    _, ours = collectors("percentile", False)
    with pytest.raises(ValueError, match="not finite"):
        ours.collect({"tensor": [np.array([1.0, np.inf], np.float32)]})
