"""The architectures: a name gives a torch module, its ImageNet weights and settings that suit it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.errors import ArtefactError, BackendError, MissingExtraError, UsageError, first_line

if TYPE_CHECKING:
    import torch

    from edgecls.preprocess import Preprocess

DOWNLOAD_TIMEOUT_S = 15.0
TIMM = "timm/"
"""Prefix of architectures that the timm library builds."""
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What data parallel training, `torch.compile` and Lightning put before the names of tensors."""


@dataclass(frozen=True)
class Architecture:
    """One network. `head` is the prefix of its last layer's parameters, which depends on the number of classes.

    `lr` is the peak learning rate for AdamW from scratch; fine-tuning uses a quarter of it. `pool_grid` is the side of
    the grid that the last features are pooled to, where that is more than one cell.
    """

    name: str
    head: str
    weights: str | None = None
    lr: float = 2e-3
    pool_grid: int | None = None


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("mobilenet_v2", "classifier.1.", "MobileNet_V2_Weights"),
        Architecture("mobilenet_v3_small", "classifier.3.", "MobileNet_V3_Small_Weights"),
        Architecture("mobilenet_v3_large", "classifier.3.", "MobileNet_V3_Large_Weights"),
        Architecture("resnet18", "fc.", "ResNet18_Weights", lr=1e-3),
        Architecture("resnet34", "fc.", "ResNet34_Weights", lr=1e-3),
        Architecture("resnet50", "fc.", "ResNet50_Weights", lr=1e-3),
        Architecture("resnet101", "fc.", "ResNet101_Weights", lr=1e-3),
        Architecture("resnet152", "fc.", "ResNet152_Weights", lr=1e-3),
        Architecture("efficientnet_b0", "classifier.1.", "EfficientNet_B0_Weights"),
        Architecture("efficientnet_b1", "classifier.1.", "EfficientNet_B1_Weights"),
        Architecture("efficientnet_b2", "classifier.1.", "EfficientNet_B2_Weights"),
        Architecture("shufflenet_v2_x0_5", "fc.", "ShuffleNet_V2_X0_5_Weights"),
        Architecture("shufflenet_v2_x1_0", "fc.", "ShuffleNet_V2_X1_0_Weights"),
        Architecture("squeezenet1_0", "classifier.1.", "SqueezeNet1_0_Weights", lr=5e-4),
        Architecture("squeezenet1_1", "classifier.1.", "SqueezeNet1_1_Weights", lr=5e-4),
        Architecture("regnet_x_400mf", "fc.", "RegNet_X_400MF_Weights"),
        Architecture("regnet_y_400mf", "fc.", "RegNet_Y_400MF_Weights"),
        Architecture("regnet_y_1_6gf", "fc.", "RegNet_Y_1_6GF_Weights"),
        Architecture("simple_cnn", "head."),
        Architecture("vgg16", "classifier.6.", "VGG16_Weights", lr=1e-4, pool_grid=7),
    )
}
DEFAULT_ARCH = "mobilenet_v3_small"


def find(arch: str) -> Architecture:
    """The architecture of that name: one of `ARCHITECTURES`, or `timm/NAME`.

    Raises `UsageError` that lists what there is, `MissingExtraError` where timm is not installed.
    """
    if arch.startswith(TIMM):
        return Architecture(arch, timm_settings(arch)["classifier"] + ".", lr=1e-3)
    try:
        return ARCHITECTURES[arch]
    except KeyError:
        known = f"{', '.join(ARCHITECTURES)} or {TIMM}NAME"
        raise UsageError(f"there is no architecture {arch!r}; choose one of {known}") from None


def timm_settings(arch: str) -> Mapping[str, Any]:
    """What timm says about one of its architectures: input size, mean, std, crop and the last layer's name."""
    timm, name = _timm(), arch.removeprefix(TIMM)
    settings = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if settings is None or not isinstance(settings.classifier, str):
        near = ", ".join(f"{TIMM}{found}" for found in timm.list_models(f"*{name.split('.')[0]}*")[:3])
        raise UsageError(f"timm has no classifier {name!r}{f'; near it are {near}' if near else ''}")
    return settings.to_dict()


def _timm() -> Any:
    from edgecls.vision import import_torchvision

    try:
        import_torchvision()
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "timm", f"an architecture named {TIMM}NAME") from error
    return timm


def create(arch: str, classes: int) -> torch.nn.Module:
    """A network with fresh weights for that many classes: (N, 3, h, w) float32 in, (N, classes) float32 out."""
    architecture = find(arch)
    if arch.startswith(TIMM):
        module: torch.nn.Module = _timm().create_model(arch.removeprefix(TIMM), num_classes=classes)
        return module
    if architecture.weights is None:
        return _simple_cnn(classes)
    from edgecls.vision import import_torchvision

    network: torch.nn.Module = getattr(import_torchvision().models, arch)(weights=None, num_classes=classes)
    if architecture.pool_grid:
        network.avgpool = _grid_pool(architecture.pool_grid)
    return network


def _grid_pool(cells: int) -> torch.nn.Module:
    """Adaptive average pooling to a square grid, in operators that ONNX has for every input size.

    Cell i of n covers rows floor(i * height / n) up to ceil((i + 1) * height / n), as in torch's `AdaptiveAvgPool2d`.
    """
    import torch
    from torch import nn

    def averaging(size: int) -> torch.Tensor:
        matrix = torch.zeros(cells, size)
        for cell in range(cells):
            covered = slice(cell * size // cells, -(-(cell + 1) * size // cells))
            matrix[cell, covered] = 1 / (covered.stop - covered.start)
        return matrix

    class GridPool(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            height, width = (int(size) for size in image.shape[-2:])
            if height % cells == 0 and width % cells == 0:
                return nn.functional.avg_pool2d(image, (height // cells, width // cells))
            rows, columns = averaging(height).to(image), averaging(width).to(image)
            return rows @ image @ columns.T

    return GridPool()


def _simple_cnn(classes: int) -> torch.nn.Module:
    """Four blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling, then dropout and a linear layer."""
    require_torch()
    from collections import OrderedDict

    from torch import nn

    blocks: list[tuple[str, nn.Module]] = []
    channels = 3
    for index, width in enumerate((32, 64, 128, 256), start=1):
        convolution = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
        blocks.append(
            (f"block{index}", nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2)))
        )
        channels = width
    return nn.Sequential(
        OrderedDict(
            [
                *blocks,
                ("pool", nn.AdaptiveAvgPool2d(1)),
                ("flatten", nn.Flatten()),
                ("dropout", nn.Dropout(0.2)),
                ("head", nn.Linear(channels, classes)),
            ]
        )
    )


def imagenet_weights(arch: str) -> tuple[dict[str, torch.Tensor], str]:
    """Torchvision's best ImageNet weights and their name, from the cache or the network.

    Raises `BackendError` where they cannot be fetched and `UsageError` where there are none.
    """
    architecture = find(arch)
    if architecture.weights is None:
        raise UsageError(f"{arch} has no ImageNet weights; use --weights none or a file")
    from urllib.error import URLError

    from edgecls.vision import import_torchvision

    weights = getattr(import_torchvision().models, architecture.weights).DEFAULT
    try:
        with _download_timeout(DOWNLOAD_TIMEOUT_S):
            return weights.get_state_dict(progress=False, check_hash=True), str(weights)
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise BackendError(
            f"the ImageNet weights {weights} cannot be fetched ({reason}); connect to the network once, "
            "or give --weights FILE or --weights none"
        ) from error


@contextmanager
def _download_timeout(seconds: float) -> Iterator[None]:
    import socket

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors from a safetensors file or a torch checkpoint. Nothing is unpickled but tensors (`weights_only`).

    Raises `ArtefactError` where the file is missing or is something else.
    """
    require_torch()
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ArtefactError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return _unwrapped(dict(load_file(path)))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise ArtefactError(
            f"{path} cannot be read as weights ({first_line(error)}); give a safetensors file or a state dict"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in loaded.values()):
        raise ArtefactError(f"{path} holds no state dict (a mapping of names to tensors)")
    return _unwrapped(loaded)


def _unwrapped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for wrapper in WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            return _unwrapped({name.removeprefix(wrapper): tensor for name, tensor in tensors.items()})
    return tensors


def write_weights(network: torch.nn.Module, path: Path) -> None:
    """Write a network's tensors as safetensors."""
    from safetensors.torch import save

    path.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}))


def load_weights(network: torch.nn.Module, arch: str, weights: dict[str, torch.Tensor], origin: str) -> bool:
    """Copy `weights` into `network`; a last layer of another size stays fresh. Returns whether the last layer fitted.

    Raises `ArtefactError` that names the first tensor that does not belong to this architecture.
    """
    head = find(arch).head
    own = network.state_dict()
    fitting: dict[str, torch.Tensor] = {}
    for name, tensor in own.items():
        if name in weights and weights[name].shape == tensor.shape:
            fitting[name] = weights[name]
        elif not (name.startswith(head) or name.endswith("num_batches_tracked")):
            what = f"shape {tuple(weights[name].shape)}" if name in weights else "nothing"
            raise ArtefactError(
                f"{origin} does not fit {arch}: {name} wants shape {tuple(tensor.shape)}, the file has {what}"
            )
    network.load_state_dict(fitting, strict=False)
    return all(name in fitting for name in own if name.startswith(head))


def deployable(network: torch.nn.Module, preprocess: Preprocess, half: bool = False) -> torch.nn.Module:
    """Wrap a network so that it takes raw images: (N, h, w, 3) uint8 RGB in, (N, C) float32 scores out.

    The cast stands before the transpose because TensorRT transposes no uint8. With `half` the network itself computes
    in float16 between two casts.
    """
    import torch
    from torch import nn

    class Normalize(nn.Module):
        """(x / 255 - mean) / std, written as one multiplication and one subtraction."""

        scale: torch.Tensor
        shift: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
            self.register_buffer("scale", 1 / (255 * std))
            self.register_buffer("shift", mean / std)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image * self.scale - self.shift

    class Deployable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalize = Normalize()
            self.network = network.half() if half else network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            normalized = self.normalize(image.float().permute(0, 3, 1, 2))
            scores: torch.Tensor = self.network(normalized.half() if half else normalized)
            return scores.float() if half else scores

    return Deployable().eval()


def channels_last(module: torch.nn.Module) -> torch.nn.Module:
    """The module with its convolutions in the memory layout that processors and GPUs compute fastest in."""
    import torch

    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def visit_batch_norms(network: torch.nn.Module, visit: Callable[[Any], None]) -> None:
    """Call `visit` with every batch norm layer of the network."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in network.modules():
        if isinstance(module, _BatchNorm):
            visit(module)


def require_torch(purpose: str = "this step") -> None:
    """Raise `MissingExtraError` that names the purpose where torch is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("torch", "train", purpose) from error
