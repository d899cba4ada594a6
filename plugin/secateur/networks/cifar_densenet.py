"""The densely connected network of [Huang2017]_ for 32x32 images: 40 layers, growth 12, pre-activation.

A 3x3 convolution to 24 channels is followed by three dense blocks at 32x32, 16x16 and 8x8. Each layer of a block reads
all channels before it through batch norm and ReLU and appends `growth` channels of a 3x3 convolution. Between blocks a
1x1 convolution keeps the number of channels and a 2x2 average pool halves the sides. The names of the parameters
(`conv1`, `dense1.0.bn1`, `dense1.0.conv1`, `trans1.conv1`, ..., `bn`, `fc`) are those of the networks trained for
[Lin2020]_, so their state dicts load strictly.

.. [Huang2017] Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks. CVPR 2017.
.. [Lin2020] M. Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.errors import ConfigError


class _DenseLayer(nn.Module):
    """(N, C, H, W) -> (N, C + growth, H, W): the input, then what a 3x3 convolution makes of it."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv1(functional.relu(self.bn1(x)))], 1)


class _Transition(nn.Module):
    """(N, C, H, W) -> (N, C, H / 2, W / 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(self.conv1(functional.relu(self.bn1(x))), 2)


class CifarDenseNet(nn.Module):
    """A DenseNet without bottlenecks and without compression for images (N, 3, 32, 32); gives logits (N, num_classes).

    Args:
        depth: number of layers with weights; 40 and 100 in the paper, any 3 n + 4.
        growth: channels that each layer appends; 12 and 24 in the paper.
        num_classes: number of logits.

    Raises:
        ConfigError: the depth is not 3 n + 4 with n >= 1, or the growth is below one.

    Example:
        >>> CifarDenseNet(13, growth=4).fc
        Linear(in_features=44, out_features=10, bias=True)
    """

    def __init__(self, depth: int, *, growth: int = 12, num_classes: int = 10) -> None:
        super().__init__()
        if depth < 7 or (depth - 4) % 3:
            raise ConfigError(f"the depth of a CIFAR DenseNet must be 3 n + 4 (7, 10, ..., 40, ...); found {depth}")
        if growth < 1:
            raise ConfigError(f"the growth of a DenseNet must be at least one channel; found {growth}")
        layers = (depth - 4) // 3
        channels = 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.dense1 = _dense_block(channels, growth, layers=layers)
        channels += layers * growth
        self.trans1 = _Transition(channels)
        self.dense2 = _dense_block(channels, growth, layers=layers)
        channels += layers * growth
        self.trans2 = _Transition(channels)
        self.dense3 = _dense_block(channels, growth, layers=layers)
        channels += layers * growth
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        out = self.trans1(self.dense1(self.conv1(x)))
        out = self.dense3(self.trans2(self.dense2(out)))
        out = functional.relu(self.bn(out))
        logits: Tensor = self.fc(functional.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def _dense_block(channels: int, growth: int, *, layers: int) -> nn.Sequential:
    return nn.Sequential(*(_DenseLayer(channels + growth * i, growth) for i in range(layers)))


def densenet40(num_classes: int = 10) -> CifarDenseNet:
    """Return the network with 40 layers, 1.06 M parameters and 282.9 M MACs, untrained, with `num_classes` logits.

    Example:
        >>> sum(parameter.numel() for parameter in densenet40().parameters())
        1059298
    """
    return CifarDenseNet(40, num_classes=num_classes)
