"""ONNX classifiers as others write them answer as before, or are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgecls.artifact.card import INPUT_NAME, OUTPUT_NAME
from edgecls.errors import ArtifactError, UsageError
from edgecls.exporting.bundle import export
from edgecls.exporting.config import ExportConfig
from edgecls.imaging.opencv import cv2
from edgecls.importers.config import ImportConfig
from edgecls.importers.model import import_model
from edgecls.runtime.pipeline import scores_of
from edgecls.runtime.store import Artifact

MEAN, STD, SIDE, CLASSES = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 16, 9
IMAGES = np.random.default_rng(1).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


class Network(nn.Module):
    """A small classifier; what differs between exporters stands around it."""

    def __init__(
        self,
        channels: int = 3,
        before: Callable[[torch.Tensor], torch.Tensor] = lambda image: image,
        after: Callable[[torch.Tensor], torch.Tensor] = lambda scores: scores,
    ):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AvgPool2d(4))
        self.head = nn.Linear(32, CLASSES)
        self.before, self.after = before, after

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.features(self.before(image))
        return self.after(self.head(features.flatten(1)))


def exported(
    network: nn.Module, example: torch.Tensor, file: Path, free_batch: bool = True, **names: list[str]
) -> Path:
    names = {"input_names": ["input"], "output_names": ["output"], **names}
    free = {name: {0: "batch"} for name in (*names["input_names"], *names["output_names"])}
    torch.onnx.export(
        network.eval(), (example,), str(file), dynamo=False, opset_version=17,
        dynamic_axes=free if free_batch else None, **names,
    )  # fmt: skip
    return file


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., Artifact]:
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(f"class {index}" for index in range(CLASSES)))

    def run(file: Path, **options: object) -> Artifact:
        return import_model(ImportConfig(file=file, arch="none", classes=classes, out=tmp_path / "run", **options))

    return run


def theirs(file: Path, images: np.ndarray, output: str | None = None) -> np.ndarray:
    """What the untouched file answers to each image alone."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    answers = [session.run([output] if output else None, {name: image[None]})[0] for image in images]
    return np.concatenate([answer.reshape(1, CLASSES) for answer in answers]).astype(np.float32)


def ours(run: Artifact) -> np.ndarray:
    with run.open() as session:
        return scores_of(session, IMAGES)


def normalized(images: np.ndarray) -> np.ndarray:
    return ((images / 255 - 0.5) / 0.25).astype(np.float32)


def planes(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def grey(images: np.ndarray) -> np.ndarray:
    return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] for image in images])


KNOWN = {"mean": MEAN, "std": STD}
INPUTS = {
    "channels last": (lambda: Network(before=lambda x: x.permute(0, 3, 1, 2)), normalized, KNOWN),
    "float16": (lambda: Network().half(), lambda i: planes(normalized(i)).astype(np.float16), KNOWN),
    "float64": (lambda: Network(before=lambda x: x.float()), lambda i: planes(normalized(i)).astype(np.float64), KNOWN),
    "uint8": (lambda: Network(before=lambda x: x.float() / 99), planes, {}),
    "uint8, channels last": (lambda: Network(before=lambda x: x.permute(0, 3, 1, 2).float() / 99), lambda i: i, {}),
    "int32": (lambda: Network(before=lambda x: x.float() / 99), lambda i: planes(i).astype(np.int32), {}),
    "grey": (lambda: Network(1), lambda i: planes(normalized(grey(i))), KNOWN),
    "grey, channels last": (lambda: Network(1, lambda x: x.permute(0, 3, 1, 2)), lambda i: normalized(grey(i)), KNOWN),
    "grey uint8": (lambda: Network(1, lambda x: x.float() / 99), lambda i: planes(grey(i)), {}),
}  # fmt: skip
OUTPUTS = {
    "(N, C, 1, 1)": lambda x: x[:, :, None, None],
    "(N, 1, 1, C)": lambda x: x[:, None, None, :],
    "(N, C, 1)": lambda x: x[:, :, None],
    "probabilities (N, C, 1, 1)": lambda x: torch.softmax(x, 1)[:, :, None, None],
    "float16": lambda x: x.half(),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_whatever_pixels_it_takes_it_answers_as_before(tmp_path: Path, bring: Callable[..., Artifact], kind: str):
    make, arranged, options = INPUTS[kind]
    images = arranged(IMAGES)
    file = exported(make(), torch.from_numpy(images[:1]), tmp_path / "theirs.onnx")
    run = bring(file, **options)
    assert run.card.input_shape == (SIDE, SIDE, 3)
    tolerance = 2e-2 if kind == "float16" else 1e-4
    np.testing.assert_allclose(ours(run), theirs(file, images), atol=tolerance)


@pytest.mark.parametrize("free_batch", [True, False], ids=["free batch", "batch of 1"])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_scores_of_every_shape_become_one_row_an_image(
    tmp_path: Path, bring: Callable[..., Artifact], kind: str, free_batch: bool
):
    images = planes(normalized(IMAGES))
    network = Network(after=OUTPUTS[kind])
    file = exported(network, torch.from_numpy(images[:1]), tmp_path / "theirs.onnx", free_batch)
    run = bring(file, **KNOWN)
    assert run.card.output == ("probabilities" if "probabilities" in kind else "logits")
    np.testing.assert_allclose(ours(run), theirs(file, images), atol=2e-3)


class Reshaping(nn.Module):
    """Ends in Reshapes to these shapes, which hold the batch as a constant."""

    def __init__(self, *shapes: tuple[int, ...], bias: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.head, self.shapes = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(32, CLASSES), shapes
        self.bias = nn.Parameter(torch.randn(8)) if bias else None

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.convolution(image)
        if self.bias is not None:
            features = features + self.bias.reshape(1, 8, 1, 1)
        for shape in self.shapes:
            features = features.reshape(shape)
        return self.head(features)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("shapes", [[(-1,)], [(32,)], [(8, 4), (-1,)], [(4, 8), (32,)]], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_a_batch_written_into_a_reshape_is_set_free(
    tmp_path: Path, bring: Callable[..., Artifact], batch: int, shapes: list[tuple[int, ...]], bias: bool
):
    images = planes(normalized(IMAGES))
    network = Reshaping(*((batch, *shape) for shape in shapes), bias=bias)
    file = exported(network, torch.from_numpy(images[:batch]), tmp_path / "theirs.onnx", free_batch=False)
    run = bring(file, **KNOWN)
    with torch.inference_mode():
        wanted = [network(torch.from_numpy(image[None]).repeat(batch, 1, 1, 1))[0].numpy() for image in images]
    np.testing.assert_allclose(ours(run), np.stack(wanted), atol=1e-4)


class TestRefusals:
    @pytest.mark.parametrize(
        "network",
        [
            Network(after=lambda x: x - x.mean(0, keepdim=True) + x[0]),
            Network(after=lambda x: x.reshape(9).reshape(3, 3).reshape(1, 9)),
        ],
        ids=["mixes images", "drops the batch"],
    )  # fmt: skip
    def test_a_batch_that_cannot_be_set_free(
        self, tmp_path: Path, bring: Callable[..., Artifact], network: nn.Module, capfd: pytest.CaptureFixture
    ):
        file = exported(network, torch.zeros(1, 3, SIDE, SIDE), tmp_path / "theirs.onnx", free_batch=False)
        with pytest.raises(ArtifactError, match="several images at once .* export it again with a free"):
            bring(file, **KNOWN)
        assert not (tmp_path / "run").exists()
        assert capfd.readouterr() == ("", "")

    def test_the_number_of_the_class_instead_of_scores(self, tmp_path: Path, bring: Callable[..., Artifact]):
        network = Network(after=lambda x: x.argmax(1))
        file = exported(network, torch.zeros(1, 3, SIDE, SIDE), tmp_path / "theirs.onnx")
        with pytest.raises(ArtifactError, match="is int64, a class's number, made by ArgMax; wanted is one score per"):
            bring(file, **KNOWN)

    def test_another_number_of_scores(self, tmp_path: Path, bring: Callable[..., Artifact]):
        network = Network(after=lambda x: x[:, :7, None, None])
        file = exported(network, torch.zeros(1, 3, SIDE, SIDE), tmp_path / "theirs.onnx")
        with pytest.raises(ArtifactError, match=f"gives 7 scores, the classes file names {CLASSES}"):
            bring(file, **KNOWN)

    def test_pixels_that_integers_cannot_hold(self, tmp_path: Path, bring: Callable[..., Artifact]):
        network = Network(before=lambda x: x.float())
        file = exported(network, torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8), tmp_path / "theirs.onnx")
        with pytest.raises(UsageError, match="takes uint8 pixels; leave `mean` and `std` out"):
            bring(file, **KNOWN)

    def test_three_means_for_one_channel(self, tmp_path: Path, bring: Callable[..., Artifact]):
        file = exported(Network(1), torch.zeros(1, 1, SIDE, SIDE), tmp_path / "theirs.onnx")
        with pytest.raises(UsageError, match="takes grey images; give one number to `mean`"):
            bring(file, mean=(0.485, 0.456, 0.406), std=STD)

    @pytest.mark.parametrize("shape", [(1, 3), (1, 5, SIDE, SIDE), (1, 3, 2, SIDE, SIDE)], ids=str)
    def test_input_that_is_no_image(self, tmp_path: Path, bring: Callable[..., Artifact], shape: tuple[int, ...]):
        network = Network(before=lambda x: x.sum().expand(1, 3, SIDE, SIDE))
        file = exported(network, torch.zeros(shape), tmp_path / "theirs.onnx")
        with pytest.raises(ArtifactError, match="only .* can be imported"):
            bring(file, **KNOWN)

    def test_types_that_do_not_fit_are_told_in_one_line(self, tmp_path: Path, bring: Callable[..., Artifact], capfd):
        file = exported(Network(), torch.zeros(1, 3, SIDE, SIDE), tmp_path / "theirs.onnx")
        model = onnx.load(file)
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
        onnx.save(model, file)
        with pytest.raises(ArtifactError, match=r"does not run in ONNX Runtime: .*Type"):
            bring(file)
        assert capfd.readouterr() == ("", "")


class TestSeveralOutputs:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        network = Network(after=lambda x: (x * 2, x.argmax(1), x))
        names = ["aux", "label", "main"]
        return exported(network, torch.zeros(1, 3, SIDE, SIDE), tmp_path / "theirs.onnx", output_names=names)

    @pytest.mark.parametrize("output", ["aux", "main"])
    def test_the_named_one_is_taken(self, file: Path, bring: Callable[..., Artifact], output: str):
        run = bring(file, output=output, **KNOWN)
        np.testing.assert_allclose(ours(run), theirs(file, planes(normalized(IMAGES)), output), atol=1e-4)
        assert [each.name for each in onnx.load(run.path / run.card.model_file).graph.output] == [OUTPUT_NAME]

    def test_without_a_name_they_are_listed(self, file: Path, bring: Callable[..., Artifact]):
        with pytest.raises(UsageError, match=r"3 outputs: aux \[batch, 9\], label \[batch\], main .* with `output`"):
            bring(file, **KNOWN)

    def test_an_unknown_name_and_one_that_holds_no_scores(self, file: Path, bring: Callable[..., Artifact]):
        with pytest.raises(UsageError, match="no output 'logits'; it has aux"):
            bring(file, output="logits", **KNOWN)
        with pytest.raises(ArtifactError, match="label is int64"):
            bring(file, output="label", **KNOWN)

    def test_the_option_of_the_command_line(self, file: Path, tmp_path: Path, cli: Callable, bring: Callable):
        (tmp_path / "names.txt").write_text("\n".join(map(str, range(CLASSES))))
        arguments = [
            "import",
            file,
            "--arch",
            "none",
            "--classes",
            tmp_path / "names.txt",
            "--mean",
            "0.5",
            "--std",
            "0.25",
        ]
        done = cli(*arguments, "--output", "main", "--out", tmp_path / "run")
        assert done.exit_code == 0, done.output
        checkpoint = ["import", tmp_path / "names.txt", "--arch", "resnet18", "--classes", tmp_path / "names.txt"]
        assert "--output is for ONNX files" in cli(*checkpoint, "--output", "main").output


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("input", INPUT_NAME), ("input", OUTPUT_NAME), ("output", INPUT_NAME), ("output", OUTPUT_NAME),
        ("inner", INPUT_NAME), ("inner", OUTPUT_NAME), ("inner", "/normalize/0"), ("inner", "scores.flat"),
        ("weight", INPUT_NAME), ("weight", OUTPUT_NAME), ("weight", "/normalize/scale"), ("weight", "scores.shape"),
        ("node", "/normalize/Cast_0"),
    ],
)  # fmt: skip
def test_names_that_are_ours_too_do_not_matter(tmp_path: Path, bring: Callable[..., Artifact], old: str, new: str):
    """The inner tensor is read inside of an If's branch as well."""
    name = lambda own: new if own == old else own  # noqa: E731
    weights = np.random.default_rng(0).normal(size=(3, CLASSES)).astype(np.float32)
    branches = [
        helper.make_graph(
            [helper.make_node(operator, [name("inner")], ["b"])], operator, [],
            [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
        )
        for operator in ("Relu", "Neg")
    ]  # fmt: skip
    nodes = [
        helper.make_node("ReduceMean", [name("input")], ["means"], axes=[2, 3], keepdims=0, name=name("node")),
        helper.make_node("MatMul", ["means", name("weight")], [name("inner")]),
        helper.make_node("If", ["yes"], ["branch"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Add", ["branch", name("inner")], ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], [name("output")]),
    ]
    constants = [
        numpy_helper.from_array(weights, name("weight")),
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array([0, CLASSES, 1, 1]), "shape"),
    ]
    image = helper.make_tensor_value_info(name("input"), TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
    scores = helper.make_tensor_value_info(name("output"), TensorProto.FLOAT, ["N", CLASSES, 1, 1])
    model = helper.make_model(
        helper.make_graph(nodes, "theirs", [image], [scores], constants),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    onnx.save(model, tmp_path / "theirs.onnx")
    run = bring(tmp_path / "theirs.onnx", **KNOWN)
    wanted = theirs(tmp_path / "theirs.onnx", planes(normalized(IMAGES)))
    np.testing.assert_allclose(ours(run), wanted, atol=1e-4)
    np.testing.assert_allclose(ours(export(ExportConfig(target="onnx", run=run.path))), wanted, atol=1e-4)


def test_nodes_in_another_order_than_they_are_computed_in(tmp_path: Path, bring: Callable[..., Artifact]):
    images = planes(normalized(IMAGES))
    file = exported(Network(), torch.from_numpy(images[:1]), tmp_path / "theirs.onnx")
    model = onnx.load(file)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, file)
    np.testing.assert_allclose(ours(bring(file, **KNOWN)), theirs(file, images), atol=1e-4)
