"""A criterion in small, and a network and images to collect its scores over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.errors import DataError


@dataclass
class MeanMap:
    """A criterion in small: the mean value of each channel, as a sum and a count."""

    name: str = "mean"
    needs_labels: bool = False
    batch_size: int | None = None
    accepts_vectors: bool = False
    samples: int = 100

    def init(self, channels: int) -> tuple[Tensor, int]:
        return torch.zeros(channels, dtype=torch.float64), 0

    def update(self, state: tuple[Tensor, int], feature_maps: Tensor, labels: Tensor | None) -> tuple[Tensor, int]:
        assert feature_maps.ndim == 4
        assert feature_maps.dtype in (torch.float32, torch.float64)
        if self.needs_labels:
            assert labels is not None
            assert labels.dtype == torch.int64
        sums, count = state
        return sums + feature_maps.double().mean((2, 3)).sum(0).to(sums.device), count + len(feature_maps)

    def compute(self, state: tuple[Tensor, int]) -> Tensor:
        return state[0] / state[1]


class Strict(MeanMap):
    """Refuses maps with a side of one pixel."""

    def update(self, state: tuple[Tensor, int], feature_maps: Tensor, labels: Tensor | None) -> tuple[Tensor, int]:
        if min(feature_maps.shape[2:]) == 1:
            raise DataError("too small")
        return super().update(state, feature_maps, labels)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 6)
    )


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def with_nan() -> nn.Sequential:
    model = network()
    with torch.no_grad():
        model[3].weight[2] = float("nan")
    return model
