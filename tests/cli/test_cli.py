"""The command line as a user meets it: what it prints, and one clear line for each mistake."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from edgecls.artifact.golden import Golden
from edgecls.errors import VerificationError
from edgecls.imaging.opencv import cv2
from edgecls.runtime import store
from edgecls.runtime.store import RUNS_VARIABLE, Artifact

Cli = Callable[..., Result]


def assert_one_line(result: Result, code: int, message: str) -> None:
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.fixture
def three(trained: Artifact, tmp_path: Path) -> Path:
    path = tmp_path / "three.png"
    cv2.imwrite(str(path), cv2.cvtColor(Golden.read(trained.path).images[3], cv2.COLOR_RGB2BGR))
    return path


def test_predict_prints_label_and_score(cli: Cli, bundle, three: Path):
    result = cli("predict", three, "--model", bundle("onnx", "fp32").path, "--top", 2)
    assert result.exit_code == 0
    assert f"{three}  three " in result.stdout
    assert result.stdout.count("%") == 2


def test_predict_json_is_one_object_per_image_and_nothing_else(cli: Cli, bundle, three: Path, photos: Path):
    result = cli("predict", three, photos, "--model", bundle("onnx", "fp32").path, "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(records) == 25
    assert records[0]["image"] == str(three)
    assert records[0]["label"] == records[0]["top"][0]["label"] == "three"


class TestPredictTables:
    @pytest.fixture
    def broken(self, photos: Path) -> Path:
        (photos / "dark" / "03.jpg").write_bytes(b"no image")
        return photos

    def read(self, path: Path) -> list[dict]:
        if path.suffix == ".parquet":
            parquet = pytest.importorskip("pyarrow.parquet")
            return parquet.read_table(path).to_pylist()
        if path.suffix == ".csv":
            with path.open() as lines:
                return [{name: value or None for name, value in row.items()} for row in csv.DictReader(lines)]
        return [json.loads(line) for line in path.read_text().splitlines()]

    @pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
    def test_every_image_has_its_row_and_what_cannot_be_read_says_why(
        self, cli: Cli, bundle, broken: Path, tmp_path: Path, suffix: str
    ):
        out = tmp_path / f"answers{suffix}"
        result = cli("predict", broken, "--model", bundle("onnx", "fp32").path, "--top", 2, "--out", out)
        assert result.exit_code == 3
        assert "03.jpg is not an image" in result.stderr
        assert "(1 of 24 images cannot be read)" in result.stderr
        rows = self.read(out)
        assert [Path(row["image"]).name for row in rows] == [f"{i:02d}.jpg" for i in range(12)] * 2
        errors = [row for row in rows if row.get("error")]
        assert [Path(row["image"]).name for row in errors] == ["03.jpg"]
        good = rows[0]
        second = good["top"][1]["score"] if suffix == ".jsonl" else good["score_2"]
        assert 0 < float(second) <= float(good["score"]) <= 1

    def test_another_suffix_is_refused_before_any_work(self, cli: Cli, three: Path, tmp_path: Path):
        assert_one_line(cli("predict", three, "--out", tmp_path / "a.xlsx"), 2, "--out takes a .csv, .jsonl, .parquet")

    def test_a_list_of_paths_is_read_as_it_comes(self, cli: Cli, bundle, photos: Path, tmp_path: Path):
        paths = sorted(photos.glob("*/*.jpg"))
        (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
        model = bundle("onnx", "fp32").path
        result = cli("predict", "--list", tmp_path / "list.txt", "--model", model, "--json")
        assert [json.loads(line)["image"] for line in result.stdout.splitlines()] == [str(path) for path in paths]
        assert_one_line(
            cli("predict", "--list", tmp_path / "none.txt", "--model", model, "--json"), 3, "cannot read the"
        )

    def test_either_images_or_a_list(self, cli: Cli, three: Path, tmp_path: Path):
        assert_one_line(cli("predict"), 2, "give images or folders, or --list")
        assert_one_line(cli("predict", three, "--list", tmp_path / "l.txt"), 2, "give images or folders, or --list")


def test_predict_with_a_run_uses_its_best_bundle(cli: Cli, bundle, trained: Artifact, three: Path):
    bundle("onnx", "fp32")
    result = cli("predict", three, "--model", trained.path)
    assert "/bundles/" in result.stderr
    assert "three" in result.stdout


def test_info_prints_what_a_card_says_of_its_recipe_whatever_that_is(
    cli: Cli, bundle, copy_of: Callable[[Artifact], Path]
):
    path = copy_of(bundle("onnx", "int8"))
    card = json.loads((path / "card.json").read_text())
    card["lineage"] |= {"recipe": {"float_layers": 3}, "calibration": {"digest": "ab"}}
    (path / "card.json").write_text(json.dumps(card))
    result = cli("info", path)
    assert result.exit_code == 0
    assert "unknown images, ab" in result.stdout
    assert cli("info", path, "--layers").exit_code == 0


def test_info_prints_the_card_and_json_is_the_card(cli: Cli, bundle):
    path = bundle("onnx", "int8").path
    assert "simple_cnn" in cli("info", path).stdout
    assert json.loads(cli("info", path, "--json").stdout)["precision"] == "int8"
    assert "onnx int8" in cli("info", path / "model.onnx").stdout


def test_verify_says_pass(cli: Cli, bundle):
    result = cli("verify", bundle("onnx", "int8").path)
    assert result.exit_code == 0
    assert result.stdout.startswith("pass: ")


def test_verify_says_when_it_fails(cli: Cli, bundle, copy_of: Callable[[Artifact], Path]):
    path = copy_of(bundle("onnx", "fp32"))
    golden = Golden.read(path)
    Golden(255 - golden.images, golden.scores).write(path)
    assert_one_line(cli("verify", path), 6, "fails here")


def test_doctor_names_every_backend(cli: Cli):
    record = json.loads(cli("doctor", "--json").stdout)
    assert set(record["backends"]) == {"onnx", "openvino", "tensorrt", "torch"}
    assert record["backends"]["onnx"]["runs"] is True
    text = cli("doctor").stdout
    assert "processor" in text
    assert "tensorrt" in text


def test_benchmark_prints_a_table_and_writes_json_and_picture(cli: Cli, bundle, tmp_path: Path):
    places = [bundle("onnx", "fp32").path, bundle("onnx", "int8").path]
    result = cli("benchmark", *places, "--rounds", 2, "--seconds", 0.05, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "onnx-fp32" in result.stdout
    assert "fastest verified here: onnx-" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "benchmark.html", "benchmark.json", "benchmark.png",
    }  # fmt: skip


def test_train_prints_what_it_used_and_where_the_run_is(cli: Cli, photos: Path, tmp_path: Path):
    result = cli(
        "train", photos, "--arch", "simple_cnn", "--weights", "none", "--epochs", 2, "--size", 32, "--batch-size", 8,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "2 classes, 16 train, 4 val, 4 test" in result.stdout
    assert "weights: none" in result.stdout
    assert "test split: top-1" in result.stdout
    assert (tmp_path / "run" / "curves.png").is_file()


def test_a_first_use_without_a_run_says_how_to_make_one(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path / "none"))
    for arguments in (("export",), ("stream",), ("benchmark",)):
        assert_one_line(cli(*arguments), 4, "make one with: edgecls train")


def test_the_help_of_export_names_the_registered_targets(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    assert "onnx, openvino, tensorrt" in " ".join(cli("export", "--help").stdout.split())


def test_version(cli: Cli):
    assert cli("--version").stdout == "edgecls 0.1.0\n"


def test_import_prints_what_it_assumed_and_where_the_run_is(
    cli: Cli, trained: Artifact, digit_images: Path, tmp_path: Path
):
    (tmp_path / "classes.txt").write_text("\n".join(trained.card.classes))
    done = cli(
        "import", trained.path / "model.safetensors", "--arch", "simple_cnn", "--classes", tmp_path / "classes.txt",
        "--size", "32", "--crop", "1", "--data", digit_images, "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "because --mean, --std was not given" in done.output
    assert "test split: top-1" in done.output
    assert store.find(tmp_path / "run").is_run
    again = cli(
        "import", trained.path / "model.safetensors", "--arch", "simple_cnn", "--classes", tmp_path / "classes.txt",
        "--size", "32x", "--out", tmp_path / "other",
    )  # fmt: skip
    assert again.exit_code == 2
    assert "--size takes 224 or 320x240" in again.output


def test_calibrate_makes_a_manifest_and_checks_it(cli: Cli, trained: Artifact, tmp_path: Path):
    manifest = tmp_path / "calibration.json"
    done = cli("calibrate", "make", trained.path, "--samples", 40, "--out", manifest)
    assert done.exit_code == 0, done.output
    assert "40 images, 10 classes, 4 to 4 images each" in done.output
    checked = cli("calibrate", "check", manifest, trained.path)
    assert checked.exit_code == 0, checked.output
    assert "none of them is held out" in checked.output
    assert cli("calibrate", "make", trained.path, "--out", manifest).exit_code == 8
    few = cli("calibrate", "make", trained.path, "--samples", 4, "--out", tmp_path / "other.json")
    assert few.exit_code == 2
    assert "--samples must be at least 16" in few.output


def test_compare_writes_a_page_and_fails_where_asked_to(cli: Cli, bundle, trained: Artifact, tmp_path: Path):
    places = (trained.path, bundle("onnx", "int8").path)
    done = cli("compare", *places, "--html", tmp_path / "page.html", "--json", tmp_path / "figures.json")
    assert done.exit_code == 0, done.output
    assert "torch-fp32 → onnx-int8 on 269 images: agreement" in done.output
    assert "noisiest layer" in done.output
    assert json.loads((tmp_path / "figures.json").read_text())["images"] == 269
    failed = cli("compare", *places, "--html", tmp_path / "page.html", "--max-drop", -50)
    assert failed.exit_code == 6
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_several_targets_are_exported_in_one_go_and_one_that_fails_is_named_in_the_end(
    cli: Cli, trained: Artifact, copy_of: Callable[[Artifact], Path], monkeypatch: pytest.MonkeyPatch
):
    run = copy_of(trained)
    done = cli("export", run, "--target", "onnx,openvino")
    assert done.exit_code == 0, done.output
    assert [line.split("/")[-1].split()[0] for line in done.stdout.splitlines() if line.startswith("bundle: ")] == [
        "onnx-fp32",
        "openvino-fp32",
    ]

    def refused(*_: object, **__: object) -> None:
        raise VerificationError("other answers")

    monkeypatch.setattr("edgecls.exporting.bundle.search_int8", refused)
    done = cli("export", run, "--target", "onnx,openvino", "--int8")
    assert done.exit_code == VerificationError.exit_code
    assert done.stderr.splitlines()[-2:] == [
        f"error: {target}-int8 was not exported: other answers" for target in ("onnx", "openvino")
    ]
    assert_one_line(cli("export", run, "--target", "onnx,onnx"), 2, "--target names onnx twice")
    assert_one_line(cli("export", run, "--target", "onnx,coreml"), 2, "there is no target 'coreml'")
    assert_one_line(cli("export", run, "--target", "onnx,"), 2, "there is no target ''")


def test_an_int8_export_prints_the_candidates_that_it_tried(cli: Cli, trained: Artifact, tmp_path: Path):
    done = cli("export", trained.path, "--int8", "--max-drop", 5, "--out", tmp_path / "bundle")
    assert done.exit_code == 0, done.output
    assert "int8 recipe tried" in done.output
    assert "percentile ranges" in done.output
    assert "kept" in done.output
    assert "peak memory" in done.output


class TestMistakes:
    def test_predict_a_file_that_is_no_image(self, cli: Cli, bundle, tmp_path: Path):
        (tmp_path / "notes.txt").write_text("hello")
        result = cli("predict", tmp_path / "notes.txt", "--model", bundle("onnx", "fp32").path, "--json")
        assert result.exit_code == 3
        assert "notes.txt is not an image" in result.stderr

    def test_predict_a_truncated_image(self, cli: Cli, bundle, photos: Path):
        photo = photos / "dark" / "00.jpg"
        photo.write_bytes(photo.read_bytes()[:400])
        result = cli("predict", photo, "--model", bundle("onnx", "fp32").path, "--json")
        assert result.exit_code == 3
        assert "is truncated" in result.stderr

    def test_predict_nothing(self, cli: Cli, bundle, tmp_path: Path):
        assert_one_line(cli("predict", tmp_path, "--model", bundle("onnx", "fp32").path), 3, "holds no images")
        assert_one_line(cli("predict", "/gone.jpg", "--model", bundle("onnx", "fp32").path), 3, "no image or folder")

    def test_train_without_images(self, cli: Cli, tmp_path: Path):
        assert_one_line(cli("train", tmp_path), 3, "holds no usable training images")

    def test_train_an_unknown_architecture(self, cli: Cli):
        assert_one_line(cli("train", "--arch", "alexnet"), 2, "there are MobileNet, ResNet, VGG")

    def test_train_to_a_place_that_cannot_be_written(self, cli: Cli, photos: Path, tmp_path: Path):
        (tmp_path / "file").write_text("")
        result = cli("train", photos, "--arch", "simple_cnn", "--out", tmp_path / "file" / "run", "--weights", "none")
        assert_one_line(result, 8, "cannot write")

    def test_export_both_precisions(self, cli: Cli, trained: Artifact):
        assert_one_line(cli("export", trained.path, "--int8", "--fp16"), 2, "exclude each other")

    def test_export_a_precision_that_the_target_lacks(self, cli: Cli, trained: Artifact):
        assert_one_line(cli("export", trained.path, "--bf16"), 2, "target onnx has no precision bf16")

    def test_export_an_unknown_target(self, cli: Cli, trained: Artifact):
        assert_one_line(cli("export", trained.path, "--target", "coreml"), 2, "choose one of onnx, openvino, tensorrt")

    def test_a_model_that_is_not_there(self, cli: Cli, three: Path):
        assert_one_line(cli("predict", three, "--model", "/nowhere"), 4, "there is no model at /nowhere")

    def test_a_model_file_of_another_kind(self, cli: Cli, three: Path):
        assert_one_line(cli("predict", three, "--model", three), 4, "is not a model file")

    def test_a_model_whose_hash_does_not_fit(self, cli: Cli, bundle, copy_of: Callable[[Artifact], Path], three: Path):
        path = copy_of(bundle("onnx", "fp32"))
        with (path / "model.onnx").open("ab") as stream:
            stream.write(b"\0")
        assert_one_line(cli("predict", three, "--model", path), 4, "SHA-256 differs")

    def test_stream_without_a_camera(self, cli: Cli, bundle):
        result = cli("stream", "--camera", 73, "--model", bundle("onnx", "fp32").path)
        remark, error = result.stderr.splitlines()
        assert remark.startswith("model: ")
        assert error.startswith("error: camera 73 cannot be opened")
        assert "the camera demo shows" in error
        assert result.exit_code == 7

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--web", "abc"), "--web takes a port"), (("--mqtt", "foo"), "--mqtt takes mqtt://"),
            (("--webhook", "ftp://x"), "--webhook takes an http"), (("--record", "x.gif"), "--record takes"),
            (("--log", "x.txt"), "--log takes"), (("--segment", 1), "give both"), (("--camera", "-"), "--width"),
        ],
    )  # fmt: skip
    def test_stream_says_what_is_wrong_before_it_opens_a_model(self, cli: Cli, bundle, options: tuple, words: str):
        result = cli("stream", "--camera", "demo", "--model", bundle("onnx", "fp32").path, *options)
        assert_one_line(result, 2, words)

    def test_stream_with_values_that_make_no_sense(self, cli: Cli):
        assert_one_line(cli("stream", "--display", "hologram"), 2, "--display")
        assert_one_line(cli("stream", "--frames", 0), 2, "--frames")

    def test_an_address_where_none_belongs_is_repeated_without_its_secrets(self):
        done = subprocess.run(
            [sys.executable, "-m", "edgecls", "stream", "rtsp://me:SECRET@door/live"], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "unexpected extra argument" in done.stderr
        assert "me:***@door" in done.stderr

    def test_a_wrong_choice_names_the_choices(self, cli: Cli):
        assert_one_line(cli("train", "--schedule", "wavy"), 2, "'wavy' is not one of 'one-cycle', 'cosine'")

    def test_settings_in_messages_of_the_library_are_told_as_options(self, cli: Cli):
        result = cli("train", "--batch-size", 4, "--accumulate", 3)
        assert_one_line(result, 2, "--accumulate is at most half of --batch-size, 2, not 3")
        assert "`" not in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("train", "--out", ""), "--out takes something"), (("export", "--out="), "--out takes something"),
            (("predict", ""), "an argument takes something"), (("train", "--epochs", "x"), "it is no whole number"),
            (("evaluate", ".", "--html", "x", "--json", "./x"), "--html and --json are both x"),
            (("predict", "a.jpg", "--out", "x.csv", "--json"), "give one of them"),
            (("stream", "--events", "x", "--log", "x"), "--events and --log"),
            (("tune", "--trials", "0"), "--trials takes"), (("tune", "--size", "5"), "--size takes"),
        ],
    )  # fmt: skip
    def test_mistakes_end_before_any_work(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
    ):
        monkeypatch.chdir(tmp_path)
        assert_one_line(cli(*arguments), 2, message)
        assert not list(tmp_path.iterdir())

    def test_a_window_without_a_screen_is_an_error(self, cli: Cli, monkeypatch: pytest.MonkeyPatch, trained: Artifact):
        for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(variable, raising=False)
        result = cli("stream", "--camera", "demo", "--model", trained.path, "--display", "window")
        assert_one_line(result, 2, "--display window needs a screen")

    def test_a_camera_number_beyond_all_cameras_is_one_line(self, cli: Cli, trained: Artifact):
        result = cli("stream", "--camera", "9" * 12, "--model", trained.path, "--display", "none")
        assert result.exit_code == 7
        assert "camera 999999999999 cannot be opened" in result.stderr

    def test_remarks_name_options_too(self, cli: Cli, photos: Path, tmp_path: Path):
        arguments = ("--arch", "simple_cnn", "--epochs", 1, "--size", 32, "--batch-size", 8, "--out", tmp_path / "run")
        result = cli("train", photos, *arguments)
        assert result.exit_code == 0, result.output
        assert "--weights takes a file" in result.stdout
        assert "`" not in result.output

    def test_an_unknown_option_is_a_usage_error(self, cli: Cli):
        result = cli("train", "--epoch", 3)
        assert result.exit_code == 2
        assert "--epoch" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_of_training_ends_it_with_a_way_to_go_on(
    photos: Path, tmp_path: Path, number: signal.Signals, code: int
):
    command = [sys.executable, "-m", "edgecls", "train", str(photos), "--arch", "simple_cnn", "--weights", "none"]
    process = subprocess.Popen(
        [*command, "--epochs", "10000", "--size", "32", "--batch-size", "8", "--out", str(tmp_path / "out" / "run")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A test run in a shell's background inherits a Ctrl-C that is ignored, and so would the program.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    while "epoch   1" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    folder = tmp_path / "out" / "run"
    assert err.splitlines() == [
        f"go on later with: edgecls train --resume {folder}", "stopped; nothing was left half-written",
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run"]
    assert {path.name for path in folder.iterdir()} == {"checkpoint.pt"}


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path):
    command = [sys.executable, "-m", "edgecls", "train", str(tmp_path)]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=60)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


def test_a_reader_that_goes_away_is_no_error(trained: Artifact):
    process = subprocess.run(
        f"{sys.executable} -m edgecls info {trained.path} --json | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert process.returncode in (0, 141)
    assert process.stderr == ""


def test_file_names_that_are_no_utf8_stop_nothing(bundle, digit_images: Path, trained: Artifact, tmp_path: Path):
    odd = digit_images / "zero" / os.fsdecode(b"\xff.png")
    odd.write_bytes(next(digit_images.glob("zero/*.png")).read_bytes())
    for arguments in (
        ["predict", odd, "--model", bundle("onnx", "fp32").path],
        ["predict", odd, "--model", bundle("onnx", "fp32").path, "--json"],
        [
            "export",
            trained.path,
            "--int8",
            "--calibration",
            digit_images,
            "--max-drop",
            "100",
            "--out",
            tmp_path / "out",
        ],
    ):
        done = subprocess.run([sys.executable, "-m", "edgecls", *map(str, arguments)], capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
