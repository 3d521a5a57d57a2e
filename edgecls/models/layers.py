"""Networks and layers of our own."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from edgecls.errors import UsageError

if TYPE_CHECKING:
    import torch

POOLS = ("max", "avg", "stride")


@dataclass(frozen=True)
class SimpleCnn:
    """Blocks of 3x3 convolution, batch norm, ReLU and halving, then dense layers with dropout.

    `widths` are the blocks' channels, `pool` halves: "max", "avg", or "stride" in the convolution itself; `dense` are
    the widths of hidden linear layers, none of them by default.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    pool: str = "max"
    dense: tuple[int, ...] = ()
    dropout: float = 0.2

    @classmethod
    def parse(cls, text: str) -> SimpleCnn:
        """Read "widths=16-32-64,pool=avg,dense=128,dropout=0.3" or parts of it. Raises `UsageError`."""
        values: dict[str, tuple[int, ...] | str | float] = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            if name in ("widths", "dense") and re.fullmatch(r"[1-9]\d{0,3}(-[1-9]\d{0,3})*", value):
                values[name] = tuple(int(width) for width in value.split("-"))
            elif name == "pool" and value in POOLS:
                values[name] = value
            elif name == "dropout" and re.fullmatch(r"0(\.\d+)?", value):
                values[name] = float(value)
            else:
                known = ", ".join(field.name for field in fields(cls))
                raise UsageError(
                    f"simple_cnn takes {known}, such as simple_cnn:widths=16-32-64,pool=avg,dense=128,dropout=0.3, "
                    f"not {part!r}; pool is one of {', '.join(POOLS)}"
                )
        return cls(**values)  # type: ignore[arg-type]

    def create(self, classes: int) -> torch.nn.Module:
        """The network with fresh weights: (N, 3, h, w) float32 in, (N, classes) float32 out."""
        from torch import nn

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for index, width in enumerate(self.widths, start=1):
            stride = 2 if self.pool == "stride" else 1
            block: list[nn.Module] = [nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)]
            block += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            if self.pool != "stride":
                block.append(nn.MaxPool2d(2) if self.pool == "max" else nn.AvgPool2d(2))
            layers[f"block{index}"] = nn.Sequential(*block)
            channels = width
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "dropout": nn.Dropout(self.dropout)}
        for index, width in enumerate(self.dense, start=1):
            layers[f"dense{index}"] = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Dropout(self.dropout))
            channels = width
        layers["head"] = nn.Linear(channels, classes)
        return nn.Sequential(layers)


def grid_pool(cells: int) -> torch.nn.Module:
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
