from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecls.artifact.card import read_card, write_card
from edgecls.errors import ArtifactError, EdgeclsError, OutputError, UsageError
from edgecls.runtime.store import Artifact
from edgecls.serving import triton
from edgecls.serving.repository import RepositoryConfig, write_repository

Bundle = Callable[[str, str], Artifact]


def written(out: Path, *models: object, **settings: Any) -> list[str]:
    config = RepositoryConfig(models=tuple(map(str, models)), out=out, **settings)
    return [f"{each.name} {each.version}" for each in write_repository(config)]


def parsed(path: Path) -> Any:
    """A configuration as Triton's own schema reads it."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="Triton's schema comes with tritonclient")
    from google.protobuf import text_format

    return text_format.Parse(path.read_text(encoding="utf-8"), schema.ModelConfig())


def files_in(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}


@pytest.mark.parametrize(("target", "server"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_triton_gets_the_bundle_its_tensors_and_its_labels(
    bundle: Bundle, tmp_path: Path, target: str, server: str
) -> None:
    artifact = bundle(target, "fp32")
    assert written(tmp_path, f"digits={artifact.path}", max_batch=16, batch_delay_us=500) == ["digits 1"]

    config = parsed(tmp_path / "digits" / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("digits", server, 16)
    assert config.default_model_filename == artifact.card.model_file
    (image,), (scores,) = config.input, config.output
    schema = type(config).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
    assert (image.name, tuple(image.dims)) == ("image", artifact.card.input_shape)
    assert image.data_type == schema["TYPE_UINT8"].number
    assert (scores.name, tuple(scores.dims)) == ("scores", (len(artifact.card.classes),))
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.parameters["scores"].string_value == artifact.card.output
    labels = (tmp_path / "digits" / scores.label_filename).read_text(encoding="utf-8")
    assert tuple(labels.splitlines()) == artifact.card.classes
    for name in artifact.card.lineage.files:
        assert (tmp_path / "digits" / "1" / name).read_bytes() == (artifact.path / name).read_bytes()


def test_encoded_images_go_through_a_step_that_decodes(bundle: Bundle, tmp_path: Path) -> None:
    artifact = bundle("onnx", "fp32")
    written(tmp_path, f"digits={artifact.path}", images=True)
    step, ensemble = (parsed(tmp_path / f"digits_{each}" / "config.pbtxt") for each in ("preprocess", "images"))
    assert (step.backend, ensemble.platform) == ("python", "ensemble")
    model = parsed(tmp_path / "digits" / "config.pbtxt")
    assert step.output[0].dims == model.input[0].dims
    assert step.output[0].data_type == model.input[0].data_type
    first, second = ensemble.ensemble_scheduling.step
    assert (first.model_name, second.model_name) == ("digits_preprocess", "digits")
    assert dict(first.output_map) == dict(second.input_map) == {"image": "image"}
    assert read_card(tmp_path / "digits_preprocess" / "1").preprocess == artifact.card.preprocess
    assert (tmp_path / "digits_images" / "1").is_dir()


def test_a_model_that_is_there_gets_a_further_version(bundle: Bundle, tmp_path: Path) -> None:
    artifact = bundle("onnx", "fp32")
    assert written(tmp_path, f"digits={artifact.path}", images=True) == ["digits 1"]
    before = files_in(tmp_path / "digits" / "1")
    assert written(tmp_path, f"digits={artifact.path}", images=True) == ["digits 2"]
    assert files_in(tmp_path / "digits" / "1") == files_in(tmp_path / "digits" / "2") == before
    assert files_in(tmp_path / "digits_preprocess" / "1") == files_in(tmp_path / "digits_preprocess" / "2")


def test_a_version_with_other_classes_is_refused_before_anything_is_written(
    bundle: Bundle, tmp_path: Path, copy_of: Callable[[Artifact], Path]
) -> None:
    artifact = bundle("onnx", "fp32")
    other = copy_of(artifact)
    write_card(replace(artifact.card, classes=tuple(reversed(artifact.card.classes))), other)
    out = tmp_path / "out"
    written(out, f"digits={artifact.path}")
    before = files_in(out)
    with pytest.raises(UsageError, match="other classes"):
        written(out, f"new={artifact.path}", f"digits={other}")
    assert files_in(out) == before


def test_a_run_means_its_best_bundle_that_servers_open(bundle: Bundle, trained: Artifact, tmp_path: Path) -> None:
    bundle("onnx", "fp32")
    assert written(tmp_path, trained.path) == [f"{trained.path.name} 1"]


def test_a_run_alone_and_what_was_built_for_one_machine_are_refused(
    bundle: Bundle, copy_of: Callable[[Artifact], Path], trained: Artifact, tmp_path: Path
) -> None:
    for path in (copy_of(trained), bundle("tensorrt", "fp32").path):
        with pytest.raises(ArtifactError, match="no bundle that the server opens"):
            written(tmp_path / "out", f"digits={path}")


def test_names_must_be_different_and_fit_into_a_url(bundle: Bundle, tmp_path: Path) -> None:
    path = bundle("onnx", "fp32").path
    with pytest.raises(UsageError, match="two models are called"):
        written(tmp_path, path, path)
    with pytest.raises(UsageError, match="two models are called a_images"):
        written(tmp_path, f"a={path}", f"a_images={path}", images=True)
    with pytest.raises(UsageError, match="next version is counted"):
        written(tmp_path, f"a:2={path}")
    for name in ("..", "a b", ".hidden", "x" * 129):
        with pytest.raises(UsageError, match="cannot name a model"):
            written(tmp_path, f"{name}={path}")
    assert not files_in(tmp_path)


def test_a_folder_of_somebody_else_stays_as_it_is(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "digits" / "1").mkdir(parents=True)
    with pytest.raises(OutputError, match="not written by edgecls"):
        written(tmp_path, f"digits={bundle('onnx', 'fp32').path}")
    assert not files_in(tmp_path)


def test_a_damaged_bundle_goes_into_no_repository(
    bundle: Bundle, tmp_path: Path, copy_of: Callable[[Artifact], Path]
) -> None:
    damaged = copy_of(bundle("onnx", "fp32"))
    with (damaged / "model.onnx").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(ArtifactError, match="SHA-256"):
        written(tmp_path / "out", f"digits={damaged}")


@pytest.mark.parametrize("settings", [{"images": True}, {"gpu": True}, {"batch_delay_us": 1}])
def test_what_the_other_server_cannot_do_is_refused(bundle: Bundle, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="triton alone"):
        written(tmp_path, bundle("onnx", "fp32").path, layout="ovms", **settings)
    with pytest.raises(UsageError, match="takes ONNX bundles"):
        written(tmp_path, bundle("openvino", "fp32").path, gpu=True)


def test_model_server_gets_a_list_that_keeps_what_others_wrote(bundle: Bundle, tmp_path: Path) -> None:
    listed = {"model_config_list": [{"config": {"name": "other", "base_path": "/other"}}], "monitoring": {}}
    (tmp_path / "config.json").write_text(json.dumps(listed))
    for version in (1, 2):
        assert written(tmp_path, f"digits={bundle('openvino', 'fp32').path}", layout="ovms") == [f"digits {version}"]
    content = json.loads((tmp_path / "config.json").read_text())
    assert [each["config"]["name"] for each in content["model_config_list"]] == ["other", "digits"]
    assert content["monitoring"] == {}
    assert {"model.xml", "model.bin"} <= files_in(tmp_path / "digits" / "2")


@pytest.mark.parametrize("content", ["{", "[]", '{"model_config_list": 1}'])
def test_a_list_of_models_that_is_none_is_said(bundle: Bundle, tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(EdgeclsError, match=r"config\.json"):
        written(tmp_path, f"digits={bundle('openvino', 'fp32').path}", layout="ovms")
    assert (tmp_path / "config.json").read_text() == content
    assert files_in(tmp_path) == {"config.json"}


@pytest.mark.parametrize("name", ['says "no"', "tab\there", "größer", "back\\slash", "𝒳"])
def test_odd_class_names_arrive_in_triton_as_they_are(bundle: Bundle, tmp_path: Path, name: str) -> None:
    card = replace(bundle("onnx", "fp32").card, classes=(name, *bundle("onnx", "fp32").card.classes[1:]))
    files = triton.model_files(name, card, "onnxruntime", triton.Options(8, 0, gpu=False))
    (tmp_path / "config.pbtxt").write_text(files["config.pbtxt"], encoding="utf-8")
    assert parsed(tmp_path / "config.pbtxt").name == name
    assert files["labels.txt"].split("\n")[0] == name


@pytest.mark.parametrize("name", ["two\nlines", "two\u2028lines", ""])
def test_a_class_name_that_is_not_one_line_is_refused(bundle: Bundle, name: str) -> None:
    card = replace(bundle("onnx", "fp32").card, classes=(name, *bundle("onnx", "fp32").card.classes[1:]))
    with pytest.raises(UsageError, match="not one line"):
        triton.model_files("digits", card, "onnxruntime", triton.Options(8, 0, gpu=False))


def test_the_command_says_what_was_written(bundle: Bundle, cli: Callable[..., Any], tmp_path: Path) -> None:
    result = cli("repository", f"digits={bundle('onnx', 'fp32').path}", "--out", tmp_path / "models", "--images")
    assert result.exit_code == 0, result.output
    assert "digits version 1" in result.output
    assert "digits_images" in result.output
    shutil.rmtree(tmp_path / "models")
    refused = cli("repository", tmp_path / "nothing")
    assert refused.exit_code == ArtifactError.exit_code
    assert "there is no model" in refused.output
