"""Somebody's model becomes a run, or a clear refusal."""

from __future__ import annotations

import argparse
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import edgecls
from edgecls import models
from edgecls.artifact.golden import Golden
from edgecls.errors import ArtifactError, DataError, UsageError
from edgecls.exporting.bundle import export
from edgecls.exporting.config import ExportConfig
from edgecls.importers.classifier import output_kind
from edgecls.importers.config import ImportConfig
from edgecls.importers.labels import read_classes
from edgecls.importers.model import import_model
from edgecls.runtime import store
from edgecls.runtime.pipeline import scores_of
from edgecls.runtime.store import Artifact

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    file = tmp_path / "classes.txt"
    file.write_text("\n".join(DIGITS) + "\n")
    return file


@pytest.fixture
def graph(trained: Artifact, tmp_path: Path) -> Callable[..., Path]:
    """The trained network as somebody else would export it: float NCHW in, with this opset and batch."""

    def make(opset: int = 17, fixed_batch: bool = False, free_size: bool = False) -> Path:
        network = models.create("simple_cnn", 10).eval()
        network.load_state_dict(models.read_weights(trained.path / "model.safetensors"))
        file = tmp_path / "theirs.onnx"
        free = {"input": {0: "batch", **({2: "h", 3: "w"} if free_size else {})}, "logits": {0: "batch"}}
        torch.onnx.export(
            network, (torch.zeros(1, 3, 32, 32),), str(file), dynamo=False, opset_version=opset,
            input_names=["input"], output_names=["logits"], dynamic_axes=None if fixed_batch else free,
        )  # fmt: skip
        return file

    return make


def answers(run: Artifact, images: np.ndarray) -> np.ndarray:
    with run.open() as session:
        return scores_of(session, images)


def test_a_checkpoint_becomes_the_run_that_it_came_from(trained: Artifact, classes: Path, tmp_path: Path):
    run = import_model(
        ImportConfig(
            file=trained.path / "model.safetensors",
            arch="simple_cnn",
            classes=classes,
            size_px=(32, 32),
            crop=1.0,
            out=tmp_path / "run",
        )
    )
    assert run.is_run
    assert run.card.preprocess == trained.card.preprocess
    images = Golden.read(trained.path).images
    np.testing.assert_allclose(answers(run, images), Golden.read(trained.path).scores, atol=1e-4)


def test_what_was_assumed_is_said(trained: Artifact, classes: Path, tmp_path: Path):
    message: list[str] = []
    run = import_model(
        ImportConfig(file=trained.path / "model.safetensors", arch="simple_cnn", classes=classes, out=tmp_path / "run"),
        message.append,
    )
    assert run.card.preprocess.crop == 0.875
    assert any("because `size_px`, `mean`, `std` was not given: 224x224 pixels, crop 0.875" in line for line in message)


@pytest.mark.parametrize("wrapping", ["module.", "model.", "_orig_mod.module."])
def test_names_as_training_frameworks_wrap_them(trained: Artifact, classes: Path, tmp_path: Path, wrapping: str):
    weights = models.read_weights(trained.path / "model.safetensors")
    torch.save({"state_dict": {wrapping + name: tensor for name, tensor in weights.items()}}, tmp_path / "theirs.pth")
    run = import_model(
        ImportConfig(
            file=tmp_path / "theirs.pth",
            arch="simple_cnn",
            classes=classes,
            size_px=(32, 32),
            crop=1.0,
            out=tmp_path / "r",
        )
    )
    images = Golden.read(trained.path).images
    np.testing.assert_allclose(answers(run, images), Golden.read(trained.path).scores, atol=1e-4)


def test_other_names_are_matched_by_order_and_shape_and_that_is_said(trained: Artifact, classes: Path, tmp_path: Path):
    weights = models.read_weights(trained.path / "model.safetensors")
    network = models.create("simple_cnn", 10)
    renamed = {f"layer_{index}": weights[name] for index, name in enumerate(network.state_dict())}
    torch.save(renamed, tmp_path / "theirs.pth")
    message: list[str] = []
    config = ImportConfig(
        file=tmp_path / "theirs.pth", arch="simple_cnn", classes=classes, size_px=(32, 32), crop=1.0, out=tmp_path / "r"
    )
    run = import_model(config, message.append)
    assert any("matched by order and shape" in line for line in message)
    images = Golden.read(trained.path).images
    np.testing.assert_allclose(answers(run, images), Golden.read(trained.path).scores, atol=1e-4)


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_an_onnx_classifier_takes_raw_images_afterwards(
    trained: Artifact, classes: Path, graph: Callable[..., Path], tmp_path: Path, opset: int
):
    config = ImportConfig(file=graph(opset), arch="none", classes=classes, mean=MEAN, std=STD, out=tmp_path / "run")
    run = import_model(config)
    assert run.is_run
    assert run.card.input_shape == (32, 32, 3)
    images = Golden.read(trained.path).images
    np.testing.assert_allclose(answers(run, images), Golden.read(trained.path).scores, atol=1e-3)


def test_a_graph_of_any_size_is_asked_for_one(classes: Path, graph: Callable[..., Path], tmp_path: Path):
    config = ImportConfig(
        file=graph(free_size=True), arch="none", classes=classes, mean=MEAN, std=STD, out=tmp_path / "run"
    )
    with pytest.raises(UsageError, match="takes images of any size; say with `size_px`"):
        import_model(config)
    assert not config.out.exists()
    assert import_model(replace(config, size_px=(48, 32))).card.input_shape == (48, 32, 3)


def test_an_imported_graph_is_exported_to_every_precision_and_measured_with_data(
    classes: Path, graph: Callable[..., Path], digit_images: Path, tmp_path: Path
):
    config = ImportConfig(
        file=graph(), arch="none", classes=classes, mean=MEAN, std=STD, data=str(digit_images), out=tmp_path / "run"
    )
    run = import_model(config)
    assert run.card.quality.images == 20
    assert run.card.quality.top1 >= 0.9
    for precision in ("fp32", "fp16", "int8"):
        artifact = export(ExportConfig(target="onnx", run=run.path, precision=precision, max_drop_points=10))
        assert artifact.card.quality.agreement >= 0.9
        assert artifact.card.quality.top1 is not None
    assert edgecls.load(run.path).predict(next(digit_images.glob("seven/*.png"))).label == "seven"


def test_without_data_an_int8_export_wants_images_and_compares_on_the_spare_half(
    classes: Path, graph: Callable[..., Path], digit_images: Path, tmp_path: Path
):
    run = import_model(
        ImportConfig(file=graph(), arch="none", classes=classes, mean=MEAN, std=STD, out=tmp_path / "run")
    )
    with pytest.raises(DataError, match="`calibration`"):
        export(ExportConfig(target="onnx", run=run.path, precision="int8"))
    artifact = export(
        ExportConfig(target="onnx", run=run.path, precision="int8", calibration=digit_images, max_drop_points=10)
    )
    assert artifact.card.quality.split == "unlabelled"
    assert artifact.card.quality.images == 20
    assert artifact.card.quality.agreement >= 0.9


def test_a_timm_network_brings_its_own_preprocessing(tmp_path: Path):
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    network = models.create("timm/mobilenetv3_small_050", 3).eval()
    save_file(network.state_dict(), tmp_path / "theirs.safetensors")
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    config = ImportConfig(
        file=tmp_path / "theirs.safetensors",
        arch="timm/mobilenetv3_small_050",
        classes=tmp_path / "three.txt",
        out=tmp_path / "run",
    )
    run = import_model(config)
    assert run.card.input_shape == (224, 224, 3)
    assert run.card.preprocess.crop == 0.875
    assert export(ExportConfig(target="onnx", run=run.path)).card.quality.agreement == 1.0


class TestRefusals:
    def test_files_that_are_not_there_or_of_the_other_kind(self, classes: Path, tmp_path: Path):
        with pytest.raises(ArtifactError, match="there is no file"):
            import_model(ImportConfig(file=tmp_path / "none.onnx", arch="none", classes=classes))
        (tmp_path / "a.onnx").write_bytes(b"no graph")
        with pytest.raises(UsageError, match="an ONNX file goes with `arch` none"):
            import_model(ImportConfig(file=tmp_path / "a.onnx", arch="resnet18", classes=classes))
        with pytest.raises(UsageError, match="a checkpoint needs `arch` NAME"):
            import_model(ImportConfig(file=classes, arch="none", classes=classes))
        with pytest.raises(ArtifactError, match="cannot be read as an ONNX model|no valid ONNX|has 0 inputs"):
            import_model(
                ImportConfig(
                    file=tmp_path / "a.onnx", arch="none", classes=classes, mean=MEAN, std=STD, out=tmp_path / "run"
                )
            )
        assert not (tmp_path / "run").exists()

    def test_a_pickle_is_never_loaded(self, classes: Path, tmp_path: Path):
        torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
        with pytest.raises(ArtifactError, match="cannot be read as weights"):
            import_model(ImportConfig(file=tmp_path / "module.pt", arch="simple_cnn", classes=classes))

    def test_pixels_that_nobody_described(self, classes: Path, graph: Callable[..., Path]):
        with pytest.raises(UsageError, match="give `mean` and `std` on a scale of 0 to 1"):
            import_model(ImportConfig(file=graph(), arch="none", classes=classes))

    def test_another_number_of_classes(self, trained: Artifact, graph: Callable[..., Path], tmp_path: Path):
        (tmp_path / "two.txt").write_text("a\nb\n")
        with pytest.raises(ArtifactError, match="has 10 classes and .* names 2"):
            import_model(
                ImportConfig(file=trained.path / "model.safetensors", arch="simple_cnn", classes=tmp_path / "two.txt")
            )
        with pytest.raises(ArtifactError, match="gives 10 scores, the classes file names 2"):
            import_model(ImportConfig(file=graph(), arch="none", classes=tmp_path / "two.txt", mean=MEAN, std=STD))

    def test_another_architecture(self, trained: Artifact, classes: Path):
        with pytest.raises(ArtifactError, match="does not fit mobilenet_v2"):
            import_model(ImportConfig(file=trained.path / "model.safetensors", arch="mobilenet_v2", classes=classes))

    def test_a_size_that_the_graph_does_not_take(self, classes: Path, graph: Callable[..., Path]):
        with pytest.raises(UsageError, match="takes 32x32 pixels and nothing else"):
            import_model(ImportConfig(file=graph(), arch="none", classes=classes, size_px=(64, 64), mean=MEAN, std=STD))

    def test_data_of_other_classes(self, trained: Artifact, classes: Path, photos: Path):
        config = ImportConfig(
            file=trained.path / "model.safetensors",
            arch="simple_cnn",
            classes=classes,
            size_px=(32, 32),
            data=str(photos),
        )
        with pytest.raises(DataError, match="bright is no class of this network"):
            import_model(config)

    @pytest.mark.parametrize(
        "values",
        [{"resize": "squash"}, {"crop": 1.5}, {"size_px": (4, 4)}, {"std": (0.0, 1.0, 1.0)}],
        ids=lambda values: next(iter(values)),
    )
    def test_values_that_make_no_sense(self, trained: Artifact, classes: Path, values: dict):
        config = ImportConfig(file=trained.path / "model.safetensors", arch="simple_cnn", classes=classes)
        with pytest.raises(UsageError, match="`(resize|crop|size_px|std)` takes"):
            import_model(replace(config, **values))


class TestClassFiles:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.txt", "cat\n\n dog \n"),
            ("a.txt", "\ufeffcat\ndog\n"),
            ("a.json", '\ufeff["cat", "dog"]'),
            ("a.json", '["cat", "dog"]'),
            ("a.json", '{"0": "cat", "1": "dog"}'),
            ("a.json", '{"1": ["n02", "dog"], "0": ["n01", "cat"]}'),
        ],
    )
    def test_names_in_output_order(self, tmp_path: Path, name: str, text: str):
        (tmp_path / name).write_text(text)
        assert read_classes(tmp_path / name) == ("cat", "dog")

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("a.txt", "cat\n", "names 1 classes"),
            ("a.txt", "cat\ndog\ncat\n", "'cat' more than once"),
            ("a.json", '{"1": "cat"}', "no JSON list of names"),
            ("a.json", "cat", "no JSON list of names"),
        ],
    )
    def test_files_that_do_not_name_classes(self, tmp_path: Path, name: str, text: str, message: str):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            read_classes(tmp_path / name)
        with pytest.raises(DataError, match="cannot be read"):
            read_classes(tmp_path / "none.txt")


def test_an_imported_run_is_the_latest_run(trained: Artifact, classes: Path):
    run = import_model(
        ImportConfig(file=trained.path / "model.safetensors", arch="simple_cnn", classes=classes, size_px=(32, 32))
    )
    try:
        assert store.latest_run() == run.path
    finally:
        import shutil

        shutil.rmtree(run.path)


@pytest.mark.parametrize(
    "nodes",
    [["Softmax"], ["Softmax", "Clip"], ["Softmax", "Flatten"], ["Softmax", "Identity"], ["Relu"], ["LogSoftmax"]],
    ids=str,
)
def test_what_the_scores_are_is_decided_from_the_graph(tmp_path: Path, nodes: list[str]):
    assert output_kind(_ends_in(nodes, tmp_path)) == ("probabilities" if "Softmax" in nodes else "logits")


@pytest.mark.parametrize("nodes", [["Sigmoid"], ["Sigmoid", "Flatten"], ["Sigmoid", "Clip"], ["HardSigmoid"]], ids=str)
def test_a_network_whose_classes_may_all_be_true_is_refused(tmp_path: Path, nodes: list[str]):
    with pytest.raises(ArtifactError, match="several classes may be true"):
        output_kind(_ends_in(nodes, tmp_path))


def test_a_softmax_of_several_operators_is_seen_by_its_scores(tmp_path: Path):
    graph = _ends_in(["Relu"], tmp_path)
    assert output_kind(graph, np.float32([[0.5, 0.25, 0.25], [0, 1, 0]])) == "probabilities"
    assert output_kind(graph, np.float32([[0.5, 0.25, 0.25], [0, 2, 0]])) == "logits"


def _ends_in(operators: list[str], folder: Path) -> Path:
    """An ONNX file that is these operators, one after the other."""
    names = ["x", *(f"x{number}" for number in range(len(operators)))]
    nodes = [onnx.helper.make_node(op, [a], [b]) for op, a, b in zip(operators, names, names[1:], strict=False)]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3]) for name in names]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[-1:])
    onnx.save(onnx.helper.make_model(graph), folder / "ends.onnx")
    return folder / "ends.onnx"


class Settings(dict):
    """A mapping with attributes, as yacs, Lightning and others keep their settings in."""

    def __init__(self, *args: object, **values: object):
        super().__init__(*args, **values)
        self.__dict__["frozen"] = False


class Losses(list):
    """A list of a class of its own."""


class Executed:
    """Calls a function where it is unpickled."""

    calls: list[int] = []  # noqa: RUF012

    def __reduce__(self) -> tuple:
        return Executed.calls.append, (1,)


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


BESIDE = {
    "val_acc.confmat": torch.ones(3, 3).long(), "class_weights": torch.ones(3), "loss_function.weight": torch.ones(3)
}  # fmt: skip
"""What a Lightning module keeps beside its network."""


class TestCheckpointsOfOthers:
    """What the usual trainers write around a network's tensors."""

    @pytest.fixture
    def tensors(self) -> dict[str, torch.Tensor]:
        return models.create("resnet18", 3).state_dict()

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda t: {"model": t, "args": argparse.Namespace(lr=0.1), "epoch": 3},
            lambda t: {"model_state_dict": t, "optimizer_state_dict": {"state": {0: {"m": torch.ones(9, 9)}}}},
            lambda t: {"net": t, "acc": 91.2},
            lambda t: {"state_dict": {f"module.{n}": v for n, v in t.items()}, "path": Path("x"), "args": Foreign()},
            lambda t: {"state_dict": {**{f"model.{n}": v for n, v in t.items()}, "criterion.weight": torch.ones(3)}},
            lambda t: {"a": {"b": {f"_orig_mod.module.{n}": v for n, v in t.items()}}},
            lambda t: {**t, "n_averaged": torch.tensor(3)},
            lambda t: {0: 1, "model": t},
        ],
        ids=["namespace", "optimizer", "net", "foreign object", "criterion", "nested", "averaging", "number as key"],
    )
    def test_the_tensors_are_found(self, tmp_path: Path, tensors: dict[str, torch.Tensor], wrap: Callable):
        torch.save(wrap(tensors), tmp_path / "x.pt")
        network = models.create("resnet18", 3)
        assert models.load_weights(network, "resnet18", models.read_weights(tmp_path / "x.pt"), "x.pt")
        assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())

    def test_of_averaged_and_plain_weights_the_averaged_are_taken_with_a_word(self, tmp_path: Path, tensors):
        averaged = {name: value + 1 for name, value in tensors.items()}
        torch.save({"state_dict": tensors, "state_dict_ema": averaged}, tmp_path / "x.pt")
        message: list[str] = []
        found = models.read_weights(tmp_path / "x.pt", message.append)
        assert torch.equal(found["fc.bias"], averaged["fc.bias"])
        assert "taken: state_dict_ema, not state_dict" in message[0]

    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda t: {"state_dict": t, "hyper_parameters": Settings(lr=0.1, inner=Settings(name="x"))},
            lambda t: {"state_dict": t, "history": defaultdict(list, {"loss": [1.0, 2.0]})},
            lambda t: {"state_dict": t, "window": deque([1, 2], maxlen=5), "losses": Losses([3, 4])},
            lambda t: {"state_dict": Settings(t)},
            lambda t: defaultdict(dict, {"state_dict": t, "settings": {"paths": [Path("x")]}}),
        ],
        ids=["attributes", "defaultdict", "lists", "weights in one", "all in one"],
    )
    def test_subclasses_of_mappings_and_lists_are_read_as_plain_ones(self, tmp_path: Path, tensors, wrap, legacy: bool):
        torch.save(wrap(tensors), tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        found = models.read_weights(tmp_path / "x.pt")
        assert all(torch.equal(found[name], value) for name, value in tensors.items())

    @pytest.mark.parametrize("content", [Executed(), {"w": torch.ones(3, 3), "x": Executed()}], ids=["alone", "beside"])
    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
    def test_nothing_that_a_file_names_is_run(self, tmp_path: Path, content: object, legacy: bool):
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        with suppress(ArtifactError):
            models.read_weights(tmp_path / "x.pt")
        assert Executed.calls == []

    @pytest.mark.parametrize("kind", ["attributes on a list", "protocol 4", "TorchScript"])
    def test_what_only_running_it_could_read_is_told_in_our_own_words(self, tmp_path: Path, tensors, kind: str):
        if kind == "TorchScript":
            torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "x.pt")
        elif kind == "protocol 4":
            torch.save({"state_dict": tensors, "more": Foreign()}, tmp_path / "x.pt", pickle_protocol=4)
        else:
            losses = Losses([1.0, 2.0])
            losses.best = 1.0
            torch.save({"state_dict": tensors, "losses": losses}, tmp_path / "x.pt")
        with pytest.raises(ArtifactError, match=r"state_dict\(\)|no checkpoint") as message:
            models.read_weights(tmp_path / "x.pt")
        assert "weights_only" not in str(message.value)

    @pytest.mark.parametrize(
        ("wrap", "taken"),
        [
            *[(lambda s, p=p: {"state_dict": under(p, s.plain)}, "plain")
              for p in ("resnet.", "student.", "_model.", "base_model.", "a.b.c.")],
            (lambda s: under("model.", s.plain) | under("ema_model.", s.averaged), "averaged"),
            (lambda s: under("online_model.", s.plain) | under("ema_model.", s.averaged), "averaged"),
            (lambda s: under("model_ema.module.", s.averaged) | under("model.", s.plain), "averaged"),
            (lambda s: s.plain | under("ema.", s.averaged), "averaged"),
            (lambda s: {**s.plain, "ema": s.averaged}, "averaged"),
            (lambda s: {"swa": {"n": torch.ones(()), **under("module.", s.averaged)}, "m": s.plain}, "averaged"),
            (lambda s: under("model.", s.plain) | {"ema_model.fc.bias": s.averaged["fc.bias"]}, "plain"),
            (lambda s: under("model.", s.plain) | BESIDE, "plain"),
            (lambda s: s.plain | BESIDE, "plain"),
            (lambda s: under("model.", s.plain) | {"fc.weight": s.averaged["fc.weight"]}, "plain"),
            (lambda s: {"model.fc.weight": s.averaged["fc.weight"], "model": s.plain}, "plain"),
            (lambda s: {"model": s.plain, "teacher": s.deeper}, "plain"),
            (lambda s: {"teacher": s.deeper, "model": s.plain}, "plain"),
            (lambda s: under("model.", s.plain) | under("teacher.", s.deeper), "plain"),
            (lambda s: {"model": s.wider, "other": s.plain}, "plain"),
        ],
    )  # fmt: skip
    def test_of_all_tensors_those_that_fit_the_network_are_taken(self, tmp_path: Path, tensors, wrap, taken: str):
        averaged = {n: value + 1 if value.dim() else value for n, value in tensors.items()}
        wider = {**tensors, "fc.weight": torch.ones(7, 512), "fc.bias": torch.ones(7)}
        deeper = models.create("resnet34", 3).state_dict()
        torch.save(
            wrap(argparse.Namespace(plain=tensors, averaged=averaged, deeper=deeper, wider=wider)), tmp_path / "x.pt"
        )
        network, message = models.create("resnet18", 3), []
        found = models.read_weights(tmp_path / "x.pt", message.append, network.state_dict())
        assert models.load_weights(network, "resnet18", found, "x.pt")
        wanted = averaged if taken == "averaged" else tensors
        assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())

    def test_what_was_not_taken_is_said(self, tmp_path: Path, tensors):
        content = under("model.", tensors) | under("ema_model.", tensors) | {"val_acc.confmat": torch.ones(3, 3)}
        torch.save({"state_dict": content}, tmp_path / "x.pt")
        message: list[str] = []
        models.read_weights(tmp_path / "x.pt", message.append, tensors)
        assert message == [
            "x.pt holds several sets of weights; taken: state_dict.ema_model, not state_dict.model",
            "x.pt: left out, as no part of the network: state_dict.val_acc.confmat",
        ]

    @pytest.mark.parametrize("extra", ["layer5.0.weight", "neck.weight", "layer1.2.bn1.weight", "fc.1.weight"])
    @pytest.mark.parametrize("prefix", ["", "model."])
    def test_a_tensor_that_the_network_lacks_says_that_it_is_another(self, tensors, extra: str, prefix: str):
        with pytest.raises(ArtifactError, match=f"another network than resnet18, which has no {extra}"):
            models.load_weights(
                models.create("resnet18", 3), "resnet18", under(prefix, tensors | {extra: torch.ones(4)}), "x.pt"
            )

    @pytest.mark.parametrize("prefix", ["", "a.b."])
    def test_a_last_layer_of_another_size_stays_fresh(self, tmp_path: Path, tensors, prefix: str):
        torch.save(under(prefix, tensors), tmp_path / "x.pt")
        network = models.create("resnet18", 7)
        found = models.read_weights(tmp_path / "x.pt", own=network.state_dict())
        assert not models.load_weights(network, "resnet18", found, "x.pt")
        assert torch.equal(network.state_dict()["conv1.weight"], tensors["conv1.weight"])

    @pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16], ids=str)
    def test_short_floating_point_is_read_as_its_values(self, tmp_path: Path, tensors, dtype: torch.dtype):
        short = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
        torch.save(short, tmp_path / "x.pt")
        network = models.create("resnet18", 3)
        assert models.load_weights(network, "resnet18", models.read_weights(tmp_path / "x.pt"), "x.pt")
        assert torch.equal(network.state_dict()["conv1.weight"], short["conv1.weight"].float())

    def test_whole_numbers_are_no_weights(self, tensors):
        tensors["conv1.weight"] = tensors["conv1.weight"].to(torch.int8)
        with pytest.raises(ArtifactError, match=r"conv1\.weight is of the type torch\.int8"):
            models.load_weights(models.create("resnet18", 3), "resnet18", tensors, "x.pt")

    @pytest.mark.parametrize(("deeper", "arch"), [("resnet34", "resnet18"), ("efficientnet_b1", "efficientnet_b0")])
    def test_a_deeper_network_is_not_read_as_a_shallower(self, deeper: str, arch: str):
        with pytest.raises(ArtifactError, match=f"another network than {arch}, which has no .* tensors more"):
            models.load_weights(models.create(arch, 3), arch, models.create(deeper, 3).state_dict(), "x.pt")

    @pytest.mark.parametrize(
        "content",
        [
            {"w": torch.ones(3, 3).to_sparse()},
            {"w": torch.ones(3, 3, device="meta")},
            {"w": torch.full((3, 3), torch.nan)},
            {0: torch.ones(3, 3)},
            {"w": torch.tensor(3.0)},
            [torch.ones(3, 3)],
            torch.ones(3, 3),
            {},
            3,
        ],
        ids=["sparse", "meta", "nan", "number as key", "scalar", "list", "tensor", "empty", "number"],
    )
    def test_what_is_no_set_of_weights_is_one_clear_error(self, tmp_path: Path, content: object):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ArtifactError, match=r"x\.pt"):
            models.read_weights(tmp_path / "x.pt")

    @pytest.mark.parametrize("content", [b"hello\n", b"", b"\x80\x02", bytes(range(256)), b"PK\x03\x04"], ids=str)
    def test_what_is_no_checkpoint_is_one_clear_error(self, tmp_path: Path, content: bytes):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(ArtifactError, match="cannot be read as weights"):
            models.read_weights(tmp_path / "x.pt")


class Foreign:
    """Something that a trainer keeps beside the weights, of a class that nobody else has."""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"id2label": {"0": "cat", "1": "dog"}, "model_type": "vit"}', ("cat", "dog")),
        ('{"dog": 1, "cat": 0}', ("cat", "dog")),
        ('{"class_to_idx": {"dog": 1, "cat": 0}}', ("cat", "dog")),
        ('{"0": ["n02012849", "crane"], "1": ["n03126707", "crane"], "2": ["n1", "dog"]}',
         ("crane (n02012849)", "crane (n03126707)", "dog")),
    ],
)  # fmt: skip
def test_class_names_are_read_as_others_keep_them(tmp_path: Path, text: str, names: tuple[str, ...]):
    (tmp_path / "labels.json").write_text(text)
    assert read_classes(tmp_path / "labels.json") == names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("a.txt", f"0{mark}cat\n1{mark}dog\n") for mark in (" ", ": ", ":", "=", " = ", ". ", ") ", "  ")],
        ("a.txt", "1 dog\n0 cat\n"),
        ("a.txt", "index species\n0 cat\n1 dog\n"),
        ("a.txt", "id,species\n0,cat\n1,dog\n"),
        ("a.txt", "0;cat\n1;dog\n"),
        ("a.csv", "0 cat\n1 dog\n"),
        ("a.csv", "species,id\ncat,0\ndog,1\n"),
        ("a.csv", "id,family,species\n0,pets,cat\n1,pets,dog\n"),
        ("a.csv", "species\ncat\ndog\n"),
        ("a.csv", "Class Name\ncat\ndog\n"),
    ],
)
def test_indices_and_headers_are_no_part_of_the_names(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name) == ("cat", "dog")


@pytest.mark.parametrize("text", ['{"cat": 0, "dog": 0, "bird": 1}', '{"label2id": {"cat": 0, "dog": 1, "bird": 1}}'])
def test_an_index_of_two_names_is_refused(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="to several classes"):
        read_classes(tmp_path / "a.json")


@pytest.mark.parametrize(
    "text", ['{"a": 0, "b": 2}', '{"a": 0, "b": 0}', "3", "null", "[[1, 2, 3]]", "[" * 99999, "NaN"]
)
def test_class_names_that_cannot_be_are_one_clear_error(tmp_path: Path, text: str):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(DataError, match=r"labels\.json"):
        read_classes(tmp_path / "labels.json")


class TestPublishedPreprocessing:
    """Size, crop, mean and std are those that the weights' authors measured with."""

    @pytest.mark.parametrize("arch", [arch for arch in models.ARCHITECTURES if models.find(arch).weights])
    def test_every_network_of_torchvision(self, arch: str):
        import torchvision

        theirs = getattr(torchvision.models, models.find(arch).weights).DEFAULT.transforms()
        ours = models.published_preprocess(arch)
        assert [ours.height_px, ours.width_px] == 2 * theirs.crop_size
        assert ours.crop == pytest.approx(theirs.crop_size[0] / theirs.resize_size[0])
        assert (list(ours.mean), list(ours.std)) == (theirs.mean, theirs.std)

    @pytest.mark.parametrize(
        ("arch", "size", "crop", "resize", "mean"),
        [
            ("efficientnet_b3", 300, 300 / 320, "crop", 0.485),
            ("efficientnet_v2_s", 384, 1.0, "crop", 0.485),
            ("timm/efficientnet_b3.ra2_in1k", 288, 0.875, "crop", 0.485),
            ("timm/vit_tiny_patch16_224", 224, 0.9, "crop", 0.5),
            ("timm/convnext_small.fb_in22k_ft_in1k_384", 384, 1.0, "stretch", 0.485),
        ],
    )
    def test_some_that_are_not_usual(self, arch: str, size: int, crop: float, resize: str, mean: float):
        if arch.startswith("timm/"):
            pytest.importorskip("timm")
        found = models.published_preprocess(arch)
        assert (found.height_px, found.width_px, found.resize, found.mean[0]) == (size, size, resize, mean)
        assert found.crop == pytest.approx(crop)
        assert models.usual_size_px(arch, 224) == size
        assert models.usual_size_px(arch, 64) == 64

    def test_resizing_is_near_to_that_of_the_published_transforms(self):
        import torchvision
        from PIL import Image

        grid = np.indices((900, 1200)).sum(0)
        picture = np.stack([128 + 100 * np.sin(grid / step) for step in (17, 23, 31)], axis=2).astype(np.uint8)
        theirs = torchvision.models.EfficientNet_B3_Weights.DEFAULT.transforms()(Image.fromarray(picture))
        ours = models.published_preprocess("efficientnet_b3")
        image = (ours(picture[..., ::-1]) / 255 - ours.mean) / ours.std
        assert np.abs(image.transpose(2, 0, 1) - theirs.numpy()).mean() < 0.1

    def test_an_import_takes_them(self, tmp_path: Path):
        save_file(models.create("efficientnet_b1", 3).state_dict(), tmp_path / "w.safetensors")
        (tmp_path / "three.txt").write_text("a\nb\nc\n")
        message: list[str] = []
        config = ImportConfig(
            file=tmp_path / "w.safetensors",
            arch="efficientnet_b1",
            classes=tmp_path / "three.txt",
            out=tmp_path / "run",
        )
        run = import_model(config, message.append)
        assert run.card.input_shape == (240, 240, 3)
        assert any("240x240 pixels, crop 0.941176" in line for line in message)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "index,label\n0,cat\n1,dog\n"),
        ("a.csv", "0,cat\n1,dog\n"),
        ("a.csv", "1,dog\r\n0,cat\r\n"),
        ("a.csv", "id;name\n1;dog\n0;cat\n"),
        ("a.csv", "name,id\ncat,0\ndog,1\n"),
        ("a.csv", "label,name\n1,dog\n0,cat\n"),
        ("a.csv", "id,color,name\n0,red,cat\n1,blue,dog\n"),
        ("a.csv", "\ufeffid,name\n0,cat\n1,dog\n"),
        ("a.csv", 'id,name\n0,"cat"\n\n1,"dog"\n'),
        ("a.csv", "name\ncat\ndog\n"),
        ("a.csv", "cat\ndog\n"),
        ("a.tsv", "0\tcat\n1\tdog\n"),
        ("a.txt", "0,cat\n1,dog\n"),
        ("a.csv", "id,name\n0,cat\n1,dog\n"),
        ("a.txt", "n00000001\tcat\nn00000002\tdog\n"),
    ],
)
def test_tables_of_labels(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name) == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.txt", "n01440764\nn01443537\n", ("n01440764", "n01443537")),
        ("a.txt", "n00000001\tcrane\nn00000002\tcrane\n", ("crane (n00000001)", "crane (n00000002)")),
        ("a.txt", "tench, Tinca tinca\ngoldfish\n", ("tench, Tinca tinca", "goldfish")),
        ("a.csv", 'id,name\n1,"b, c"\n0,a\n', ("a", "b, c")),
        ("a.txt", "1\n0\n2\n", ("1", "0", "2")),
        ("a.csv", "1\n0\n2\n", ("1", "0", "2")),
        ("a.txt", "1 cat\n2 dog\n", ("1 cat", "2 dog")),
        ("a.txt", "0 euro\n1 euro\n2 euro\n", ("0 euro", "1 euro", "2 euro")),
        ("a.txt", "0.5 litres\n1.0 litres\n", ("0.5 litres", "1.0 litres")),
        ("a.txt", "0:30\n1:45\n", ("0:30", "1:45")),
        ("a.txt", "0 cat\ndog\n", ("0 cat", "dog")),
        ("a.txt", "species\nlabel\n", ("species", "label")),
    ],
)
def test_names_that_look_like_tables_stay_what_they_are(tmp_path: Path, name: str, text: str, names: tuple[str, ...]):
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name\n1,cat\n2,dog\n", "no column that counts its classes from 0"),
        ("id,name\n0,cat\n0,dog\n", "no column that counts its classes from 0"),
        ("id,name\n0,cat, big\n1,dog\n", "row 2 has 3 columns and the first has 2"),
        ("id,name\n0,cat\n1,cat\n", "'cat' more than once"),
        ('id,name\n0,"cat\n1,dog\n', "cannot be read as a table"),
        ("", "names 0 classes"),
        ("0,cat\n1,\n", "the name of class 1 empty"),
        ("0,cat\n1,d\0g\n", "holds no NUL|cannot be read as a table"),
    ],
)
def test_tables_that_name_no_classes(tmp_path: Path, text: str, message: str):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_classes(tmp_path / "a.csv")
