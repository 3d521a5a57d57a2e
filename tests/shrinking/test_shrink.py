"""Making a run faster: what is tried and in which order, what is kept, and when nothing is."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from edgecls import models
from edgecls.benchmarking.config import TimingConfig
from edgecls.benchmarking.run import Row, time_artifacts
from edgecls.clock import Latency
from edgecls.errors import ArtifactError, DataError, EdgeclsError, OutputError, UsageError, VerificationError
from edgecls.exporting import timing
from edgecls.exporting.bundle import export
from edgecls.exporting.config import ExportConfig
from edgecls.models.torch_backend import open_module
from edgecls.runtime import store
from edgecls.runtime.store import Artifact
from edgecls.shrinking import candidates as candidates_module
from edgecls.shrinking import search as search_module
from edgecls.shrinking.attempts import Attempt, Candidate, ShrinkCallbacks, Timed
from edgecls.shrinking.candidates import worth_training
from edgecls.shrinking.config import Goal, ShrinkConfig
from edgecls.shrinking.parent import settings_of_run, training_images
from edgecls.shrinking.pruning import prune
from edgecls.shrinking.search import is_too_far_behind, shrink
from edgecls.training.config import TrainConfig, read_config
from edgecls.training.history import TrainingCallbacks
from edgecls.training.loop import resume, train

ARCH = "simple_cnn:widths=16-32-64"


@pytest.fixture(autouse=True)
def _few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each lever. What is done with a measurement is looked at: all run, and take as long as they are large."""

    def by_size(artifacts: Sequence[Artifact], config: TimingConfig, *given: Any) -> list[Row]:
        rows = []
        for row in time_artifacts(artifacts, config, *given):
            assert row.latency
            height, width, _ = row.artifact.card.input_shape
            latency_ms = row.size_bytes * height * width / 1e9
            rows.append(replace(row, latency=Latency.of([latency_ms]), round_p50_ms=(latency_ms,) * config.rounds))
        return rows

    for module in (candidates_module, search_module):
        monkeypatch.setattr(module, "time_artifacts", by_size)
    monkeypatch.setattr(candidates_module, "SIZES", (2 / 3,))
    monkeypatch.setattr(candidates_module, "SHARES", (0.5,))
    monkeypatch.setattr(candidates_module, "SMALL", ())
    monkeypatch.setattr(timing, "TIMING", TimingConfig(rounds=1, seconds=0.02))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Digits at 48 pixels."""
    path = tmp_path_factory.mktemp("parents") / "digits"
    train(TrainConfig(arch=ARCH, epochs=4, size_px=48, out=path))
    return store.find(path)


@pytest.fixture
def config(run: Artifact, tmp_path: Path) -> ShrinkConfig:
    return ShrinkConfig(run=run.path, to="1.1x", epochs=2, max_drop_points=10.0, out=tmp_path / "small")


class Listening(ShrinkCallbacks):
    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.attempts: list[Attempt] = []

    def remark(self, line: str) -> None:
        self.remarks.append(line)

    def ended(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)


class TestLevers:
    def test_a_smaller_input_is_kept_untrained_where_it_loses_little(self, config: ShrinkConfig, run: Artifact):
        heard = Listening()
        small = shrink(replace(config, levers=("size",), max_drop_points=100.0), heard)
        assert [attempt.name for attempt in heard.attempts] == [f"{small.card.input_shape[0]} px, weights as they are"]
        assert small.card.input_shape[0] < 48
        assert (small.path / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()
        assert store.find_run(small.path).card == small.card
        made = small.card.lineage.shrunk
        assert made["parent"] == run.card.lineage.files["model.safetensors"]
        assert (made["run"], made["lever"], made["split"]) == ("digits", "size", "test")
        assert made["images"] == small.card.quality.images == 269
        assert made["drop_points"] == pytest.approx(100 * (run.card.quality.top1 - small.card.quality.top1))
        assert made["speedup"] == pytest.approx(made["parent_latency_ms"] / made["latency_ms"])
        assert [tried["candidate"] for tried in small.card.lineage.candidates] == [made["how"]]

    def test_and_is_trained_by_the_run_where_it_loses_much(self, config: ShrinkConfig, run: Artifact):
        heard = Listening()
        small = shrink(replace(config, levers=("size",), max_drop_points=1.0, epochs=3), heard)
        as_it_is, trained = heard.attempts
        assert as_it_is.reason == "loses more than 1 points"
        assert trained.reason is None
        assert trained.quality.drop_points <= 1.0 < as_it_is.quality.drop_points
        settings = read_config(small.path / "config.toml")
        assert settings["teacher"] == str(run.path)
        assert settings["size_px"] == small.card.input_shape[0]

    def test_a_pruned_run_is_one_for_every_other_command(
        self, config: ShrinkConfig, run: Artifact, cli: Callable[..., Result], tmp_path: Path
    ):
        small = shrink(replace(config, levers=("prune",)))
        assert small.card.arch == f"{ARCH}:pruned"
        assert small.size_bytes() < 0.8 * run.size_bytes()
        bundle = export(ExportConfig(run=small.path, target="onnx"))
        assert bundle.card.quality.agreement == 1.0
        assert bundle.size_bytes() < 0.8 * run.size_bytes()
        evaluated = cli("evaluate", small.path, "--html", tmp_path / "page.html")
        assert evaluated.exit_code == 0, evaluated.output
        assert "% pruned, fine-tuned, from digits: " in cli("info", small.path).output.replace("\n", " ")
        again = cli("train", "--config", small.path / "config.toml", "--epochs", "1", "--out", tmp_path / "again")
        assert again.exit_code == 0, again.output
        assert store.find(tmp_path / "again").size_bytes() == small.size_bytes()

    def test_a_narrower_network_learns_from_the_run(self, config: ShrinkConfig):
        heard = Listening()
        small = shrink(replace(config, levers=("network",), max_drop_points=80.0, epochs=1), heard)
        assert small.card.arch == "simple_cnn:widths=8-16-32"
        assert heard.attempts[-1].name == "simple_cnn:widths=8-16-32, distilled"
        assert read_config(small.path / "config.toml")["epochs"] == 3

    def test_a_lever_that_cannot_be_used_is_left_out(self, config: ShrinkConfig, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "torch_pruning", None)
        heard = Listening()
        with pytest.raises(VerificationError, match="there is nothing smaller to try"):
            shrink(replace(config, levers=("prune",)), heard)
        assert heard.remarks == [
            "not pruned: pruning needs torch-pruning, which is not installed: pip install 'edgecls[shrink]'"
        ]


def test_a_run_that_is_fast_enough_is_left_alone(config: ShrinkConfig, run: Artifact):
    heard = Listening()
    assert shrink(replace(config, to="1000ms"), heard) == run
    assert "already; nothing was done" in heard.remarks[0]
    assert not config.out.exists()


def test_what_nothing_reaches_names_the_fastest(config: ShrinkConfig):
    with pytest.raises(VerificationError, match=r"nothing reaches 900 times .* candidate, 32 px, [0-9.]+ ms \("):
        shrink(replace(config, to="900x", levers=("size",)))
    assert not config.out.exists()


def test_where_all_lose_too_much_nothing_is_written(
    config: ShrinkConfig, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
):
    """Nobody learns anything here, so what was cut away is missed."""
    monkeypatch.setattr(candidates_module, "SHARES", (0.75,))
    monkeypatch.setattr(search_module, "train", lambda config, *given: train(replace(config, lr=1e-9), *given))
    result = cli("shrink", config.run, "--to", "1.1x", "--lever", "prune", "--epochs", "1", "--max-drop", "0",
                 "--out", config.out)  # fmt: skip
    assert result.exit_code == 6, result.output
    assert "75 % pruned, fine-tuned" in result.output
    assert "loses more than 0" in " ".join(result.output.split())
    assert "1 attempt, nothing was written: allow more with --max-drop" in result.output
    assert not config.out.exists()


def test_an_interruption_leaves_nothing(config: ShrinkConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))

    class Stops(ShrinkCallbacks):
        def epoch(self, *_: object) -> None:
            assert list(scratch.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shrink(replace(config, levers=("prune",)), Stops())
    assert not list(scratch.iterdir())
    assert not config.out.exists()


def test_a_training_of_a_pruned_network_goes_on_where_it_was_stopped(run: Artifact, tmp_path: Path):
    network = open_module(run.path / "model.safetensors", run.card).network
    models.write_weights(prune(network, ARCH, 48, 0.5), tmp_path / "half.safetensors")
    arch = f"{ARCH}:pruned"
    settings = TrainConfig(
        arch=arch, weights=str(tmp_path / "half.safetensors"), size_px=32, epochs=2, out=tmp_path / "on"
    )

    class Stops(TrainingCallbacks):
        def epoch(self, epoch: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, Stops())
    stopped, _ = resume(tmp_path / "on")
    assert store.find(stopped).size_bytes() < 0.5 * run.size_bytes()
    with pytest.raises(UsageError, match="is as wide as its weights say; give `weights`"):
        train(replace(settings, weights="auto", out=tmp_path / "other"))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [({"to": "fast"}, UsageError, "`to` is a latency such as 3ms or a factor such as 2x"),
     ({"to": "0ms"}, UsageError, "above 0 ms"), ({"to": "1x"}, UsageError, "a factor above 1"),
     ({"to": "-2x"}, UsageError, "`to`"), ({"to": "3"}, UsageError, "`to`"), ({"to": "nan ms"}, UsageError, "`to`"),
     ({"levers": ("luck",)}, UsageError, "`levers` takes size, prune, network, not luck"),
     ({"levers": ()}, UsageError, "`levers`"), ({"epochs": 0}, UsageError, "`epochs`"),
     ({"max_drop_points": -1.0}, UsageError, "`max_drop_points`"),
     ({"target": "torch"}, UsageError, "no export target"),
     ({"target": "abacus"}, EdgeclsError, "abacus"), ({"run": Path("nowhere")}, ArtifactError, "no model at")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(config: ShrinkConfig, change: dict, error: type, words: str):
    with pytest.raises(error, match=words):
        shrink(replace(config, **change))


def test_a_folder_that_stands_there_is_not_replaced(config: ShrinkConfig, tmp_path: Path):
    with pytest.raises(OutputError, match="exists already"):
        shrink(replace(config, out=tmp_path))


def test_a_run_that_was_not_trained_here_is_refused(config: ShrinkConfig, run: Artifact, tmp_path: Path):
    shutil.copytree(run.path, tmp_path / "imported", ignore=shutil.ignore_patterns("config.toml"))
    with pytest.raises(UsageError, match="was not trained here"):
        shrink(replace(config, run=tmp_path / "imported"))


def test_other_images_than_the_runs_are_refused(run: Artifact):
    config = settings_of_run(run)
    assert training_images(run, config).splits["val"]
    with pytest.raises(DataError, match=r"are not those that .* was trained on"):
        training_images(run, replace(config, seed=1))


class TestOrder:
    def timed(self, lever: str, size_px: int, latency_ms: float, name: str = "") -> Timed:
        return Timed(Candidate(lever, name, "resnet18", size_px, Path("w")), latency_ms, 10 / latency_ms)

    def test_of_each_lever_the_mildest_that_is_fast_enough_is_tried_and_cheap_ones_come_first(self):
        tried = worth_training(
            [self.timed("network", 64, 2.0, "b"), self.timed("network", 64, 3.0, "a"), self.timed("prune", 64, 3.0),
             self.timed("prune", 64, 2.0), self.timed("prune", 48, 1.0), self.timed("size", 56, 6.0),
             self.timed("size", 48, 4.0), self.timed("size", 40, 3.0)],
            Goal(speedup=2.0),
        )  # fmt: skip
        assert [(each.candidate.lever, each.latency_ms) for each in tried] == [
            ("size", 4.0), ("prune", 3.0), ("prune", 1.0), ("network", 3.0), ("network", 2.0),
        ]  # fmt: skip

    def test_what_is_just_fast_enough_is_not(self):
        assert not worth_training([self.timed("size", 48, 4.99)], Goal(latency_ms=5.0))

    def test_three_networks_are_trained_at_most(self):
        networks = [self.timed("network", 64, 1.0 + index) for index in range(4)]
        assert [each.latency_ms for each in worth_training(networks, Goal(latency_ms=5.0))] == [4.0, 3.0, 2.0]


@pytest.mark.parametrize(
    ("top1s", "hopeless"),
    [([0.1], False), ([0.5, 0.5], False), ([0.5, 0.5, 0.5], False), ([0.5, 0.5, 0.5, 0.5], True),
     ([0.5, 0.6, 0.7, 0.8], False), ([0.88, 0.88, 0.88, 0.89], False), ([0.5] * 10, False)],
)  # fmt: skip
def test_a_training_is_ended_where_it_cannot_get_there(top1s: list[float], hopeless: bool):
    assert is_too_far_behind(top1s, 10, 0.9) is hopeless
