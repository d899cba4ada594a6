"""The inception network of [Szegedy2015]_ for 32x32 images, with batch norm, as pruned in [Lin2020]_.

A 3x3 convolution to 192 channels is followed by nine modules: a3, b3 at 32x32, a4 to e4 at 16x16, a5, b5 at 8x8, with
3x3 max pools of stride 2 between. Each module concatenates four branches that read the same tensor: a 1x1 convolution;
1x1 and 3x3; 1x1 and two 3x3, which see 5x5 pixels; a 3x3 max pool and 1x1. A global average pool and one linear layer
end the network. The names of the parameters (`pre_layers.0`, `inception_a3.branch1x1.0`, ..., `linear`) are those of
the networks trained for [Lin2020]_, so their state dicts load strictly.

.. [Lin2020] M. Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020.
.. [Szegedy2015] Szegedy et al.: Going Deeper with Convolutions. CVPR 2015.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

# 1x1 | 3x3: reduced, out | 5x5: reduced, out | behind the pool: table 1 of the paper
_WIDTHS = {
    "inception_a3": (64, 96, 128, 16, 32, 32),
    "inception_b3": (128, 128, 192, 32, 96, 64),
    "inception_a4": (192, 96, 208, 16, 48, 64),
    "inception_b4": (160, 112, 224, 24, 64, 64),
    "inception_c4": (128, 128, 256, 24, 64, 64),
    "inception_d4": (112, 144, 288, 32, 64, 64),
    "inception_e4": (256, 160, 320, 32, 128, 128),
    "inception_a5": (256, 160, 320, 32, 128, 128),
    "inception_b5": (384, 192, 384, 48, 128, 128),
}
_POOLED = ("inception_b3", "inception_e4")


class _Inception(nn.Module):
    """(N, C, H, W) -> (N, one + three + five + pooled, H, W)."""

    def __init__(self, channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, to_three, three, to_five, five, pooled = widths
        self.branch1x1 = _chain((channels, one), kernels=(1,))
        self.branch3x3 = _chain((channels, to_three, three), kernels=(1, 3))
        self.branch5x5 = _chain((channels, to_five, five, five), kernels=(1, 3, 3))
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), *_chain((channels, pooled), kernels=(1,))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1x1(x), self.branch3x3(x), self.branch5x5(x), self.branch_pool(x)], 1)


class CifarGoogLeNet(nn.Module):
    """Nine inception modules for images (N, 3, 32, 32), normalised; gives logits (N, num_classes).

    Args:
        num_classes: number of logits.

    Deviations from [Szegedy2015]_, all as in the networks trained for [Lin2020]_: one convolution for the stem, two 3x3
    convolutions in place of each 5x5, batch norm, no auxiliary classifiers, no dropout.

    Example:
        >>> CifarGoogLeNet(num_classes=100).linear
        Linear(in_features=1024, out_features=100, bias=True)
    """

    def __init__(self, *, num_classes: int = 10) -> None:
        super().__init__()
        self.pre_layers = _chain((3, 192), kernels=(3,))
        channels = 192
        for name, widths in _WIDTHS.items():
            self.add_module(name, _Inception(channels, widths))
            one, _, three, _, five, pooled = widths
            channels = one + three + five + pooled
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.pre_layers(x)
        for name in _WIDTHS:
            out = self.get_submodule(name)(out)
            if name in _POOLED:
                out = functional.max_pool2d(out, 3, stride=2, padding=1)
        logits: Tensor = self.linear(functional.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def _chain(widths: tuple[int, ...], *, kernels: tuple[int, ...]) -> nn.Sequential:
    """Return convolutions through these widths that keep the size, each with batch norm and ReLU."""
    chain = nn.Sequential()
    for (channels, width), kernel in zip(itertools.pairwise(widths), kernels, strict=True):
        chain.append(nn.Conv2d(channels, width, kernel, padding=kernel // 2))
        chain.append(nn.BatchNorm2d(width))
        chain.append(nn.ReLU(inplace=True))
    return chain


def googlenet(num_classes: int = 10) -> CifarGoogLeNet:
    """Return the network with 6.17 M parameters and 1521.8 M MACs, untrained, with `num_classes` logits.

    Example:
        >>> import torch
        >>> googlenet().eval()(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    return CifarGoogLeNet(num_classes=num_classes)
