"""Exporting: verified before it is called done, and whole or not there at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgecls.artifact.card import read_card, write_card
from edgecls.artifact.golden import Golden
from edgecls.backends.base import PROCESSORS
from edgecls.data.dataset import open_recorded
from edgecls.errors import ArtifactError, BackendError, DataError, MissingExtraError, UsageError, VerificationError
from edgecls.exporting import build, int8_search, quantized, shared, timing, verification
from edgecls.exporting.bundle import export, export_all
from edgecls.exporting.config import ExportConfig
from edgecls.imaging.opencv import cv2
from edgecls.runtime import machine, store
from edgecls.runtime.store import Artifact
from edgecls.runtime.verification import verify


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def single_candidate(tmp_path: Path) -> Path:
    """A recipe without a search."""
    file = tmp_path / "recipe.toml"
    file.write_text('quantizer = "onnxruntime"\nactivations = "uint8"\nsymmetric = false\nsamples = 64\n')
    return file


@pytest.fixture
def run(trained: Artifact, copy_of: Callable[[Artifact], Path]) -> Path:
    return copy_of(replace(trained))


def test_the_graph_takes_raw_images_and_a_free_batch(bundle: Callable[[str, str], Artifact]):
    model = onnx.load(bundle("onnx", "fp32").path / "model.onnx")
    [image], [scores] = model.graph.input, model.graph.output
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dimensions = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert dimensions[1:] == [32, 32, 3]
    assert isinstance(dimensions[0], str)
    assert scores.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_int8_is_smaller_and_names_its_calibration(bundle: Callable[[str, str], Artifact], trained: Artifact):
    small, large = bundle("onnx", "int8"), bundle("onnx", "fp32")
    assert small.size_bytes() < 0.4 * large.size_bytes()
    manifest = json.loads((small.path / "calibration.json").read_text())
    assert small.card.lineage.calibration["images"] == len(manifest["images"]) >= 100
    training = {sample.key for sample in open_recorded(trained.path).splits["train"]}
    assert {image["path"] for image in manifest["images"]} <= training


def test_a_bundle_can_be_read_by_others_and_holds_nothing_hidden(bundle: Callable[[str, str], Artifact]):
    for target, precision in (("onnx", "int8"), ("tensorrt", "int8")):
        path = bundle(target, precision).path
        assert path.stat().st_mode & 0o055 == 0o055
        assert not list(path.rglob(".*"))


def test_fp16_weights_are_half_precision_tensors(bundle: Callable[[str, str], Artifact]):
    model = onnx.load(bundle("onnx", "fp16").path / "model.onnx")
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4 and tensor.dims[0] > 1}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_the_card_says_what_was_measured(bundle: Callable[[str, str], Artifact], trained: Artifact):
    card = read_card(bundle("onnx", "int8").path)
    assert card.lineage.parent == trained.card.lineage.files["model.safetensors"]
    assert card.quality.images == 269
    assert card.quality.split == "test"
    assert card.quality.agreement > 0.95
    assert card.quality.latency_ms > 0
    assert card.quality.verified_with == "onnxruntime"
    assert card.classes == trained.card.classes


def test_a_lowered_precision_is_timed_in_turn_with_float32(bundle: Callable[[str, str], Artifact]):
    assert bundle("onnx", "int8").card.quality.gain > 0
    assert bundle("onnx", "fp16").card.quality.gain > 0
    assert bundle("onnx", "fp32").card.quality.gain is None


@pytest.mark.parametrize(
    ("gain", "written", "refusal"),
    [
        (0.8, False, r"not faster than FP32 .*: 0\.80x"),
        (1.3, True, ""),
        (None, False, "cannot be timed"),
    ],
)
def test_a_required_gain_decides_whether_the_bundle_is_written(
    run: Path, monkeypatch: pytest.MonkeyPatch, gain: float | None, written: bool, refusal: str
):
    monkeypatch.setattr(timing, "gain_over", lambda *_: gain)
    config = ExportConfig(target="onnx", run=run, precision="fp16", require_gain=True)
    if written:
        assert export(config).card.quality.gain == gain
    else:
        with pytest.raises(VerificationError, match=refusal):
            export(config)
        assert list((run / "bundles").iterdir()) == []


def test_lowered_precision_that_does_not_pay_comes_with_the_float_bundle_that_is_used_instead(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(timing, "gain_over", lambda *_: 0.8)
    artifact = export(ExportConfig(target="onnx", run=run, precision="int8", max_drop_points=5.0))
    assert artifact.card.quality.recommended is False
    assert {path.name for path in (run / "bundles").iterdir()} == {"onnx-int8", "onnx-fp32"}
    write_card(replace(artifact.card, quality=replace(artifact.card.quality, latency_ms=0.0001)), artifact.path)
    assert store.candidates(run)[0].card.name == "onnx-fp32"


def test_candidates_that_are_accurate_but_slow_are_not_refined(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timing, "gain_over", lambda *_: 0.8)
    artifact = export(ExportConfig(target="onnx", run=run, precision="int8", max_drop_points=5.0))
    tried, *others = artifact.card.lineage.candidates
    assert (tried["candidate"], tried["left_out"]) == ("percentile ranges", False)
    in_float = [other for other in others if "in float" in other["candidate"]]
    assert len(in_float) == 2
    assert not any(other["left_out"] for other in in_float)
    refined = [other for other in others if other not in in_float]
    assert all(other["left_out"] and "computes like 'percentile ranges'" in other["reason"] for other in refined)


def test_int8_for_another_kind_of_processor_is_verified_but_not_timed(run: Path):
    device = "arm" if machine.int8_kind(machine.this_machine()) != "arm" else "x86"
    card = export(ExportConfig(target="onnx", run=run, precision="int8", device=device, max_drop_points=5)).card
    assert card.runtime.device == device
    assert card.lineage.recipe["reduce_range"] == (device == "x86")
    assert card.lineage.recipe["activations"] == ("int8" if device == "arm" else "uint8")
    assert card.quality.agreement > 0.9
    assert card.quality.verified_with == "onnxruntime, exact integer semantics"
    assert (card.quality.latency_ms, card.quality.gain, card.quality.recommended) == (None, None, None)


def test_a_processor_with_vnni_is_built_for_on_one_without_and_judged_by_what_it_will_compute(
    run: Path, single_candidate: Path, monkeypatch: pytest.MonkeyPatch
):
    older = replace(machine.this_machine(), architecture="x86_64", instruction_sets=("AVX2",))
    monkeypatch.setattr(machine, "this_machine", lambda: older)
    config = ExportConfig(run=run, precision="int8", recipe=single_candidate, max_drop_points=5)
    there = export(replace(config, device="x86-vnni")).card
    assert there.quality.verified_with == "onnxruntime, exact integer semantics"
    assert there.quality.latency_ms is None
    assert export(replace(config, device="x86")).card.quality.verified_with == "onnxruntime"


def test_float_for_another_kind_of_processor_is_verified_by_its_own_runtime(run: Path):
    device = "arm" if machine.int8_kind(machine.this_machine()) != "arm" else "x86"
    quality = export(ExportConfig(run=run, device=device)).card.quality
    assert (quality.verified_with, quality.agreement, quality.latency_ms) == ("onnxruntime", 1.0, None)


def test_what_cannot_run_here_is_verified_by_its_stand_in(bundle: Callable[[str, str], Artifact]):
    artifact = bundle("tensorrt", "int8")
    if artifact.backend.available() is None:
        pytest.skip("TensorRT runs here")
    assert artifact.card.quality.verified_with == "onnxruntime as fallback, exact integer semantics"
    assert artifact.card.quality.agreement > 0.95
    assert artifact.card.quality.latency_ms is None


def test_golden_inputs_replay(bundle: Callable[[str, str], Artifact]):
    assert verify(bundle("onnx", "int8")).images == 16


def test_golden_inputs_catch_other_answers(bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path]):
    path = copy_of(bundle("onnx", "fp32"))
    golden = Golden.read(path)
    Golden(golden.images, np.roll(golden.scores, 1, axis=1)).write(path)
    with pytest.raises(VerificationError, match="fails here"):
        verify(store.find(path))


def test_a_bundle_that_loses_too_much_is_not_written(
    run: Path, single_candidate: Path, monkeypatch: pytest.MonkeyPatch
):
    """Calibrated on black images, every activation saturates."""

    def black(self, count):
        return [np.zeros((32, 32, 3), np.uint8)] * 10

    monkeypatch.setattr(quantized.QuantizedGraphs, "_calibration_images", black)
    before = files_below(run)
    with pytest.raises(VerificationError, match=r"loses .* points of top-1 at best .*, 1 are allowed; 1 recipes were"):
        export(ExportConfig(target="onnx", run=run, precision="int8", recipe=single_candidate))
    assert {path for path in files_below(run) - before if not path.startswith("cache")} <= {"bundles"}


def test_a_candidate_that_cannot_pass_is_given_up_after_the_first_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'quantizer = "onnxruntime"\nactivations = "uint8"\nsymmetric = false\nsamples = 64\n'
        '[[candidate]]\nname = "grey"\nsamples = 16\n[[candidate]]\nname = "real"\n'
    )
    original = quantized.QuantizedGraphs._calibration_images

    def first_grey(self, count):
        return [np.full((32, 32, 3), 90, np.uint8)] * count if count == 16 else original(self, count)

    monkeypatch.setattr(quantized.QuantizedGraphs, "_calibration_images", first_grey)
    monkeypatch.setattr(timing, "gain_over", lambda *_: 1.5)
    card = export(ExportConfig(run=run, precision="int8", recipe=recipe, max_drop_points=2.0)).card
    grey, real = card.lineage.candidates
    assert (grey["images"], grey["reason"]) == (100, "given up after 100 of 269 images")
    assert (real["images"], real["reason"]) == (269, None)
    assert card.quality.images == 269


def test_an_undecided_candidate_is_compared_on_all_images_that_nothing_was_learned_from(
    run: Path, single_candidate: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(int8_search.AcceptanceCriteria, "undecided", lambda _, quality: quality.images == 60)
    config = ExportConfig(run=run, precision="int8", recipe=single_candidate, max_drop_points=5.0, verify_images=60)
    quality = export(config).card.quality
    assert (quality.split, quality.images) == ("test and validation", 538)
    assert quality.drop_low_points <= quality.drop_points <= quality.drop_high_points


def test_what_stays_undecided_is_kept_with_a_note(run: Path, single_candidate: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(int8_search.AcceptanceCriteria, "accurate", lambda *_: False)
    monkeypatch.setattr(int8_search.AcceptanceCriteria, "undecided", lambda *_: True)
    config = ExportConfig(run=run, precision="int8", recipe=single_candidate, max_drop_points=0.0)
    card = read_card(export(config).path)
    assert card.quality.note.startswith("whether top-1 drops by more than the allowed 0 points is not decided")
    assert card.quality.images == 538


def test_a_failed_export_keeps_the_bundle_that_was_there(run: Path, monkeypatch: pytest.MonkeyPatch):
    folder = export(ExportConfig(target="onnx", run=run)).path
    before = read_card(folder)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(verification, "measure_quality", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(ExportConfig(target="onnx", run=run))
    assert read_card(folder) == before
    assert [path.name for path in (run / "bundles").iterdir()] == ["onnx-fp32"]


def test_calibration_from_a_folder_of_similar_images(run: Path, digit_images: Path, single_candidate: Path):
    config = ExportConfig(
        target="onnx", run=run, precision="int8", calibration=digit_images, max_drop_points=5, recipe=single_candidate
    )
    manifest = json.loads((export(config).path / "calibration.json").read_text())
    assert manifest["location"] == str(digit_images)
    assert len(manifest["images"]) == 40


def test_without_its_images_a_run_is_verified_on_golden_inputs(run: Path):
    record = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**record, "location": "/gone"}))
    artifact = export(ExportConfig(target="onnx", run=run))
    assert artifact.card.quality.split == "golden"
    assert artifact.card.quality.images == 16
    assert artifact.card.quality.top1 is None
    with pytest.raises(DataError, match=r"no longer at /gone.*`calibration`"):
        export(ExportConfig(target="onnx", run=run, precision="int8"))


def test_verifying_changes_nothing_in_the_bundle(
    run: Path, bundle: Callable[[str, str], Artifact], digit_images: Path, tmp_path: Path
):
    record = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**record, "location": "/gone"}))
    path = shutil.copytree(bundle("onnx", "fp32").path, tmp_path / "bundle")
    copied = Artifact(path, read_card(path))
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with shared.shared_steps(store.find(run), lambda _: None) as steps:
        verifier = steps.verifier(20, steps.calibration(40, digit_images))
        assert verifier.verify(copied, path / "model.onnx").card.quality.split == "unlabelled"
        golden = verifier.golden()
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert len(golden.images) == 16
    assert not np.array_equal(golden.images, Golden.read(path).images)


class TestRefusals:
    def test_targets_and_precisions_that_do_not_exist(self, trained: Artifact):
        with pytest.raises(UsageError, match="no target 'coreml'"):
            export(ExportConfig(target="coreml", run=trained.path))
        with pytest.raises(UsageError, match="no export target"):
            export(ExportConfig(target="torch", run=trained.path))
        with pytest.raises(UsageError, match="`precision` takes fp32, fp16, bf16, int8"):
            export(ExportConfig(target="onnx", run=trained.path, precision="int4"))

    def test_options_that_do_not_go_together(self, trained: Artifact, photos: Path):
        with pytest.raises(UsageError, match="`calibration` is for int8"):
            export(ExportConfig(target="onnx", run=trained.path, calibration=photos))
        with pytest.raises(UsageError, match=r"onnx has no device '8\.6'; choose x86-vnni, x86, arm"):
            export(ExportConfig(target="onnx", run=trained.path, device="8.6"))
        with pytest.raises(UsageError, match="`recipe` is for int8"):
            export(ExportConfig(target="onnx", run=trained.path, recipe=photos))
        with pytest.raises(UsageError, match="`strategy` takes fastest, smallest, most-accurate"):
            export(ExportConfig(target="onnx", run=trained.path, precision="int8", strategy="best"))
        with pytest.raises(UsageError, match="`require_gain` is for int8, fp16 and bf16"):
            export(ExportConfig(target="onnx", run=trained.path, require_gain=True))
        with pytest.raises(UsageError, match="no device 'TPU'"):
            export(ExportConfig(target="openvino", run=trained.path, device="TPU"))
        with pytest.raises(UsageError, match="`max_drop_points`"):
            export(ExportConfig(target="onnx", run=trained.path, precision="int8", max_drop_points=-1))

    def test_too_few_calibration_images(self, trained: Artifact, tmp_path: Path):
        (tmp_path / "few").mkdir()
        with pytest.raises(DataError, match="gives 0 calibration images; at least 16 are needed"):
            export(ExportConfig(target="onnx", run=trained.path, precision="int8", calibration=tmp_path / "few"))

    def test_a_bundle_is_no_run(self, bundle: Callable[[str, str], Artifact]):
        with pytest.raises(ArtifactError, match="is not a run but a model for onnx"):
            export(ExportConfig(target="onnx", run=bundle("onnx", "fp32").path))

    @pytest.mark.parametrize("victim", ["run", "photos"])
    def test_out_never_replaces_a_run_or_somebodys_files(self, trained: Artifact, photos: Path, victim: str):
        path = trained.path if victim == "run" else photos
        before = files_below(path)
        with pytest.raises(UsageError, match="exists and is no bundle"):
            export(ExportConfig(target="onnx", run=trained.path, out=path))
        assert files_below(path) == before

    def test_weights_of_another_architecture(self, run: Path):
        card = read_card(run)
        write_card(replace(card, arch="resnet18"), run)
        with pytest.raises(ArtifactError, match="does not fit resnet18"):
            export(ExportConfig(target="onnx", run=run))


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX matter")
def test_a_full_disk_is_one_line_and_leaves_nothing(run: Path):
    """A limit on the size of files stands in for a disk that fills up while the bundle is being written."""
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        f"sys.argv = ['edgecls', 'export', {str(run)!r}]\n"
        "from edgecls.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 8, done.stderr
    assert "File too large" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list((run / "bundles").iterdir())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_no_recipe_can_mend_is_said_before_any_is_tried(
    run: Path, precision: str, monkeypatch: pytest.MonkeyPatch
):
    def without_torch(*_: object, **__: object):
        raise MissingExtraError("torch", "train", "exporting")

    monkeypatch.setattr(shared, "float_graph", without_torch)
    with pytest.raises(MissingExtraError, match="exporting needs torch"):
        export(ExportConfig(target="onnx", run=run, precision=precision))


@pytest.mark.parametrize(
    ("precision", "verified_with"),
    [("fp32", "onnxruntime as fallback"), ("int8", "onnxruntime, exact integer semantics")],
)
def test_a_device_that_is_not_here_is_built_for_and_judged_by_the_graph(
    run: Path, precision: str, verified_with: str, tmp_path: Path
):
    openvino = pytest.importorskip("openvino")
    if "NPU" in openvino.Core().available_devices:
        pytest.skip("this machine has an NPU")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('quantizer = "nncf"\nactivations = "auto"\nsymmetric = true\nsamples = 64\n')
    config = ExportConfig(target="openvino", run=run, precision=precision, device="NPU", max_drop_points=5)
    card = export(replace(config, recipe=recipe) if precision == "int8" else config).card
    assert card.quality.verified_with == verified_with
    assert card.quality.agreement > 0.95
    assert (card.runtime.device, card.quality.latency_ms) == ("NPU", None)
    with pytest.raises(BackendError, match="finds no device NPU on this machine; found: "):
        store.find(run / "bundles" / card.name).open()


def test_candidates_share_the_prepared_graph_and_the_ranking_of_the_layers(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[str] = []

    def counted(name: str):
        original = getattr(quantized, name)
        return lambda *arguments: (calls.append(name), original(*arguments))[1]

    for name in ("prepare", "rank_layers"):
        monkeypatch.setattr(quantized, name, counted(name))
    file = tmp_path / "recipe.toml"
    file.write_text(
        'quantizer = "onnxruntime"\nactivations = "uint8"\nsymmetric = false\nsamples = 32\n'
        '[[candidate]]\nname = "one"\nfloat_share = 0.1\n[[candidate]]\nname = "two"\nfloat_share = 0.9\n'
    )
    card = export(
        ExportConfig(
            target="onnx", run=run, precision="int8", recipe=file, strategy="most-accurate", max_drop_points=100.0
        )
    ).card
    assert [tried["candidate"] for tried in card.lineage.candidates] == ["one", "two"]
    assert sorted(calls) == ["prepare", "rank_layers"]


def test_the_graph_holds_nothing_that_is_not_used(bundle: Callable[[str, str], Artifact]):
    """ONNX Runtime prints a warning for every such constant in the programs of those who open the file themselves."""
    for precision in ("fp32", "int8"):
        graph = onnx.load(bundle("onnx", precision).path / "model.onnx").graph
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        made = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
        assert made <= used


class Meddling:
    """What goes wrong with a candidate, wherever it is on its way."""

    STEPS = ("quantize", "build", "measure_quality", "time_artifacts")

    @staticmethod
    def into(step: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let that step fail for the first int8 candidate only."""
        failed: list[str] = []

        def failing(original: Callable, concerns: Callable[..., bool]) -> Callable:
            def call(*arguments: object, **options: object) -> object:
                if not failed and concerns(*arguments, **options):
                    failed.append(step)
                    raise error
                return original(*arguments, **options)

            return call

        if step == "quantize":
            monkeypatch.setattr(quantized.Quantizer, step, failing(quantized.Quantizer.quantize, lambda *_: True))
        elif step == "build":
            backend = type(build.backends.find("onnx"))
            int8 = lambda _self, _graph, card, *_: card.precision == "int8"  # noqa: E731
            monkeypatch.setattr(backend, step, failing(backend.build, int8))
        else:
            module = {"measure_quality": verification, "time_artifacts": timing}[step]
            monkeypatch.setattr(module, step, failing(getattr(module, step), lambda *_: True))


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), KeyError("x"), MemoryError(), OSError("gone")], ids=repr)
@pytest.mark.parametrize("step", Meddling.STEPS)
def test_a_candidate_that_fails_is_a_row_with_its_reason_and_the_search_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'quantizer = "onnxruntime"\nactivations = "uint8"\nsymmetric = false\nsamples = 16\n'
        '[[candidate]]\nname = "one"\n[[candidate]]\nname = "two"\n'
    )
    Meddling.into(step, error, monkeypatch)
    card = export(ExportConfig(target="onnx", run=run, precision="int8", recipe=recipe, max_drop_points=100.0)).card
    first, second = card.lineage.candidates
    assert first["reason"].startswith(type(error).__name__)
    assert "\n" not in first["reason"]
    assert first["agreement"] is None
    assert second["candidate"] == "two"
    assert second["reason"] is None


def test_where_every_candidate_fails_the_reasons_are_told_and_nothing_is_written(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    def failing(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(quantized.Quantizer, "quantize", failing)
    with pytest.raises(VerificationError, match=r"no recipe could be applied \(.*: ZeroDivisionError: by"):
        export(ExportConfig(target="onnx", run=run, precision="int8"))
    assert not (run / "bundles").exists() or not list((run / "bundles").iterdir())


def test_scores_that_are_no_numbers_are_no_candidate(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        verification, "scores_of", lambda _session, images: np.full((len(list(images)), 10), np.nan, np.float32)
    )
    with pytest.raises(VerificationError, match="not finite"):
        export(ExportConfig(target="onnx", run=run, precision="int8"))


class TestSeveralTargets:
    """One call, in which what does not depend on the target is done once."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The names of the steps that were really done."""
        calls: list[str] = []

        def counted(name: str, original: Callable) -> Callable:
            return lambda *arguments, **options: (calls.append(name), original(*arguments, **options))[1]

        monkeypatch.setattr(shared, "float_graph", counted("trace", shared.float_graph))
        monkeypatch.setattr(quantized.Quantizer, "quantize", counted("quantize", quantized.Quantizer.quantize))
        monkeypatch.setattr(verification, "run_scores", counted("ask the run", verification.run_scores))
        monkeypatch.setattr(int8_search.calibration, "choose", counted("choose images", int8_search.calibration.choose))
        return calls

    def test_equal_steps_are_done_once(self, run: Path, single_candidate: Path, calls: list[str]):
        base = ExportConfig(run=run, precision="int8", recipe=single_candidate, max_drop_points=5.0)
        outcomes = export_all([replace(base, target=target) for target in ("onnx", "openvino")])
        made = [outcome.artifact.card.name for outcome in outcomes]
        assert made == ["onnx-int8", "openvino-int8"]
        assert sorted(calls) == ["ask the run", "choose images", "quantize", "trace"]
        assert {path.name for path in (run / "bundles").iterdir()} >= set(made)

    def test_folders_of_equal_file_names_calibrate_each_with_its_own_images(
        self, run: Path, digit_images: Path, single_candidate: Path, tmp_path: Path
    ):
        darker = tmp_path / "darker"
        shutil.copytree(digit_images, darker)
        for file in darker.rglob("*.png"):
            cv2.imwrite(str(file), cv2.imread(str(file)) // 5 * 4)
        base = ExportConfig(run=run, precision="int8", recipe=single_candidate, max_drop_points=100.0)
        configs = [
            replace(base, calibration=folder, out=tmp_path / f"{folder.name} {number}")
            for number, folder in enumerate((digit_images, darker, digit_images))
        ]
        outcomes = export_all(configs)
        assert [outcome.error for outcome in outcomes] == [None] * 3
        bundles = [outcome.artifact.path for outcome in outcomes]
        constants = [str(onnx.load(bundle / "model.onnx").graph.initializer) for bundle in bundles]
        assert constants[0] == constants[2] != constants[1]

    def test_folders_of_equal_file_names_verify_each_on_its_own_images(
        self, run: Path, digit_images: Path, tmp_path: Path
    ):
        record = json.loads((run / "data.json").read_text())
        (run / "data.json").write_text(json.dumps({**record, "location": "/gone"}))
        mirrored = tmp_path / "mirrored"
        shutil.copytree(digit_images, mirrored)
        for file in mirrored.rglob("*.png"):
            cv2.imwrite(str(file), cv2.imread(str(file))[:, ::-1])
        with shared.shared_steps(store.find(run), lambda _: None) as steps:
            sets = [steps.calibration(40, folder) for folder in (digit_images, mirrored)]
            verifiers = [steps.verifier(20, images) for images in sets]
            assert sets[0].spare == sets[1].spare
            assert verifiers[0] is not verifiers[1]
            assert steps.verifier(20, sets[0]) is verifiers[0]

    def test_a_target_that_fails_leaves_the_others(self, run: Path, monkeypatch: pytest.MonkeyPatch):
        openvino = type(build.backends.find("openvino"))
        monkeypatch.setattr(openvino, "_build", lambda *_: (_ for _ in ()).throw(RuntimeError("no such operator")))
        first, second = export_all([ExportConfig(run=run, target=target) for target in ("openvino", "onnx")])
        assert (first.name, str(first.error)) == ("openvino-fp32", "no such operator")
        assert second.artifact.card.quality.agreement == 1.0
        assert [path.name for path in (run / "bundles").iterdir()] == ["onnx-fp32"]

    def test_a_target_that_cannot_be_built_here_leaves_the_others(self, run: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(type(build.backends.find("openvino")), "buildable", lambda _: "openvino is not installed")
        first, second = export_all([ExportConfig(run=run, target=target) for target in ("openvino", "onnx")])
        assert isinstance(first.error, BackendError)
        assert second.artifact is not None

    def test_what_makes_no_sense_is_said_before_any_work(self, run: Path, tmp_path: Path, calls: list[str]):
        onnx_float = ExportConfig(run=run)
        with pytest.raises(UsageError, match="names onnx twice"):
            export_all([onnx_float, onnx_float])
        with pytest.raises(UsageError, match="no target 'coreml'"):
            export_all([onnx_float, replace(onnx_float, target="coreml")])
        with pytest.raises(UsageError, match="`out` is the folder of one bundle, and there are 2"):
            export_all([replace(onnx_float, target=name, out=tmp_path / "out") for name in ("onnx", "openvino")])
        (tmp_path / "link").symlink_to(tmp_path)
        for detour in ("aside/..", "link"):
            outs = {"onnx": tmp_path / "out", "openvino": tmp_path / detour / "out"}
            with pytest.raises(UsageError, match="`out` is the folder of one bundle, and there are 2"):
                export_all([replace(onnx_float, target=name, out=out) for name, out in outs.items()])
        with pytest.raises(UsageError, match="are of one run"):
            export_all([onnx_float, replace(onnx_float, run=tmp_path)])
        assert calls == []
        assert export_all([]) == []


def test_a_bundle_for_another_device_does_not_replace_the_one_that_runs_here(run: Path):
    other = next(kind for kind in PROCESSORS if kind != machine.int8_kind(machine.this_machine()))
    here = export(ExportConfig(target="onnx", run=run))
    elsewhere = export(ExportConfig(target="onnx", run=run, device=other))
    assert elsewhere.path == here.path.with_name(f"onnx-fp32-{other}")
    assert here.path.is_dir()
    assert store.candidates(run)[0].path == here.path
