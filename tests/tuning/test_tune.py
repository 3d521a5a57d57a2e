"""Searching for settings: what is tried, what is kept, and how a study goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import Result

from edgecls.errors import OutputError, UsageError
from edgecls.runtime import store
from edgecls.training.config import TrainConfig, read_config
from edgecls.tuning.config import TuneConfig
from edgecls.tuning.search import Trial, best_of, latency_of, open_study, trials_of, tune

TINY = "simple_cnn:widths=8-16"


@pytest.fixture
def config(photos: Path, tmp_path: Path) -> TuneConfig:
    base = TrainConfig(data=str(photos), weights="none", size_px=32)
    return TuneConfig(base=base, out=tmp_path / "study", archs=(TINY,), epochs=(1, 2), trials=3)


def test_the_best_run_is_kept_and_its_settings_make_it_again(config: TuneConfig):
    trials = tune(config)
    assert [trial.number for trial in trials] == [0, 1, 2]
    best = best_of(trials)
    run = store.find(config.out / "best")
    assert run.card.arch == TINY
    settings = read_config(run.path / "config.toml")
    assert {name: settings[name] for name in best.settings} == best.settings
    assert sorted(path.name for path in config.out.iterdir()) == ["best", "study.db"]


def test_a_study_goes_on_and_suggests_the_same_for_the_same_seed(config: TuneConfig, tmp_path: Path):
    tune(replace(config, trials=2))
    assert len(tune(replace(config, trials=1))) == 3
    assert len(trials_of(open_study(config))) == 3
    again = tune(replace(config, trials=2, out=tmp_path / "again"))
    assert [t.settings for t in again] == [t.settings for t in trials_of(open_study(config))[:2]]


def test_what_is_too_slow_is_not_trained(config: TuneConfig):
    trials = tune(replace(config, max_latency_ms=1e-4, trials=1))
    assert [trial.state for trial in trials] == ["pruned"]
    assert "more than 0.0001" in trials[0].reason
    assert trials[0].latency_ms > 1e-4
    assert best_of(trials) is None
    assert not (config.out / "best").exists()
    assert not list(config.out.glob("trial-*"))


def test_latency_is_measured_on_the_exported_network():
    assert 0 < latency_of(TINY, 3, 32) < latency_of("mobilenet_v3_small", 3, 64)


def test_only_complete_trials_can_be_the_best():
    pruned, done = Trial(0, {}, 0.9, "pruned", None, "slow"), Trial(1, {}, 0.5, "complete", None, None)
    assert best_of([pruned, done]) is done


def test_an_interrupted_search_leaves_no_trial_half_written(config: TuneConfig, monkeypatch: pytest.MonkeyPatch):
    from edgecls.tuning import search as module

    class Stops(module.TuningCallbacks):
        def epoch(self, number, epoch) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(config, Stops())
    assert [path.name for path in config.out.iterdir()] == ["study.db"]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"trials": 0}, "`trials`"), ({"epochs": (3, 2)}, "`epochs`"), ({"max_latency_ms": -1.0}, "`max_latency_ms`"),
     ({"archs": ("alexnett",)}, "no architecture"), ({"sizes_px": (8,)}, "`sizes_px`")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(config: TuneConfig, change: dict, words: str):
    with pytest.raises(UsageError, match=words):
        tune(replace(config, **change))


def test_a_storage_that_cannot_be_used_is_one_line(config: TuneConfig):
    with pytest.raises(OutputError, match="the study's storage sqlite:////nowhere/x.db cannot be used"):
        tune(replace(config, storage="sqlite:////nowhere/x.db"))


def test_the_command_prints_trials_and_writes_a_page(cli: Callable[..., Result], photos: Path, tmp_path: Path):
    (tmp_path / "c.toml").write_text("weights = 'none'\nsize_px = 32\n")
    result = cli("tune", photos, "--arch", TINY, "--epochs", "1", "--trials", "3", "--config", tmp_path / "c.toml",
                 "--out", tmp_path / "study")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.output.count("\ntrial ") + result.output.startswith("trial ") == 3
    assert "best of 3: trial" in result.output
    page = (tmp_path / "study" / "tune.html").read_text()
    assert page.count("data:image/png") == 2
    assert page.count("<tr>") >= 4
    assert cli("tune", photos, "--epochs", "many").exit_code == 2
