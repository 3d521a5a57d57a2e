"""The architectures: a name gives a torch module and settings that suit it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgecls.errors import MissingExtraError, UsageError
from edgecls.imaging.preprocess import Interpolation, Preprocess
from edgecls.models.layers import SimpleCnn, grid_pool

if TYPE_CHECKING:
    import torch

TIMM = "timm/"
"""Prefix of architectures that the timm library builds."""
PRUNED = ":pruned"
"""Suffix of architectures whose layers are as wide as their weights say, and no wider than the architecture's own."""
SIMPLE_CNN = "simple_cnn"
DEFAULT_ARCH = "mobilenet_v3_small"
IMAGENET_SIDE_PX = 224
IMAGENET_CROP = 0.875


@dataclass(frozen=True)
class Architecture:
    """One network. `head` is the prefix of its last layer's parameters, which depends on the number of classes.

    `weights` names torchvision's class of ImageNet weights. `lr` is the peak learning rate for AdamW from scratch;
    fine-tuning uses a quarter of it. `pool_grid` is the side of the grid that the last features are pooled to, where
    that is more than one cell. The layers of a `pruned` one are as wide as its weights say.
    """

    name: str
    head: str
    weights: str | None = None
    lr: float = 2e-3
    pool_grid: int | None = None
    pruned: bool = False


@dataclass(frozen=True)
class _Family:
    """Torchvision's sizes of one network, and what they share."""

    sizes: str
    head: str
    lr: float = 2e-3
    pool_grid: int | None = None


_FAMILIES = (
    _Family("MobileNet_V2 MobileNet_V3_Small MobileNet_V3_Large", "classifier.3."),
    _Family("ResNet18 ResNet34 ResNet50 ResNet101 ResNet152", "fc.", lr=1e-3),
    _Family("ResNeXt50_32X4D ResNeXt101_32X8D ResNeXt101_64X4D Wide_ResNet50_2 Wide_ResNet101_2", "fc.", lr=1e-3),
    _Family("VGG11 VGG13 VGG16 VGG19", "classifier.6.", lr=1e-4, pool_grid=7),
    _Family("VGG11_BN VGG13_BN VGG16_BN VGG19_BN", "classifier.6.", lr=5e-4, pool_grid=7),
    _Family(" ".join(f"EfficientNet_B{size}" for size in range(8)), "classifier.1."),
    _Family("EfficientNet_V2_S EfficientNet_V2_M EfficientNet_V2_L", "classifier.1.", lr=1e-3),
    _Family("ShuffleNet_V2_X0_5 ShuffleNet_V2_X1_0 ShuffleNet_V2_X1_5 ShuffleNet_V2_X2_0", "fc."),
    _Family("SqueezeNet1_0 SqueezeNet1_1", "classifier.1.", lr=5e-4),
    _Family("MNASNet0_5 MNASNet0_75 MNASNet1_0 MNASNet1_3", "classifier.1."),
    _Family(
        " ".join(f"RegNet_X_{size}" for size in ["400MF", "800MF", "1_6GF", "3_2GF", "8GF", "16GF", "32GF"]), "fc."
    ),
    _Family(
        " ".join(f"RegNet_Y_{size}" for size in ["400MF", "800MF", "1_6GF", "3_2GF", "8GF", "16GF", "32GF", "128GF"]),
        "fc.",
    ),
)
_TORCHVISION = {
    size.lower(): Architecture(size.lower(), family.head, f"{size}_Weights", family.lr, family.pool_grid)
    for family in _FAMILIES
    for size in family.sizes.split()
}
ARCHITECTURES = {
    **_TORCHVISION,
    "mobilenet_v2": Architecture("mobilenet_v2", "classifier.1.", "MobileNet_V2_Weights"),
    SIMPLE_CNN: Architecture(SIMPLE_CNN, "head."),
}


def find(arch: str) -> Architecture:
    """The architecture of that name: one of `ARCHITECTURES`, `simple_cnn:SETTINGS`, or `timm/NAME`; with `:pruned`
    behind it, one whose layers are as wide as its weights say.

    Raises `UsageError` that names what is near, `MissingExtraError` where timm is not installed.
    """
    if arch.endswith(PRUNED):
        return replace(find(unpruned(arch)), name=arch, pruned=True)
    if arch.startswith(TIMM):
        return Architecture(arch, timm_settings(arch)["classifier"] + ".", lr=2e-3)
    name, colon, settings = arch.partition(":")
    if colon and name == SIMPLE_CNN:
        SimpleCnn.parse(settings)
        return Architecture(arch, "head.")
    try:
        return ARCHITECTURES[arch]
    except KeyError:
        raise UsageError(f"`arch`: there is no architecture {arch!r}; {_near(arch)}") from None


def unpruned(arch: str) -> str:
    """The name of the architecture that a pruned network was made from."""
    return arch.removesuffix(PRUNED)


def family_of(arch: str) -> tuple[str, ...]:
    """The sizes of torchvision's network that an architecture is one of, itself included; empty for all others."""
    families = (tuple(family.sizes.lower().split()) for family in _FAMILIES)
    return next((sizes for sizes in families if unpruned(arch) in sizes), ())


def _near(arch: str) -> str:
    from difflib import get_close_matches

    family = re.match(r"[A-Za-z]+", arch)
    near = get_close_matches(arch.lower(), ARCHITECTURES, n=4) or [
        name for name in ARCHITECTURES if family and name.startswith(family[0].lower())
    ]
    known = "MobileNet, ResNet, VGG, EfficientNet, ShuffleNet, SqueezeNet, MNASNet and RegNet by torchvision's names"
    return f"{f'near it are {chr(44).join(near)}; ' if near else ''}there are {known}, simple_cnn and {TIMM}NAME"


def usual_preprocess(arch: str, size_px: int) -> Preprocess:
    """How an architecture's published weights want their pixels, for a square input of that size, without a crop."""
    return replace(published_preprocess(arch), height_px=size_px, width_px=size_px, resize="crop", crop=1.0)


def usual_size_px(arch: str, source_px: int) -> int:
    """Side of the input to train with: the published weights' own where a source says no more than ImageNet's usual."""
    return source_px if source_px != IMAGENET_SIDE_PX else published_preprocess(arch).height_px


def published_preprocess(arch: str) -> Preprocess:
    """Size, crop, mean and standard deviation with which an architecture's published weights were measured.

    Their resizing averages over what it leaves out, bilinear and bicubic alike; `pyramid` comes nearest to both: on
    photographs of 1152 pixels it differs from PIL's bicubic by 4.6 grey levels in the mean, OpenCV's cubic by 8.0.
    """
    arch = unpruned(arch)
    architecture = find(arch)
    if arch.startswith(TIMM):
        return _timm_preprocess(timm_settings(arch))
    if architecture.weights is None:
        return Preprocess(IMAGENET_SIDE_PX, IMAGENET_SIDE_PX, crop=IMAGENET_CROP)
    from edgecls.models.vision import import_torchvision

    settings = getattr(import_torchvision().models, architecture.weights).DEFAULT.transforms()
    [side], [resized] = settings.crop_size, settings.resize_size
    interpolation: Interpolation = "nearest" if str(settings.interpolation.value) == "nearest" else "pyramid"
    mean, std = tuple(settings.mean), tuple(settings.std)
    return Preprocess(side, side, interpolation=interpolation, mean=mean, std=std, crop=side / resized)


def _timm_preprocess(settings: Mapping[str, Any]) -> Preprocess:
    _, height, width = settings["input_size"]
    squashed = settings.get("crop_mode") == "squash"
    return Preprocess(
        height,
        width,
        resize="stretch" if squashed else "crop",
        interpolation="nearest" if settings.get("interpolation") == "nearest" else "pyramid",
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        crop=1.0 if squashed else settings["crop_pct"],
    )


def timm_settings(arch: str) -> Mapping[str, Any]:
    """What timm says about one of its architectures: input size, mean, std, crop and the last layer's name."""
    timm, name = _timm(), arch.removeprefix(TIMM)
    settings = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if settings is None or not isinstance(settings.classifier, str):
        near = ", ".join(f"{TIMM}{known}" for known in timm.list_models(f"*{name.split('.')[0]}*")[:3])
        raise UsageError(f"`arch`: timm has no classifier {name!r}{f'; near it are {near}' if near else ''}")
    return settings.to_dict()


def _timm() -> Any:
    from edgecls.models.vision import import_torchvision

    try:
        import_torchvision()
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "timm", f"an architecture named {TIMM}NAME") from error
    return timm


def create(arch: str, classes: int) -> torch.nn.Module:
    """A network with fresh weights for that many classes: (N, 3, h, w) float32 in, (N, classes) float32 out.

    Of a pruned architecture it is as wide as before the pruning; `load_weights` and `fit_layers` make it narrower.
    """
    require_torch()
    arch = unpruned(arch)
    architecture = find(arch)
    if arch.startswith(TIMM):
        return create_timm(arch, classes)
    if architecture.weights is None:
        return SimpleCnn.parse(arch.partition(":")[2]).create(classes)
    from edgecls.models.vision import import_torchvision

    network: torch.nn.Module = getattr(import_torchvision().models, arch)(weights=None, num_classes=classes)
    if architecture.pool_grid:
        network.avgpool = grid_pool(architecture.pool_grid)
    return network


def create_timm(arch: str, classes: int | None, pretrained: bool = False) -> torch.nn.Module:
    """One of timm's networks, for the classes of its published weights where None are given.

    A last layer for other classes begins as torch begins its layers: that of some of timm's families spans +-0.3
    for ten classes, so that the first loss is twice that of guessing, and fine-tuning spends its first epochs on it.
    """
    settings = {} if classes is None else {"num_classes": classes}
    module: torch.nn.Module = _timm().create_model(arch.removeprefix(TIMM), pretrained=pretrained, **settings)
    head = module.get_classifier()  # type: ignore[operator]
    if classes is not None and hasattr(head, "reset_parameters"):
        head.reset_parameters()
    return module


def require_torch(purpose: str = "this step") -> None:
    """Raise `MissingExtraError` that names the purpose where torch is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("torch", "train", purpose) from error
