"""What is known about shapes before the first image comes is worked out then."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgecls.exporting.graph import simplified


class PadsAsTensorFlowDoes(nn.Module):
    """Two strided convolutions whose padding is computed from the size of what comes in."""

    def __init__(self, value: float = 0.0):
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 5, 2, padding=1)])
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for convolution in self.convolutions:
            over = [torch.ceil(torch.as_tensor(side) / 2).long() * 2 + 1 - side for side in x.shape[-2:]]
            x = functional.pad(x, [0, over[1], 0, over[0]], value=self.value)
            x = torch.relu(convolution(x))
        return x.reshape(x.shape[0], -1)


def traced(module: nn.Module, path: Path) -> onnx.ModelProto:
    torch.onnx.export(
        module.eval(), (torch.zeros(2, 3, 10, 13),), str(path), dynamo=False, input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
    )  # fmt: skip
    return onnx.load(path)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def answers(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    simpler = simplified(model)
    onnx.checker.check_model(simpler)
    return simpler


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 3, 10, 13)).astype(np.float32)


def test_padding_computed_from_the_size_becomes_the_convolutions_own(tmp_path: Path, images: np.ndarray):
    model = traced(PadsAsTensorFlowDoes(), tmp_path / "model.onnx")
    assert operators(model)["Pad"] == 2
    found = operators(folded(model))
    assert found["Pad"] == found["Ceil"] == found["Div"] == 0
    assert found["Conv"] == 2
    np.testing.assert_allclose(answers(folded(model), images), answers(model, images), rtol=1e-6)


def test_padding_with_anything_but_zeros_stays_a_step_of_its_own(tmp_path: Path, images: np.ndarray):
    model = traced(PadsAsTensorFlowDoes(value=1.5), tmp_path / "model.onnx")
    found = operators(folded(model))
    assert (found["Pad"], found["Ceil"]) == (2, 0)
    np.testing.assert_allclose(answers(folded(model), images), answers(model, images), rtol=1e-6)


def test_the_number_of_images_stays_free(tmp_path: Path, images: np.ndarray):
    model = folded(traced(PadsAsTensorFlowDoes(), tmp_path / "model.onnx"))
    assert [len(answers(model, images[:count])) for count in (1, 2, 5)] == [1, 2, 5]


class ShufflesChannels(nn.Module):
    """Reshapes whose sizes are computed from what comes in, as ShuffleNet's are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = x.shape
        return x.view(count, 3, channels // 3, height, width).transpose(1, 2).reshape(count, channels, height, width)


def test_sizes_of_reshapes_are_worked_out(tmp_path: Path, images: np.ndarray):
    model = traced(ShufflesChannels(), tmp_path / "model.onnx")
    assert {"Shape", "Gather", "Concat"} <= set(operators(model))
    assert set(operators(folded(model))) <= {"Reshape", "Transpose"}
    np.testing.assert_array_equal(answers(folded(model), images), answers(model, images))


def test_a_graph_with_operators_of_others_stays_as_it_is(caplog: pytest.LogCaptureFixture):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Theirs", ["x"], ["x_"], domain="somebody")
    graph = onnx.helper.make_graph([node], "g", [value], [onnx.helper.make_tensor_value_info("x_", 1, [1])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    assert operators(simplified(model)) == {"Theirs": 1}
