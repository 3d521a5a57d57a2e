"""Numbers of configurations: whatever they are set to, they lie within bounds or are refused in one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from edgecls.benchmarking.config import BenchmarkConfig, Constraints, TimingConfig
from edgecls.errors import UsageError
from edgecls.exporting.config import ExportConfig
from edgecls.runtime.store import Artifact
from edgecls.settings import Config, check_bounds
from edgecls.streaming.config import CameraOptions, CaptureFormat, ReconnectPolicy, SinkConfig, Smoothing, StreamConfig
from edgecls.streaming.frames import Geometry
from edgecls.streaming.sinks.files import VideoSink
from edgecls.streaming.sources import open_source
from edgecls.training.config import TrainConfig
from edgecls.tuning.config import TuneConfig

FIELDS = {
    StreamConfig: ("duration_s", "frames", "max_fps"),
    Smoothing: ("smooth_s", "majority", "hysteresis", "dwell_s", "min_confidence"),
    CaptureFormat: ("width", "height", "fps"),
    ReconnectPolicy: ("stale_s", "stall_s", "retry_s", "retry_max_s", "give_up_s"),
    TimingConfig: ("rounds", "seconds", "threads"),
    BenchmarkConfig: ("rounds", "seconds"),
    Constraints: ("max_latency_ms", "min_accuracy", "max_size_mb"),
}
WRONG = (math.nan, math.inf, -math.inf, -1, -1e-9, 1e12, 1e300, 10**400, 10**5000, True, "1", [1])


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: str(type(value)) if value == 10**5000 else repr(value)[:9])
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FIELDS.items() for name in names])
def test_a_setting_beyond_its_bounds_is_refused_in_one_line(kind: Any, name: str, wrong: Any):
    with pytest.raises(UsageError) as refused:
        kind(**{name: wrong}).check()
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (StreamConfig(cameras="demo"), "cameras"), (StreamConfig(cameras=(0,)), "cameras"),
        (StreamConfig(sinks=None), "sinks"), (StreamConfig(smoothing=SinkConfig()), "smoothing"),
        (Geometry(region="0,0,1,1"), "region"), (BenchmarkConfig(models="runs/x"), "models"),
        (BenchmarkConfig(batches=4), "batches"), (BenchmarkConfig(batches=(None,)), "batches"),
        (BenchmarkConfig(rounds=None), "rounds"), (TrainConfig(seed=None), "seed"),
        (TrainConfig(batch_size=None), "batch_size"), (TrainConfig(balance="yes"), "balance"),
        (TrainConfig(arch=3), "arch"), (TuneConfig(epochs=5), "epochs"), (TuneConfig(base=None), "base"),
        (ExportConfig(batch=(1,), target="tensorrt"), "batch"), (ExportConfig(out=3), "out"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_a_setting_of_another_type_is_refused_with_its_field(config: Config, field: str):
    with pytest.raises(UsageError, match="takes ") as refused:
        config.check()
    assert refused.value.field == field


def test_lists_and_text_are_taken_for_tuples_and_paths():
    assert BenchmarkConfig(batches=[1, 8], models=["runs/x"]).batches == (1, 8)
    assert BenchmarkConfig(models=["runs/x"]).models == (Path("runs/x"),)
    assert BenchmarkConfig(threads=(None, 2)).threads == (None, 2)


def test_no_secret_is_in_what_a_configuration_shows():
    sinks = SinkConfig(mqtt="mqtt://me:SECRET@host", webhook="https://host/SECRET", web_token="SECRET")
    config = StreamConfig(cameras=("rtsp://me:SECRET@door/live",), sinks=sinks)
    assert "SECRET" not in repr(config)
    assert "SECRET" not in repr(TuneConfig(storage="postgresql://me:SECRET@host/db"))


@pytest.mark.parametrize("kind", FIELDS)
def test_the_usual_settings_are_within_their_bounds(kind: Any):
    kind().check()


@pytest.mark.parametrize(
    "options",
    [CameraOptions(capture=CaptureFormat(fps=1e-12)), CameraOptions(reconnect=ReconnectPolicy(stale_s=math.nan))],
)
def test_cameras_are_not_opened_with_other_options(options: CameraOptions):
    with pytest.raises(UsageError):
        open_source("nowhere.mp4", None, options)


@pytest.mark.parametrize("segment_s", [math.nan, 0, 0.5, 1e12, math.inf])
def test_segments_last_a_second_or_more(segment_s: float):
    with pytest.raises(UsageError, match="`segment_minutes`"):
        VideoSink(Path("seen.mp4"), [], segment_s)


def test_raw_frames_are_not_larger_than_pictures_may_be():
    with pytest.raises(UsageError, match="pixels"):
        open_source("-", None, CameraOptions(capture=CaptureFormat(width=65535, height=65535)))


def test_whole_numbers_are_whole():
    check_bounds("frames", 3, 1, 5)
    with pytest.raises(UsageError, match=r"`frames` takes a whole number from 1 to 5, not 2\.5"):
        check_bounds("frames", 2.5, 1, 5)


@pytest.mark.parametrize(
    "option",
    [
        ("--max-fps", "1e-12"), ("--max-fps", "1e8"), ("--fps", "1e-12"), ("--fps", "0.2"), ("--duration", "1e-12"),
        ("--give-up", "-1"), ("--smooth", "1e8"), ("--dwell", "1e8"), ("--hysteresis", "1"), ("--majority", "100000"),
        ("--min-confidence", "1.1"), ("--width", "70000"), ("--height", "0"),
        ("--record", "seen.mp4", "--segment", "1e-12"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_beyond_their_bounds_are_usage_errors(
    cli: Callable[..., Result],
    trained: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: tuple[str, ...],
):
    monkeypatch.chdir(tmp_path)
    result = cli("stream", "--camera", "demo", "--model", trained.path, "--display", "none", *option)
    assert result.exit_code == 2, result.output
    assert option[-2] in result.stderr
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_taken_as_pythons():
    config = TrainConfig(epochs=np.int64(3), lr=np.float32(0.5))
    assert (type(config.epochs), type(config.lr)) == (int, float)
    config.check()


def test_an_empty_path_is_none():
    with pytest.raises(UsageError, match="`out` takes a path, not ''"):
        TrainConfig(out="").check()


def test_a_number_beyond_all_bounds_is_told_which_it_may_have_at_most():
    with pytest.raises(UsageError, match="`seed` takes a whole number of at most 4294967295, not 99999999999999999999"):
        TrainConfig(seed=99999999999999999999).check()
    with pytest.raises(UsageError, match=r"`ema` takes a number from 0 to 0\.9999999, not 1"):
        TrainConfig(ema=1).check()


def test_two_sinks_do_not_share_a_file(tmp_path: Path):
    with pytest.raises(UsageError, match="`events` and `log`"):
        SinkConfig(events=tmp_path / "a.jsonl", log=tmp_path / "x" / ".." / "a.jsonl").check()
