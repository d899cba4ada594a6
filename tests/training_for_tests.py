"""Small networks and images to train on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def blobs(count: int = 60, *, size: int = 20) -> list[tuple[Tensor, Tensor]]:
    """Three clouds in the plane, far apart, in batches."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    inputs = torch.tensor([[0.0, 4.0], [4.0, 0.0], [-4.0, -4.0]])[labels] + torch.randn(count, 2, generator=generator)
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def net(*, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Slope(nn.Module):
    """Logits (w x, 0) of one weight, so that the gradient fits on a line."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.w * x, torch.zeros_like(x)], 1)


def one_image_of_class_0(batches: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.int64))] * batches
