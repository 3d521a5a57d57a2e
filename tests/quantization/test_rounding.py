"""Weights rounded by what they do to a layer's output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecls.artifact.card import INPUT_NAME, OUTPUT_NAME
from edgecls.errors import UsageError
from edgecls.quantization import rounding
from edgecls.quantization.quantize import Quantizer, prepare
from edgecls.quantization.recipe import candidates_for, parse
from edgecls.quantization.rounding import gptq, round_weights

GENERATOR = np.random.default_rng(7)


def correlated(rows: int, inputs: int) -> np.ndarray:
    """Inputs (rows, inputs) of which each goes together with the next ones, as pixels do."""
    noise = GENERATOR.normal(size=(rows, inputs))
    return np.cumsum(noise, axis=1) / np.sqrt(np.arange(1, inputs + 1)) + 0.5


@pytest.mark.parametrize("inputs", [9, 300])  # less and more than one block
def test_outputs_change_less_than_with_the_nearest_values(inputs: int):
    rows, weights = correlated(2000, inputs), GENERATOR.normal(size=(1, 12, inputs))
    scales = np.abs(weights).max(axis=2, keepdims=True) / 15
    chosen = gptq(weights, scales, (rows.T @ rows)[None], 15) * scales
    nearest = np.round(weights / scales) * scales
    errors = [np.square(rows @ (each - weights)[0].T).mean() for each in (chosen, nearest)]
    assert errors[0] < 0.6 * errors[1]


def test_without_correlation_the_nearest_values_are_best():
    weights, scales = GENERATOR.normal(size=(3, 4, 8)), np.full((3, 4, 1), 0.1)
    assert np.array_equal(gptq(weights, scales, np.stack([np.eye(8)] * 3), 127), np.round(weights / scales))


def test_integers_stay_within_the_largest_one():
    rows, weights = correlated(500, 40), GENERATOR.normal(size=(1, 6, 40))
    chosen = gptq(weights, np.full((1, 6, 1), 0.01), (rows.T @ rows)[None], 64)
    assert abs(chosen).max() == 64
    assert np.array_equal(chosen, np.round(chosen))


def test_inputs_that_are_always_zero_do_no_harm():
    rows, weights = correlated(500, 10), GENERATOR.normal(size=(1, 3, 10))
    rows[:, 4:] = 0
    chosen = gptq(weights, np.full((1, 3, 1), 0.05), (rows.T @ rows)[None], 127)
    assert np.isfinite(chosen).all()
    assert np.array_equal(chosen[:, :, 4:], np.round(weights[:, :, 4:] / 0.05))


SHAPES = {
    "plain": ({"kernel_shape": [3, 3]}, (6, 4, 3, 3)),
    "padded and strided": ({"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "strides": [2, 1]}, (6, 4, 3, 2)),
    "dilated": ({"kernel_shape": [2, 3], "dilations": [2, 3]}, (6, 4, 2, 3)),
    "grouped": ({"kernel_shape": [3, 3], "group": 2, "pads": [1, 1, 1, 1]}, (6, 2, 3, 3)),
    "depthwise": ({"kernel_shape": [3, 3], "group": 4}, (4, 1, 3, 3)),
    "pointwise": ({"kernel_shape": [1, 1]}, (6, 4, 1, 1)),
    "without its kernel's shape": ({"pads": [1, 0, 1, 0]}, (6, 4, 3, 2)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_rows_times_weights_are_what_a_convolution_computes(name: str, monkeypatch: pytest.MonkeyPatch):
    attributes, shape = SHAPES[name]
    weights = GENERATOR.normal(size=shape).astype(np.float32)
    tensor = GENERATOR.normal(size=(1, 4, 11, 12)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, tensor.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    [wanted] = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": tensor})
    monkeypatch.setattr(rounding, "POSITIONS", 10**6)
    layer = rounding._Layer("conv", "Conv", "x", graph.initializer[0], np.ones(1, np.float32), attributes)
    in_order = type("InOrder", (), {"permutation": staticmethod(np.arange)})()
    computed = layer.rows_of(tensor, in_order) @ layer.as_rows(weights).transpose(0, 2, 1)  # (G, P, O)
    assert np.allclose(computed.transpose(0, 2, 1).reshape(wanted.shape), wanted, atol=1e-4)
    assert np.array_equal(layer.from_rows(layer.as_rows(weights), shape), weights)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    """Two convolutions and a dense layer on noise that is smooth, as pictures are."""

    def constant(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array((GENERATOR.normal(size=shape) / np.sqrt(shape[1] * 4)).astype(np.float32), name)

    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["cast"], to=TensorProto.FLOAT, name="/normalize/Cast"),
        helper.make_node("Transpose", ["cast"], ["x"], perm=[0, 3, 1, 2], name="/normalize/Transpose"),
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="second", kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], name="pool"),
        helper.make_node("Flatten", ["d"], ["e"], name="flat"),
        helper.make_node("Gemm", ["e", "w3"], [OUTPUT_NAME], name="dense", transB=1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, [1, 16, 16, 3])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [1, 5])],
        [constant("w1", 8, 3, 3, 3), constant("w2", 12, 8, 1, 1), constant("w3", 5, 12)],
    )
    folder = tmp_path_factory.mktemp("network")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    prepare(folder / "net.onnx", folder / "ready.onnx")
    coarse = GENERATOR.integers(0, 256, (40, 4, 4, 3), np.uint8)
    return folder / "ready.onnx", list(coarse.repeat(4, axis=1).repeat(4, axis=2))


def scores(file: Path, images: list[np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file))
    return np.concatenate([session.run(None, {INPUT_NAME: image[None]})[0] for image in images])


def test_a_graph_with_seven_bit_weights_comes_closer_to_the_float_one(
    network: tuple[Path, list[np.ndarray]], tmp_path: Path
):
    graph, images = network
    quantizer = Quantizer(graph, lambda count: images[:count])
    recipe = next(each.recipe for each in candidates_for("onnx", "x86") if each.recipe.rounding == "gptq")
    errors, stored = [], []
    for way in ("nearest", "gptq"):
        out = tmp_path / f"{way}.onnx"
        quantizer.quantize(replace(recipe, rounding=way, samples=20), out)
        errors.append(np.square(scores(out, images[20:]) - scores(graph, images[20:])).mean())
        model = onnx.load(out)
        stored.append({each.name: numpy_helper.to_array(each) for each in model.graph.initializer})
    assert errors[1] < errors[0]
    assert stored[0].keys() == stored[1].keys()
    changed = {name for name, value in stored[0].items() if not np.array_equal(value, stored[1][name])}
    assert changed
    assert all(stored[1][name].dtype == np.int8 and abs(stored[1][name]).max() <= 64 for name in changed)


@pytest.fixture
def quantized(network: tuple[Path, list[np.ndarray]], tmp_path: Path) -> onnx.ModelProto:
    """The network in int8, each weight rounded to the nearest value."""
    graph, images = network
    recipe = next(each.recipe for each in candidates_for("onnx", "x86") if each.recipe.rounding == "gptq")
    quantizer = Quantizer(graph, lambda count: images[:count])
    quantizer.quantize(replace(recipe, rounding="nearest", samples=5), tmp_path / "int8.onnx")
    return onnx.load(tmp_path / "int8.onnx")


def rounded(model: onnx.ModelProto, graph: Path, images: list[np.ndarray]) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    round_weights(result, graph, images, 64)
    return result


def test_layers_in_several_groups_are_rounded_as_all_at_once_within_the_limit_of_memory(
    network: tuple[Path, list[np.ndarray]], quantized: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
):
    held: list[int] = []
    original = rounding._LayerInputs.moments

    def measured(self, layers):
        moments = original(self, layers)
        held.append(sum(each.nbytes for each in moments))
        return moments

    monkeypatch.setattr(rounding._LayerInputs, "moments", measured)
    at_once = rounded(quantized, *network)
    assert at_once != quantized
    limit = 27**2 * 8  # of the first layer; the others, of 8 and 12 inputs, fit together
    monkeypatch.setattr(rounding, "MOST_BYTES", limit)
    assert rounded(quantized, *network) == at_once
    assert held == [limit + (8**2 + 12**2) * 8, limit, (8**2 + 12**2) * 8]


def test_a_convolution_that_leaves_its_kernel_to_its_weights_is_rounded_alike(
    network: tuple[Path, list[np.ndarray]], quantized: onnx.ModelProto
):
    graph, images = network
    expected = rounded(quantized, graph, images).graph.initializer
    for node in quantized.graph.node:
        kept = [each for each in node.attribute if each.name != "kernel_shape"]
        del node.attribute[:]
        node.attribute.extend(kept)
    assert list(rounded(quantized, graph, images).graph.initializer) == list(expected)


@pytest.mark.parametrize(("operator", "shape"), [("Conv", (4, 3, 5)), ("MatMul", (2, 3, 4))])
def test_weights_of_other_dimensions_are_left_alone(operator: str, shape: tuple[int, ...]):
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["stored", "scale"], ["w"], name="weights"),
            helper.make_node(operator, ["x", "w"], ["y"], name="layer"),
        ],
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(shape, np.int8), "stored"), numpy_helper.from_array(np.float32(1), "scale")],
    )
    assert list(rounding._layers(helper.make_model(graph))) == []


def test_weights_that_two_layers_share_are_left_alone(
    network: tuple[Path, list[np.ndarray]], quantized: onnx.ModelProto
):
    graph, images = network
    model = quantized
    second = next(node for node in model.graph.node if node.name == "second")
    model.graph.node.append(helper.make_node("Relu", [second.input[1]], ["elsewhere"], name="another reader"))
    before = {each.name: each.raw_data for each in model.graph.initializer}
    round_weights(model, graph, images[:5], 64)
    changed = [each.name for each in model.graph.initializer if each.raw_data != before[each.name]]
    assert changed
    assert not [name for name in changed if name.startswith("w2")]


@pytest.mark.parametrize("other", ['bias_correction = "full"', 'quantizer = "nncf"\nactivations = "auto"'])
def test_a_recipe_says_what_does_not_go_together(other: str):
    text = 'quantizer = "onnxruntime"\nactivations = "uint8"\nsymmetric = false\n[[candidate]]\nname = "a"\n'
    with pytest.raises(UsageError, match='rounding = "gptq" goes with'):
        parse(f'{text}rounding = "gptq"\n{other}\n', "recipe.toml")
