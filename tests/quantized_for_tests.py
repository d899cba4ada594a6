"""A network whose filters take fewer bits, images for it, and scores of its filters."""

from __future__ import annotations

import torch
from torch import nn

from secateur.quantization.filters import layers_with_filters
from secateur.records import ScoreTable


def network() -> nn.Sequential:
    """Plain, grouped and transposed convolutions, batch norm and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2),
        nn.ConvTranspose2d(6, 5, 2, groups=1), nn.Flatten(), nn.LazyLinear(3),
    )  # fmt: skip


IMAGES = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def table(net: nn.Module) -> ScoreTable:
    sizes = {name: net.get_submodule(name) for name in layers_with_filters(net)}
    random = torch.Generator().manual_seed(2)
    widths = {name: getattr(m, "out_channels", None) or m.out_features for name, m in sizes.items()}
    return ScoreTable(
        {name: torch.rand(C, generator=random) for name, C in widths.items()}, settings={"criterion": "di"}
    )
