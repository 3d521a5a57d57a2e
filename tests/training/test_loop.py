from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgecls import models
from edgecls.artifact.card import check_files
from edgecls.errors import ArtifactError, BackendError, OutputError, UsageError
from edgecls.models.layers import grid_pool
from edgecls.runtime import store
from edgecls.runtime.store import Artifact
from edgecls.training.config import TrainConfig
from edgecls.training.history import Epoch, TrainingCallbacks, read_history
from edgecls.training.loop import train
from edgecls.training.optimize import one_cycle

QUICK = {"arch": "simple_cnn", "epochs": 1, "size_px": 32, "batch_size": 8}


def test_a_run_holds_all_that_later_stages_need(trained: Artifact):
    names = {path.name for path in trained.path.iterdir()} - {"bundles"}
    assert names >= {"card.json", "model.safetensors", "golden.npz", "data.json", "metrics.csv", "evaluation.json"}
    check_files(trained.card, trained.path)
    assert trained.card.classes[:3] == ("zero", "one", "two")
    assert len(read_history(trained.path)) == 3


def test_three_epochs_already_read_most_digits(trained: Artifact):
    assert trained.card.quality.top1 > 0.85
    assert trained.card.quality.images == 269
    evaluation = json.loads((trained.path / "evaluation.json").read_text())
    assert evaluation["top1"] == trained.card.quality.top1
    assert sum(map(sum, evaluation["confusion"])) == 269


def test_a_folder_of_images_is_learned_and_repeats_with_its_seed(photos: Path, tmp_path: Path):
    results = []
    for name in ("a", "b"):
        path, metrics = train(
            TrainConfig(data=str(photos), **{**QUICK, "epochs": 4}, weights="none", out=tmp_path / name)
        )
        results.append((load_file(path / "model.safetensors"), metrics.top1))
    assert results[0][1] == 1.0
    assert all(torch.equal(results[0][0][name], results[1][0][name]) for name in results[0][0])


def test_skipped_images_are_recorded(photos: Path, tmp_path: Path):
    (photos / "dark" / "broken.jpg").write_text("no image")
    path, _ = train(TrainConfig(data=str(photos), **QUICK, weights="none", out=tmp_path / "run"))
    assert list(json.loads((path / "data.json").read_text())["skipped"]) == ["dark/broken.jpg"]


def test_running_statistics_settle_on_a_small_data_set(photos: Path, tmp_path: Path):
    """Torchvision's momentum of 0.01 would leave them near their initial values after a few steps."""
    config = TrainConfig(
        data=str(photos),
        arch="mobilenet_v3_small",
        weights="none",
        epochs=5,
        batch_size=8,
        size_px=32,
        out=tmp_path / "run",
    )
    path, _ = train(config)
    variance = load_file(path / "model.safetensors")["features.0.1.running_var"]
    assert (variance - 1).abs().mean() > 0.4


def test_ctrl_c_before_the_first_checkpoint_leaves_nothing(photos: Path, tmp_path: Path):
    class Impatient(TrainingCallbacks):
        def epoch(self, epoch: Epoch) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(data=str(photos), **QUICK, weights="none", out=tmp_path / "runs" / "x"), Impatient())
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_next_run_takes_the_next_number(trained: Artifact):
    with store.new_run("My photos!", "resnet18") as first, store.new_run("digits", "resnet18") as second:
        assert first.name == "002-My-photos-resnet18"
        assert second.name == "003-digits-resnet18"
        assert store.latest_run() == trained.path
    assert not first.exists()
    assert not second.exists()


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 400])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing(steps: int):
    rates = [one_cycle(step, steps) for step in range(steps)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert all(rate > 0 for rate in rates)
    assert one_cycle(steps, steps) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("height", "width"), [(7, 14), (2, 2), (9, 5)])
def test_grid_pooling_is_torchs_adaptive_pooling(height: int, width: int):
    image = torch.randn(2, 3, height, width)
    expected = torch.nn.functional.adaptive_avg_pool2d(image, 7)
    assert (grid_pool(7)(image) - expected).abs().max() < 1e-6


def test_a_timm_network_is_trained_like_the_others(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("timm")
    monkeypatch.setenv(store.RUNS_VARIABLE, str(tmp_path / "runs"))
    settings = {**QUICK, "arch": "timm/mobilenetv3_small_050"}
    path, _ = train(TrainConfig(data=str(photos), **settings))
    assert path.name.endswith("-photos-mobilenetv3_small_050")
    assert store.find(path).card.arch == "timm/mobilenetv3_small_050"


class TestWeights:
    def test_a_run_can_start_from_another(self, trained: Artifact, photos: Path, tmp_path: Path):
        lines: list[str] = []

        class Listening(TrainingCallbacks):
            def started(self, dataset, start, *_) -> None:
                lines.append(start.line)
                assert start.pretrained

        train(TrainConfig(data=str(photos), **QUICK, weights=str(trained.path), out=tmp_path / "run"), Listening())
        assert "a new last layer for these classes" in lines[0]

    def test_weights_of_another_network_are_refused(self, photos: Path, tmp_path: Path):
        save_file({"x": torch.zeros(2)}, tmp_path / "w.safetensors")
        with pytest.raises(ArtifactError, match=r"does not fit simple_cnn: block1\.0\.weight wants shape"):
            train(TrainConfig(data=str(photos), **QUICK, weights=str(tmp_path / "w.safetensors"), out=tmp_path / "run"))
        assert not (tmp_path / "run").exists()

    def test_a_pickle_is_never_executed(self, photos: Path, tmp_path: Path):
        class Bomb:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "exploded",))

        torch.save({"x": Bomb()}, tmp_path / "w.pt")
        with pytest.raises(ArtifactError, match="cannot be read as weights"):
            train(TrainConfig(data=str(photos), **QUICK, weights=str(tmp_path / "w.pt"), out=tmp_path / "run"))
        assert not (tmp_path / "exploded").exists()

    def test_a_misspelt_word_is_told_from_a_file(self, photos: Path, tmp_path: Path):
        with pytest.raises(UsageError, match="'imagnet' is none of them"):
            train(TrainConfig(data=str(photos), **QUICK, weights="imagnet", out=tmp_path / "run"))

    def test_weights_out_of_reach(self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """`imagenet` fails with the way out, `auto` trains from scratch and says why."""
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
        config = TrainConfig(
            data=str(photos), arch="resnet18", epochs=1, size_px=32, batch_size=8, out=tmp_path / "run"
        )
        with pytest.raises(BackendError, match=r"cannot be fetched .*`weights` none"):
            train(TrainConfig(**{**vars(config), "weights": "imagenet"}))
        lines: list[str] = []

        class Listening(TrainingCallbacks):
            def started(self, dataset, start, *_) -> None:
                lines.append(start.line)

        train(config, Listening())
        assert lines[0].startswith("weights: none, training from scratch because the ImageNet weights ResNet18")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "resnet9000"}, "no architecture 'resnet9000'"),
        ({"epochs": 0}, "`epochs`"),
        ({"batch_size": 1}, "`batch_size`"),
        ({"lr": -1.0}, "`lr`"),
        ({"size_px": 8}, "`size_px`"),
    ],
)
def test_values_that_make_no_sense_are_refused_before_any_work(change: dict, message: str):
    with pytest.raises(UsageError, match=message):
        train(TrainConfig(**change))


def test_out_is_never_overwritten(photos: Path):
    with pytest.raises(OutputError, match="exists already"):
        train(TrainConfig(data=str(photos), **QUICK, out=photos))
    assert len(list(photos.rglob("*.jpg"))) == 24


def test_a_full_disk_is_one_line_and_leaves_nothing(photos: Path, tmp_path: Path):
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"sys.argv = ['edgecls', 'train', {str(photos)!r}, '--arch', 'simple_cnn', '--epochs', '1', '--size', '32',"
        f" '--batch-size', '8', '--weights', 'none', '--out', {str(tmp_path / 'out' / 'run')!r}]\n"
        "from edgecls.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 8, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list((tmp_path / "out").iterdir()) == []


SMALLEST = (
    "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "resnet18", "resnext50_32x4d", "wide_resnet50_2",
    "vgg11", "vgg11_bn", "efficientnet_b0", "efficientnet_v2_s", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5",
    "regnet_x_400mf", "regnet_y_400mf", "simple_cnn", "simple_cnn:widths=8-16,pool=avg,dense=32-16,dropout=0.5",
    "simple_cnn:pool=stride",
)  # fmt: skip


def test_every_architecture_of_torchvision_has_its_weights():
    from edgecls.models.vision import import_torchvision

    known = import_torchvision().models
    families = (
        "mobilenet",
        "resnet",
        "resnext",
        "wide",
        "vgg",
        "efficientnet",
        "shuffle",
        "squeeze",
        "mnasnet",
        "regnet",
    )
    expected = {name for name in known.list_models(module=known) if name.startswith(families)}
    assert set(models.ARCHITECTURES) == expected | {"simple_cnn"}
    for arch in expected:
        assert getattr(known, models.find(arch).weights) is known.get_model_weights(arch)


@pytest.mark.parametrize(
    "text", ["widths=0", "widths=8-", "pool=mean", "dropout=1", "depth=3", "dense", "widths=8;pool=avg"]
)
def test_a_simple_cnn_is_configured_in_its_name(text: str):
    with pytest.raises(UsageError, match="simple_cnn takes widths, pool, dense, dropout, such as"):
        models.find(f"simple_cnn:{text}")


@pytest.mark.parametrize("arch", SMALLEST)
def test_every_family_takes_any_number_of_classes(arch: str):
    network = models.create(arch, 7).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    head = [name for name in network.state_dict() if name.startswith(models.find(arch).head)]
    assert {len(network.state_dict()[name]) for name in head} == {7}
