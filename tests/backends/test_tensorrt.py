"""The TensorRT graph, in the real parser and builder, on a machine without a GPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgecls import backends, models
from edgecls.artifact.card import Card, read_card, write_card
from edgecls.backends.base import BuildOptions
from edgecls.backends.nvidia import cuda
from edgecls.backends.nvidia.flavours import FLAVOURS, installed_flavours, parse_graph
from edgecls.backends.onnx_graph import quantizer_faults
from edgecls.errors import ArtifactError, BackendError, UsageError
from edgecls.exporting.graph import float_graph
from edgecls.imaging.preprocess import Preprocess
from edgecls.quantization.quantize import Quantizer, prepare
from edgecls.quantization.recipe import candidates_for
from edgecls.runtime import store
from edgecls.runtime.store import Artifact

CARD = Card("simple_cnn", tuple("abcdefghij"), Preprocess(32, 32), target="tensorrt", precision="int8")
needs_builder = pytest.mark.skipif(not installed_flavours(), reason="neither tensorrt nor tensorrt_rtx is installed")
needs_rtx = pytest.mark.skipif(FLAVOURS[1] not in installed_flavours(), reason="tensorrt_rtx is not installed")


@pytest.fixture
def int8(bundle: Callable[[str, str], Artifact]) -> Artifact:
    return bundle("tensorrt", "int8")


def with_zero_points(graph: Path, out: Path, values: np.ndarray) -> Path:
    """A copy of a quantized graph whose activation quantizers all have this zero point."""
    model = onnx.load(graph)
    names = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, out)
    return out


@needs_builder
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_graph_parses_in_the_real_parser(bundle: Callable[[str, str], Artifact], precision: str):
    artifact = bundle("tensorrt", precision)
    _builder, network, _logger, _parser = parse_graph(installed_flavours()[0], artifact.path / "model.onnx")
    assert network.num_inputs == network.num_outputs == 1
    assert tuple(network.get_input(0).shape) == (-1, 32, 32, 3)


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_is_built_without_a_gpu(bundle: Callable[[str, str], Artifact], precision: str):
    artifact = bundle("tensorrt", precision)
    engines = list((artifact.path / "engines").glob("*.engine"))
    assert len(engines) == 1
    assert engines[0].stat().st_size > 100_000
    assert "sm8.6+8.9+12.0" in engines[0].name


def test_no_quantizer_is_unsigned_or_asymmetric(int8: Artifact):
    assert quantizer_faults(int8.path / "model.onnx") == []
    model = onnx.load(int8.path / "model.onnx")
    quantizers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(quantizers) > 10
    zero_points = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in quantizers:
        tensor = zero_points[node.input[2]]
        assert tensor.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(tensor).any()


def test_the_convolutions_are_quantized_on_both_inputs(int8: Artifact):
    model = onnx.load(int8.path / "model.onnx")
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 4
    for node in convolutions:
        assert [made_by[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2


def test_no_quantizer_stands_between_a_convolution_and_its_activation(int8: Artifact):
    """There it would keep TensorRT from fusing the two, and spend its 256 steps on what the activation cuts off."""
    model = onnx.load(int8.path / "model.onnx")
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    activations = [node for node in model.graph.node if node.op_type in ("Relu", "Clip")]
    assert len(activations) == 4
    assert {made_by[node.input[0]] for node in activations} == {"Conv"}


def test_of_a_residual_addition_the_shortcut_alone_is_quantized(tmp_path: Path):
    torch.manual_seed(0)
    card = Card("resnet18", ("a", "b"), Preprocess(32, 32), target="torch")
    models.write_weights(models.create("resnet18", 2), tmp_path / "weights.safetensors")
    float_graph(tmp_path / "weights.safetensors", card, tmp_path / "float.onnx")
    prepare(tmp_path / "float.onnx", tmp_path / "ready.onnx")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    recipe = replace(candidates_for("tensorrt")[0].recipe, samples=4)
    Quantizer(tmp_path / "ready.onnx", lambda count: images[:count]).quantize(recipe, tmp_path / "int8.onnx")
    model = onnx.load(tmp_path / "int8.onnx")
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    sums = [node for node in model.graph.node if node.op_type == "Add"]
    assert len(sums) == 8
    for node in sums:
        assert sorted(made_by[name] for name in node.input) == ["Conv", "DequantizeLinear"]


def test_a_uint8_quantizer_with_zero_point_0_is_refused(int8: Artifact, tmp_path: Path):
    """TensorRT would read it as int8 with a mere warning, and everything above half of the range would saturate."""
    planted = with_zero_points(int8.path / "model.onnx", tmp_path / "graph.onnx", np.array(0, np.uint8))
    assert "uint8, not int8" in quantizer_faults(planted)[0]
    with pytest.raises(BackendError, match=r"signed, symmetric quantizers only.*QuantizeLinear"):
        backends.find("tensorrt").build(planted, CARD, tmp_path)


def test_an_asymmetric_quantizer_is_refused(int8: Artifact, tmp_path: Path):
    planted = with_zero_points(int8.path / "model.onnx", tmp_path / "graph.onnx", np.array(3, np.int8))
    assert "asymmetric (zero point 3)" in quantizer_faults(planted)[0]
    with pytest.raises(BackendError, match="signed, symmetric"):
        backends.find("tensorrt").build(planted, CARD, tmp_path)


def test_the_graph_for_onnx_runtime_would_be_refused(bundle: Callable[[str, str], Artifact]):
    assert quantizer_faults(bundle("onnx", "int8").path / "model.onnx")


def test_a_quantizer_without_zero_point_counts_as_unsigned(tmp_path: Path):
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1])
    node = helper.make_node("QuantizeLinear", ["x", "scale"], ["y"], name="bare")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.UINT8, [1])], initializer=[scale]
    )
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    assert quantizer_faults(tmp_path / "g.onnx") == ["QuantizeLinear bare has no zero point, which means unsigned"]


@needs_builder
def test_what_the_parser_cannot_take_is_told_in_its_own_words(tmp_path: Path):
    value = helper.make_tensor_value_info
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="odd", domain="nobody")
    graph = helper.make_graph([node], "g", [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])])
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    with pytest.raises(BackendError, match=r"cannot parse g\.onnx.*odd"):
        parse_graph(installed_flavours()[0], tmp_path / "g.onnx")


@pytest.mark.parametrize("device", ["sm86", "8", "8.6,x", ""])
def test_a_malformed_compute_capability_is_refused(device: str):
    with pytest.raises(UsageError, match="no compute capability"):
        backends.find("tensorrt").check_request("int8", BuildOptions(device=device))


@needs_rtx
def test_an_unknown_compute_capability_is_answered_with_the_known_ones(int8: Artifact, tmp_path: Path):
    with pytest.raises(BackendError, match=r"nothing for compute capability 3\.5; it knows .*8\.6"):
        backends.find("tensorrt").build(int8.path / "model.onnx", CARD, tmp_path, BuildOptions(device="3.5"))


@needs_rtx
def test_an_engine_leads_to_its_bundle(int8: Artifact, tmp_path: Path):
    [engine] = (int8.path / "engines").glob("*.engine")
    assert store.find(engine).path == int8.path
    (tmp_path / "stray.engine").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"card\.json"):
        store.find(tmp_path / "stray.engine")


class TestOptions:
    @pytest.mark.parametrize("batch", [(0, 1, 8), (2, 1, 8), (1, 9, 8)])
    def test_batches_out_of_order_are_refused(self, batch: tuple[int, int, int]):
        with pytest.raises(UsageError, match="`batch` is MIN,OPT,MAX"):
            backends.find("tensorrt").check_request("int8", BuildOptions(batch=batch))

    def test_a_workspace_is_at_least_a_mebibyte(self):
        with pytest.raises(UsageError, match="`workspace_mib` is in MiB"):
            backends.find("tensorrt").check_request("int8", BuildOptions(workspace_mib=0))

    def test_other_targets_take_neither(self):
        for options in (BuildOptions(batch=(1, 1, 8)), BuildOptions(workspace_mib=64)):
            with pytest.raises(UsageError, match="takes any batch"):
                backends.find("onnx").check_request("int8", options)

    @needs_rtx
    def test_they_travel_in_the_card_and_shape_the_engine(self, int8: Artifact, tmp_path: Path):
        options = BuildOptions(device="8.9", batch=(1, 2, 4), workspace_mib=256)
        card = backends.find("tensorrt").build(int8.path / "model.onnx", CARD, tmp_path, options)
        write_card(card, tmp_path)
        runtime = read_card(tmp_path).runtime
        assert (list(runtime.batch), runtime.workspace_mib) == ([1, 2, 4], 256)
        [engine] = (tmp_path / "engines").glob("*.engine")
        assert engine.name.endswith("-any-sm8.9-b1-2-4-w256.engine")
        other = backends.find("tensorrt").prepare(tmp_path, read_card(tmp_path), "8.6")
        assert other[0].name.endswith("-any-sm8.6-b1-2-4-w256.engine")


def test_a_driver_that_is_too_old_is_told_from_none(monkeypatch: pytest.MonkeyPatch):
    runtime = pytest.importorskip("cuda.bindings.runtime")
    old, none = runtime.cudaError_t.cudaErrorInsufficientDriver, runtime.cudaError_t.cudaErrorNoDevice
    for status, supported, words in (
        (old, 12040, r"driver is too old: it supports CUDA 12\.4 .* 'cuda-python==12\.\*'"),
        (old, 0, "no NVIDIA GPU with a working driver"),
        (none, 12040, "finds no usable GPU"),
    ):
        monkeypatch.setattr(runtime, "cudaDriverGetVersion", lambda value=supported: (0, value))
        monkeypatch.setattr(runtime, "cudaGetDeviceCount", lambda value=status: (value, None))
        cuda.unavailable_reason.cache_clear()
        assert re.search(words, cuda.unavailable_reason())
    cuda.unavailable_reason.cache_clear()


def test_a_full_gpu_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch):
    runtime = pytest.importorskip("cuda.bindings.runtime")
    monkeypatch.setattr(runtime, "cudaMalloc", lambda _: (runtime.cudaError_t.cudaErrorMemoryAllocation, None))
    with pytest.raises(BackendError, match=r"cudaMalloc failed: .*; the GPU's memory is full: stop what else runs"):
        cuda.call("cudaMalloc", 1)
