"""Pruned networks: made narrower, and rebuilt from their weights alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from edgecls import models
from edgecls.errors import ArtifactError, UsageError
from edgecls.shrinking.pruning import prune


def weights_in(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    "arch",
    ["simple_cnn:widths=16-32,dense=32", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1",
     "efficientnet_b0", "mnasnet0_5", "timm/tf_efficientnet_lite0"],
)  # fmt: skip
def test_half_of_the_channels_go_and_the_weights_say_which_shapes_are_left(arch: str):
    network = models.create(arch, 5)
    before = weights_in(network)
    pruned = prune(network, arch, 64, 0.5)
    assert weights_in(pruned) < 0.6 * before
    rebuilt = models.create(arch, 5)
    assert models.load_weights(rebuilt, f"{arch}:pruned", pruned.state_dict(), "here")
    image = torch.rand(2, 3, 64, 64)
    assert torch.equal(rebuilt.eval()(image), pruned(image))


@pytest.mark.parametrize(
    ("arch", "reason"),
    [("shufflenet_v2_x0_5", "shuffles its channels"), ("resnext50_32x4d", "32 groups"),
     ("regnet_y_400mf", "groups, which are not cut apart"),
     ("vgg11", "following its channels takes too long")],
)  # fmt: skip
def test_what_cannot_be_pruned_is_told_with_the_reason(arch: str, reason: str):
    with pytest.raises(UsageError, match=f"{arch} cannot be pruned: .*{reason}"):
        prune(models.create(arch, 5), arch, 64, 0.5)


def test_weights_that_are_wider_or_of_another_kernel_do_not_fit():
    narrow, wide = "simple_cnn:widths=8-16", "simple_cnn:widths=16-32"
    for arch, weights in ((narrow, models.create(wide, 3).state_dict()), ("resnet18", {})):
        with pytest.raises(ArtifactError, match="does not fit"):
            models.load_weights(models.create(arch, 3), f"{arch}:pruned", weights, "here")
    other = {**models.create(narrow, 3).state_dict(), "block1.0.weight": torch.zeros(8, 3, 5, 5)}
    with pytest.raises(ArtifactError, match="does not fit"):
        models.load_weights(models.create(narrow, 3), f"{narrow}:pruned", other, "here")


def test_a_last_layer_for_other_classes_stays_fresh():
    pruned = prune(models.create("resnet18", 5), "resnet18", 64, 0.5).state_dict()
    network = models.create("resnet18", 7)
    assert not models.load_weights(network, "resnet18:pruned", pruned, "here")
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_a_pruned_file_is_imported_by_the_name_of_its_architecture(
    cli: Callable[..., Result], photos: Path, tmp_path: Path
):
    models.write_weights(prune(models.create("resnet18", 2), "resnet18", 64, 0.5), tmp_path / "half.safetensors")
    (tmp_path / "classes.txt").write_text("bright\ndark\n")
    shared = ["--classes", tmp_path / "classes.txt", "--data", photos, "--size", "64"]
    result = cli("import", tmp_path / "half.safetensors", "--arch", "resnet18:pruned", *shared,
                 "--out", tmp_path / "run")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert cli("import", tmp_path / "half.safetensors", "--arch", "resnet18", *shared).exit_code == 4
