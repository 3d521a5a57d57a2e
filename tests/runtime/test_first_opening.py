"""A bundle proves itself by its golden inputs the first time that it is opened on a machine."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

import edgecls
from edgecls import cache, processor
from edgecls.artifact.card import write_card
from edgecls.artifact.golden import Golden
from edgecls.errors import VerificationError
from edgecls.exporting.config import ExportConfig
from edgecls.importers.config import ImportConfig
from edgecls.runtime import first_opening, machine
from edgecls.runtime.store import Artifact, find
from edgecls.streaming.config import StreamConfig
from edgecls.streaming.run import open_stream

EMULATOR = shutil.which("qemu-x86_64-static")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def run(trained: Artifact, bundle: Callable[[str, str], Artifact], tmp_path: Path) -> Path:
    """A run of its own with two bundles, of which onnx-int8 is the faster one."""
    path = tmp_path / "runs" / "001-digits-simple_cnn"
    shutil.copytree(trained.path, path, ignore=shutil.ignore_patterns("bundles"))
    for precision, latency_ms in (("fp32", 2.0), ("int8", 1.0)):
        made = bundle("onnx", precision)
        shutil.copytree(
            made.path, path / "bundles" / made.path.name, ignore=shutil.ignore_patterns("measurements.json")
        )
        quality = replace(made.card.quality, latency_ms=latency_ms, gain=2.0, recommended=True)
        write_card(replace(made.card, quality=quality), path / "bundles" / made.path.name)
    return path


def doctor(folder: Path) -> Path:
    """Let the parent have given other scores than the bundle does here, as if this processor computed otherwise."""
    golden = Golden.read(folder)
    Golden(golden.images, np.ascontiguousarray(golden.scores[:, ::-1])).write(folder)
    return folder


def test_the_first_opening_replays_the_golden_inputs_and_the_next_does_not(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    path = run / "bundles" / "onnx-int8"
    edgecls.load(path).close()
    assert len(list(folder.glob("kept/verified/*"))) == 1
    monkeypatch.setattr(first_opening, "verify", lambda *_: pytest.fail("replayed again"))
    edgecls.load(path).close()
    edgecls.load(run).close()


def test_a_bundle_that_is_wrong_here_is_refused_with_the_one_that_is_right(run: Path, folder: Path):
    wrong = doctor(run / "bundles" / "onnx-int8")
    with pytest.raises(VerificationError) as caught:
        edgecls.load(wrong)
    message = str(caught.value)
    assert "fails here: scores differ by up to" in message
    assert message.endswith(f"; `no_check` opens it all the same. Right here is {run / 'bundles' / 'onnx-fp32'}")
    assert "\n" not in message
    assert not list(folder.glob("kept/verified/*"))
    with pytest.raises(VerificationError):  # a failure is not remembered as anything else
        edgecls.load(wrong)


def test_who_knows_better_opens_it_nevertheless(run: Path, folder: Path):
    with edgecls.load(doctor(run / "bundles" / "onnx-int8"), check=False) as model:
        assert model.predict(np.zeros((32, 32, 3), np.uint8)).label
    assert not list(folder.glob("kept/verified/*"))


def test_of_a_run_the_fastest_bundle_that_is_right_is_opened(run: Path, caplog: pytest.LogCaptureFixture):
    with edgecls.load(run) as model:
        assert model.card.precision == "int8"
    doctor(run / "bundles" / "onnx-int8")
    with edgecls.load(run) as model:
        assert model.card.precision == "fp32"
    assert "a bundle of the run is not used" in caplog.text
    doctor(run / "bundles" / "onnx-fp32")
    with pytest.raises(VerificationError, match="onnx-fp32 fails here"):
        edgecls.load(run)


def test_a_stream_is_as_careful(run: Path):
    config = StreamConfig(cameras=("demo",), model=doctor(run / "bundles" / "onnx-int8"))
    with pytest.raises(VerificationError, match="fails here"), open_stream(config):
        pass
    with open_stream(replace(config, golden_check=False)) as stream:
        assert stream.classifier.card.precision == "int8"


def test_what_was_proven_on_one_processor_is_proven_again_on_the_next(run: Path, monkeypatch: pytest.MonkeyPatch):
    path = run / "bundles" / "onnx-int8"
    edgecls.load(path).close()
    replayed = []
    verify = first_opening.verify
    monkeypatch.setattr(first_opening, "verify", lambda *given: replayed.append(given) or verify(*given))
    monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx2"}))
    edgecls.load(path).close()
    assert len(replayed) == 1


def test_golden_inputs_that_changed_are_replayed(run: Path):
    path = run / "bundles" / "onnx-int8"
    edgecls.load(path).close()
    doctor(path)
    with pytest.raises(VerificationError, match="fails here"):
        edgecls.load(path)


def test_int8_for_vnni_that_saturates_says_why(run: Path, monkeypatch: pytest.MonkeyPatch):
    path = doctor(run / "bundles" / "onnx-int8")
    card = find(path).card
    recipe = {**(card.lineage.recipe or {}), "reduce_range": False}
    write_card(replace(card, lineage=replace(card.lineage, recipe=recipe)), path)
    monkeypatch.setattr(first_opening, "int8_kind", lambda _: "x86")
    with pytest.raises(VerificationError, match="made for processors with VNNI, and on this one, which has none"):
        edgecls.load(path)
    monkeypatch.setattr(first_opening, "int8_kind", lambda _: "x86-vnni")
    with pytest.raises(VerificationError) as caught:
        edgecls.load(path)
    assert "VNNI" not in str(caught.value)


@pytest.mark.skipif(EMULATOR is None, reason="qemu-x86_64-static is not installed; it stands for another processor")
@pytest.mark.skipif(machine.int8_kind(machine.this_machine()) != "x86-vnni", reason="this processor has no VNNI itself")
def test_a_bundle_for_vnni_is_refused_by_an_emulated_processor_whose_products_saturate(run: Path, tmp_path: Path):
    """ONNX Runtime's code for a Haswell adds pairs of products in 16 bits; this processor computes what is meant."""
    path = run / "bundles" / "onnx-int8"
    artifact, images = find(path), Golden.read(path).images
    with artifact.open() as session:
        Golden(images, np.concatenate([session.infer(image[None]) for image in images])).write(path)
    write_card(replace(artifact.card, quality=replace(artifact.card.quality, max_score_difference=0.0)), path)
    edgecls.load(path).close()
    code = (
        "import sys; from edgecls import processor; told = processor.flags();"
        "processor.flags = lambda: frozenset(flag for flag in told if 'vnni' not in flag and 'amx' not in flag);"
        "import edgecls; edgecls.load(sys.argv[1], threads=1)"
    )
    emulated = subprocess.run(
        [EMULATOR, "-cpu", "Haswell", str(Path(sys.executable).resolve()), "-c", code, str(path)],
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "fails here: scores differ by up to" in emulated.stderr
    assert "on this one, which has none, sums of 8-bit products saturate" in emulated.stderr


def test_a_run_without_images_gets_golden_inputs_from_those_that_its_export_is_compared_on(
    trained: Artifact, digit_images: Path, tmp_path: Path
):
    """Its own are patches of colour, on which int8 agrees less often than on images: that is no fault."""
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(trained.card.classes))
    config = ImportConfig(file=trained.path / "model.safetensors", arch="simple_cnn", classes=classes, size_px=(32, 32))
    run = edgecls.import_model(replace(config, out=tmp_path / "imported"))
    lowered = ExportConfig(run=run.path, precision="int8", calibration=digit_images, max_drop_points=20.0)
    bundle = edgecls.export(lowered)
    assert bundle.card.quality.split == "unlabelled"
    golden = Golden.read(bundle.path)
    assert not np.array_equal(golden.images[0], Golden.read(run.path).images[0])
    with run.open() as session:
        assert np.allclose(session.infer(golden.images), golden.scores, atol=1e-3)
    edgecls.load(bundle.path).close()


def test_a_model_file_that_came_alone_has_nothing_to_replay(run: Path, tmp_path: Path):
    alone = tmp_path / "model.onnx"
    shutil.copy(run / "bundles" / "onnx-fp32" / "model.onnx", alone)
    with edgecls.load(alone) as model:
        assert model.predict(np.zeros((32, 32, 3), np.uint8)).label


def test_a_bundle_without_golden_inputs_is_opened_and_the_log_says_so(run: Path, caplog: pytest.LogCaptureFixture):
    path = run / "bundles" / "onnx-fp32"
    (path / "golden.npz").unlink()
    edgecls.load(path).close()
    assert "has no golden.npz: nothing tells whether it is right on this machine" in caplog.text


def test_one_bundle_that_cannot_be_verified_does_not_keep_a_run_from_being_used(run: Path, cli: Callable[..., Result]):
    (run / "bundles" / "onnx-int8" / "golden.npz").write_bytes(b"damaged")
    with edgecls.load(run) as model:
        assert model.card.precision == "fp32"
    report = cli("benchmark", run, "--rounds", "2", "--seconds", "0.05", "--json")
    assert report.exit_code == 0
    assert "golden.npz is missing or damaged" in (run / "benchmark.json").read_text()


def test_a_bundle_on_a_device_without_its_run_is_refused_with_its_own_reason(run: Path, tmp_path: Path):
    shutil.copytree(doctor(run / "bundles" / "onnx-int8"), tmp_path / "app" / "bundles" / "onnx-int8")
    with pytest.raises(VerificationError, match="fails here: scores differ"):
        edgecls.load(tmp_path / "app" / "bundles" / "onnx-int8")


def test_a_small_difference_in_every_score_is_found_too(run: Path):
    """Below the largest difference of an export, but the rule and not the exception."""
    path = run / "bundles" / "onnx-int8"
    artifact, golden = find(path), Golden.read(path)
    quality = replace(artifact.card.quality, max_score_difference=50.0, rms_score_difference=0.01, agreement=None)
    write_card(replace(artifact.card, quality=quality), path)
    signs = np.where(np.arange(golden.scores.size).reshape(golden.scores.shape) % 2, 1, -1)
    Golden(golden.images, (golden.scores + 2.0 * signs).astype(np.float32)).write(path)
    with pytest.raises(VerificationError, match="root mean square"):
        edgecls.load(path)


def test_where_processors_cannot_be_told_apart_nothing_is_remembered(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(processor, "flags", frozenset)
    for _ in range(2):
        edgecls.load(run / "bundles" / "onnx-int8").close()
    assert not list(folder.rglob("*.bin"))


def test_a_pickled_classifier_is_opened_again_as_it_was(run: Path):
    path = doctor(run / "bundles" / "onnx-int8")
    with edgecls.load(path, check=False, threads=1) as model:
        copy = pickle.loads(pickle.dumps(model))
    assert copy.path == path.resolve()
    copy.close()


def test_claims_about_images_do_not_hold_for_the_patches_of_colour_of_older_bundles(run: Path):
    path = run / "bundles" / "onnx-int8"
    artifact, golden = find(path), Golden.read(path)
    quality = replace(artifact.card.quality, split="unlabelled", images=500, agreement=0.99, max_score_difference=100.0)
    write_card(replace(artifact.card, quality=replace(quality, rms_score_difference=None)), path)
    Golden(golden.images, np.ascontiguousarray(golden.scores[:, ::-1])).write(path)
    with edgecls.load(path) as model:
        assert model.path == path


def test_verifying_a_run_verifies_its_bundles(run: Path, cli: Callable[..., Result]):
    passed = cli("verify", run)
    assert passed.exit_code == 0
    assert passed.stdout.count("pass: ") == 3
    doctor(run / "bundles" / "onnx-int8")
    failed = cli("verify", run)
    assert failed.exit_code == VerificationError.exit_code
    assert failed.stdout.count("pass: ") == 2
    assert "onnx-int8 fails here" in failed.output


def test_a_benchmark_in_which_nothing_could_be_measured_fails(run: Path, cli: Callable[..., Result]):
    result = cli("benchmark", doctor(run / "bundles" / "onnx-int8"), "--rounds", "2", "--seconds", "0.05")
    assert result.exit_code == edgecls.BackendError.exit_code
    assert "nothing could be measured here: " in result.output


def test_a_damaged_golden_file_is_named(run: Path):
    path = run / "bundles" / "onnx-fp32"
    (path / "golden.npz").write_bytes(b"damaged")
    with pytest.raises(edgecls.ArtifactError, match="golden.npz is missing or damaged"):
        edgecls.load(path)


def test_the_commands_refuse_it_and_have_a_way_round(
    run: Path, tmp_path: Path, cli: Callable[..., Result], photos: Path
):
    image, path = next(photos.rglob("*.jpg")), doctor(run / "bundles" / "onnx-int8")
    refused = cli("predict", image, "--model", path)
    assert refused.exit_code == VerificationError.exit_code
    assert "error: " in refused.output
    assert "Right here is" in refused.output.replace("\n", " ")
    assert cli("predict", image, "--model", path, "--no-check").exit_code == 0
    streamed = cli("stream", "--camera", "demo", "--model", path, "--frames", "3", "--display", "none", "--no-check")
    assert streamed.exit_code == 0
    shown = cli("predict", image, "--model", run, "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout.splitlines()[-1])["label"]
