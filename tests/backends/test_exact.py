"""Integers without saturation, on every processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecls import backends
from edgecls.artifact.card import Card
from edgecls.errors import UsageError
from edgecls.imaging.preprocess import Preprocess
from edgecls.runtime import machine

SIZE = 8


@pytest.fixture
def saturating(tmp_path: Path) -> Path:
    """A graph whose pairs of 8-bit products do not fit into 16 bits: bright pixels times the largest weights."""
    weights = np.full((2, 3, 1, 1), 127, np.int8)
    weights[1] = -127
    tensors = {
        "weights": weights,
        "one": np.float32(1.0),
        "small": np.float32(2.0**-10),
        "zero_u": np.uint8(0),
        "zero_i": np.int8(0),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("QuantizeLinear", ["planes", "one", "zero_u"], ["quantized"]),
        helper.make_node("DequantizeLinear", ["quantized", "one", "zero_u"], ["input"]),
        helper.make_node("DequantizeLinear", ["weights", "small", "zero_i"], ["kernel"]),
        helper.make_node("Conv", ["input", "kernel"], ["sums"]),
        helper.make_node("QuantizeLinear", ["sums", "one", "zero_i"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["rounded", "one", "zero_i"], ["output"]),
        helper.make_node("ReduceMean", ["output"], ["scores"], axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "saturating",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path = tmp_path / "saturating.onnx"
    onnx.save(model, path)
    return path


CARD = Card("imported", ("bright", "dark"), Preprocess(SIZE, SIZE), target="onnx", precision="int8")


def test_no_product_saturates(saturating: Path):
    bright = np.full((2, SIZE, SIZE, 3), 250, np.uint8)
    wanted = round(3 * 250 * 127 / 1024)
    with backends.of_every_install().open_exact(saturating, CARD) as session:
        np.testing.assert_array_equal(session.infer(bright), [[wanted, -wanted]] * 2)


def test_where_the_processors_own_kernels_saturate_the_two_differ(saturating: Path):
    if machine.int8_kind(machine.this_machine()) != "x86":
        pytest.skip("this processor's kernels do not saturate")
    bright = np.full((1, SIZE, SIZE, 3), 250, np.uint8)
    backend = backends.of_every_install()
    with backend.open(saturating, CARD) as own, backend.open_exact(saturating, CARD) as exact:
        assert np.abs(own.infer(bright) - exact.infer(bright)).max() > 10


def test_a_runtime_without_such_a_way_says_so(saturating: Path):
    with pytest.raises(UsageError, match="cannot compute integers exactly"):
        backends.find("openvino").open_exact(saturating, CARD)
