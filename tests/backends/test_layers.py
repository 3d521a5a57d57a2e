"""What a runtime says it computes: layers, precision and time, for every backend that has any to show."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgecls.artifact.card import Lineage
from edgecls.backends.base import Layer
from edgecls.backends.nvidia.layers import layers_from
from edgecls.errors import UsageError
from edgecls.runtime import layers as report
from edgecls.runtime.layers import profile_layers
from edgecls.runtime.store import Artifact
from tests.conftest import VARIANTS

INSPECTED = {
    "Layers": [
        {
            "Name": "reformat_image", "LayerType": "Reformat",
            "Inputs": [{"Name": "image", "Dimensions": [1, 32, 32, 3], "Format/Datatype": "Row major linear UInt8"}],
        },
        {
            "Name": "/network/conv/Conv + /network/relu/Relu", "LayerType": "CaskConvolution",
            "ParameterType": "Convolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "Channel major Int8 format", "Dimensions": [1, 3, 32, 32]}],
        },
        {
            "Name": "/network/head/Gemm", "LayerType": "CaskGemmMatrixMultiply", "ParameterType": "MatrixMultiply",
            "Inputs": [{"Name": "y", "Format/Datatype": "Half", "Dimensions": [1, 64]}],
        },
        {
            "Name": "/network/shuffle", "LayerType": "Shuffle",
            "Inputs": [{"Name": "z", "Format/Datatype": "Row major linear FP32"}],
        },
    ]
}  # fmt: skip
"""In the form that TensorRT's documentation and `trtexec --exportLayerInfo` show."""


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_layers_with_weights_compute_in_the_precision_of_the_artifact(
    bundle: Callable[[str, str], Artifact], variant: tuple[str, str]
):
    artifact = bundle(*variant)
    inside = profile_layers(artifact)
    weighted = [layer for layer in inside.layers if layer.weighted]
    assert len(weighted) == 5  # four convolutions and the head
    computed = {layer.precision for layer in weighted}
    wanted = artifact.card.precision
    if wanted == "fp16" and artifact.backend.available() is None:
        assert computed <= {"fp16", "fp32"}  # processors without float16 arithmetic convert
    else:
        assert computed == {wanted}
    assert inside.unquantized == []
    assert sum(inside.shares.values()) == pytest.approx(1.0)
    if artifact.backend.available() is None:
        assert inside.total_ms > 0
        assert all(layer.time_ms is not None for layer in inside.layers)
    else:
        assert inside.total_ms is None
        assert "there is no GPU here to look into an engine" in inside.summary


def test_a_run_shows_none(trained: Artifact):
    with pytest.raises(UsageError, match="torch does not tell its layers; give a bundle"):
        profile_layers(trained)


def test_layers_that_should_be_int8_and_are_not_are_named(
    bundle: Callable[[str, str], Artifact], monkeypatch: pytest.MonkeyPatch
):
    artifact = bundle("onnx", "int8")
    recipe = {"candidate": "some float", "float_layers": ["/network/second/Conv"]}
    card = replace(artifact.card, lineage=Lineage(files=artifact.card.lineage.files, recipe=recipe))
    found = [
        Layer("/network/first/Conv", "Conv", "int8", 1.0, True),
        Layer("/network/second/Conv + Relu", "Conv", "fp32", 2.0, True),
        Layer("/network/third/Conv", "Conv", "fp32", 1.0, True),
        Layer("pooling", "Pool", "fp32", 0.0),
    ]
    monkeypatch.setattr(type(artifact.backend), "layers", lambda *_: found)
    inside = report.profile_layers(Artifact(artifact.path, card))
    assert inside.unquantized == ["/network/third/Conv"]
    assert inside.shares == {"fp32": 0.75, "int8": 0.25}
    assert "1 layers with weights compute in float though the recipe says int8" in inside.warnings[0]


def test_tensorrts_inspector_is_read():
    times = {"/network/conv/Conv + /network/relu/Relu": 0.5}
    layers = layers_from(json.dumps(INSPECTED), times)
    assert [layer.precision for layer in layers] == ["int8", "int8", "fp16", "fp32"]
    assert [layer.weighted for layer in layers] == [False, True, True, False]
    assert [layer.time_ms for layer in layers] == [None, 0.5, None, None]


def test_an_engine_built_without_details_gives_names_only():
    layers = layers_from(json.dumps({"Layers": ["conv", "pool"]}), {})
    assert [(layer.name, layer.precision) for layer in layers] == [("conv", "unknown"), ("pool", "unknown")]


def test_times_are_of_the_image_that_is_given(bundle: Callable[[str, str], Artifact]):
    artifact = bundle("onnx", "fp32")
    one, many = (
        sum(layer.time_ms for layer in artifact.backend.layers(artifact.path, artifact.card, images))
        for images in (np.zeros((1, 32, 32, 3), np.uint8), np.zeros((64, 32, 32, 3), np.uint8))
    )
    assert many > 4 * one
