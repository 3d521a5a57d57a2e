"""Looking into a quantized graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecls.exporting.graph import float_graph
from edgecls.models import read_weights
from edgecls.quantization.fine_tune import fine_tune
from edgecls.quantization.qdq import QuantizedGraph, layer_noise_db, layer_times_ms, rank_layers
from edgecls.quantization.quantize import Quantizer, prepare
from edgecls.quantization.recipe import Recipe
from edgecls.runtime.store import Artifact


@pytest.fixture(scope="module")
def graphs(trained: Artifact, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """The trained network in float and in int8, and images."""
    from edgecls.artifact.golden import Golden

    folder = tmp_path_factory.mktemp("graphs")
    float_graph(trained.path / trained.card.model_file, trained.card, folder / "raw.onnx")
    prepare(folder / "raw.onnx", folder / "float.onnx")
    images = Golden.read(trained.path).images
    recipe = Recipe("onnxruntime", "uint8", symmetric=False)
    Quantizer(folder / "float.onnx", lambda count: iter(images[:count])).quantize(recipe, folder / "int8.onnx")
    return folder / "int8.onnx", folder / "float.onnx", images


def scores(model: bytes, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    return onnxruntime.InferenceSession(model).run(None, {"image": images})[0]


def test_with_no_layer_quantized_the_graph_is_the_float_graph(graphs):
    int8, float32, images = graphs
    nothing = QuantizedGraph(int8, float32).only(())
    np.testing.assert_allclose(
        scores(nothing.SerializeToString(), images), scores(float32.read_bytes(), images), atol=1e-4
    )


def test_one_layer_quantized_lies_between_float_and_int8(graphs):
    int8, float32, images = graphs
    split = QuantizedGraph(int8, float32)
    assert len(split.layers) == 5
    reference = scores(float32.read_bytes(), images)
    whole = np.square(scores(int8.read_bytes(), images) - reference).mean()
    one = np.square(scores(split.only(split.layers[:1]).SerializeToString(), images) - reference).mean()
    assert 0 < one < whole


def test_a_damaged_layer_is_ranked_first_and_is_the_noisiest(graphs, tmp_path: Path):
    import onnx
    from onnx import numpy_helper

    int8, float32, images = graphs
    victim = QuantizedGraph(int8, float32).layers[2]
    model = onnx.load(int8)
    node = next(node for node in model.graph.node if node.name == victim)
    producer = next(each for each in model.graph.node if node.input[1] in each.output)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == producer.input[0])
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array((values // 32 * 32).astype(values.dtype), weight.name))
    onnx.save(model, tmp_path / "damaged.onnx")
    assert rank_layers(tmp_path / "damaged.onnx", float32, images)[0] == victim
    healthy, damaged = (dict(layer_noise_db(file, float32, images[:4])) for file in (int8, tmp_path / "damaged.onnx"))
    assert healthy[victim] - damaged[victim] > 3


def test_every_layer_has_a_time(graphs):
    int8, float32, images = graphs
    times = layer_times_ms(float32, images[:1])
    assert all(times[layer] > 0 for layer in QuantizedGraph(int8, float32).layers)


def test_layers_that_are_kept_stay_float(graphs, tmp_path: Path):
    int8, float32, images = graphs
    layers = QuantizedGraph(int8, float32).layers
    quantizer = Quantizer(float32, lambda count: iter(images[:count]))
    quantizer.quantize(Recipe("onnxruntime", "uint8", symmetric=False), tmp_path / "kept.onnx", layers[:2])
    assert QuantizedGraph(tmp_path / "kept.onnx", float32).layers == layers[2:]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("onnxruntime", "uint8", symmetric=False, estimator="average"),
        Recipe("onnxruntime", "uint8", symmetric=False, estimator="percentile"),
        Recipe("onnxruntime", "int8", symmetric=True, estimator="entropy"),
        Recipe("onnxruntime", "uint8", symmetric=False, reduce_range=True, per_channel=False),
        Recipe("onnxruntime", "uint8", symmetric=False, bias_correction="fast"),
        Recipe("onnxruntime", "int8", symmetric=True, bias_correction="full"),
        Recipe("nncf", "auto", symmetric=True, estimator="mse"),
        Recipe("nncf", "auto", symmetric=False, bias_correction="full"),
    ],
    ids=lambda recipe: f"{recipe.quantizer}-{recipe.activations}-{recipe.estimator}-{recipe.bias_correction}",
)
def test_every_recipe_gives_a_graph_that_answers_as_float_does(recipe: Recipe, graphs, tmp_path: Path):
    _, float32, images = graphs
    Quantizer(float32, lambda count: iter(images[:count])).quantize(recipe, tmp_path / "int8.onnx")
    agreed = scores((tmp_path / "int8.onnx").read_bytes(), images).argmax(1) == scores(
        float32.read_bytes(), images
    ).argmax(1)
    assert agreed.mean() >= 0.9


def test_bias_correction_changes_the_biases_alone(graphs, tmp_path: Path):
    import onnx
    from onnx import numpy_helper

    _, float32, images = graphs
    plain, corrected = tmp_path / "plain.onnx", tmp_path / "corrected.onnx"
    quantizer = Quantizer(float32, lambda count: iter(images[:count]))
    quantizer.quantize(Recipe("onnxruntime", "uint8", symmetric=False, quantize_bias=False), plain)
    recipe = Recipe("onnxruntime", "uint8", symmetric=False, quantize_bias=False, bias_correction="full")
    quantizer.quantize(recipe, corrected)

    def constants(file: Path, index: int) -> list[np.ndarray]:
        graph = onnx.load(file).graph
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        stored = {node.output[0]: values.get(node.input[0]) for node in graph.node if node.op_type[:10] == "Dequantize"}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        return [values.get(node.input[index], stored.get(node.input[index])) for node in convolutions]

    for one, other in zip(constants(plain, 1), constants(corrected, 1), strict=True):
        assert one is not None
        np.testing.assert_array_equal(one, other)
    assert any(not np.array_equal(a, b) for a, b in zip(constants(plain, 2), constants(corrected, 2), strict=True))


def test_fine_tuning_changes_weights_a_little_and_keeps_their_names(trained: Artifact, tmp_path: Path):
    fine_tune(trained, 1, tmp_path / "tuned.safetensors")
    before = read_weights(trained.path / trained.card.model_file)
    after = read_weights(tmp_path / "tuned.safetensors")
    assert before.keys() == after.keys()
    changes = [float((after[name] - before[name]).abs().max()) for name in before if "weight" in name]
    assert 0 < max(changes) < 0.05


def test_the_last_rung_is_reached_and_kept_in_the_card(
    trained: Artifact, copy_of: Callable[[Artifact], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from edgecls.exporting import timing
    from edgecls.exporting.bundle import export
    from edgecls.exporting.config import ExportConfig

    monkeypatch.setattr(timing, "gain_over", lambda *_: 2.0)

    file = tmp_path / "recipe.toml"
    file.write_text(
        'quantizer = "onnxruntime"\nactivations = "uint8"\nsymmetric = false\nsamples = 64\n'
        '[[candidate]]\nname = "layers"\nfloat_share = 0.4\n'
        '[[candidate]]\nname = "tuned"\nalternative = true\nfine_tune_epochs = 1\n'
    )
    artifact = export(
        ExportConfig(target="onnx", run=copy_of(trained), precision="int8", max_drop_points=5, recipe=file)
    )
    assert [tried["candidate"] for tried in artifact.card.lineage.candidates] == ["layers", "tuned"]
    assert all(tried["agreement"] > 0.95 for tried in artifact.card.lineage.candidates)


@pytest.mark.parametrize("target", ["onnx", "tensorrt"])
def test_the_scores_are_not_rounded_to_256_steps(target: str, bundle: Callable[[str, str], Artifact]):
    """Rounded scores tie, and where there are many classes a tie changes the answer."""
    import onnx

    graph = onnx.load(bundle(target, "int8").path / "model.onnx").graph
    producers = {output: node.op_type for node in graph.node for output in node.output}
    assert producers[graph.output[0].name] == "Gemm"
