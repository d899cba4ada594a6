"""Images, and what a network has become, for the tests of importances in Torch-Pruning's pruners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

IMAGES = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 4
LOADER = [(IMAGES[:8], LABELS[:8]), (IMAGES[8:], LABELS[8:])]
SMALL = [(IMAGES[:, :, :16, :16], LABELS)]
EXAMPLE = (SMALL[0][0][:2],)
LABELLED = [(torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(3)), torch.arange(16) % 5)]


class Counted:
    """Batches that remember how often they were iterated over."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(self.batches)


def convolutions(network: nn.Module) -> dict[str, int]:
    return {name: m.out_channels for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}


def linears(network: nn.Module) -> dict[str, int]:
    return {name: m.out_features for name, m in network.named_modules() if isinstance(m, nn.Linear)}


def sizes_as_declared(network: nn.Module) -> bool:
    """Whether every weight has the size that its module says it has."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            declared: tuple[int, ...] = (module.out_channels, module.in_channels // module.groups)
        elif isinstance(module, nn.Linear):
            declared = (module.out_features, module.in_features)
        elif isinstance(module, nn.BatchNorm2d):
            declared = (module.num_features,)
            assert module.running_mean is not None
            assert module.running_mean.shape == declared
        else:
            continue
        if module.weight.shape[: len(declared)] != declared:
            return False
    return True
