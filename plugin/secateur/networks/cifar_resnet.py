"""The residual networks for 32x32 images of [He2016]_, with shortcuts that have no parameters ("option A").

A 3x3 convolution to 16 channels is followed by three stages of (depth - 2) / 6 blocks with 16, 32 and 64 channels at
32x32, 16x16 and 8x8, a global average pool and a linear layer. The names of the parameters (`conv1`, `bn1`,
`layer1.0.conv1`, ..., `linear`) are those of the trained networks in circulation, so their state dicts load strictly.

.. [He2016] He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. CVPR 2016, section 4.2.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from secateur.channel_map import ChannelMap
from secateur.errors import ConfigError
from secateur.networks.residual_block import ResidualBlock


class CifarResNet(nn.Module):
    """A residual network for images (N, 3, 32, 32), normalised; gives logits (N, num_classes).

    Args:
        depth: number of layers with weights: 20, 32, 44, 56, 110 in the paper; any 6 n + 2.
        num_classes: number of logits.

    Raises:
        ConfigError: the depth is not 6 n + 2 with n >= 1.

    Deviations: [He2016]_ leaves open where the zero channels go; the trained networks in circulation put half of them
    before and half behind the channels of the shortcut, and so does this one.

    Example:
        >>> CifarResNet(8, num_classes=100).linear
        Linear(in_features=64, out_features=100, bias=True)
    """

    def __init__(self, depth: int, *, num_classes: int = 10) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ConfigError(f"the depth of a CIFAR ResNet must be 6 n + 2 (8, 14, 20, ..., 56, ...); found {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks=blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks=blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks=blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.linear(functional.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def _stage(channels: int, width: int, *, blocks: int, stride: int) -> nn.Sequential:
    same = stride == 1 and channels == width
    shortcut = nn.Identity() if same else ChannelMap.padding(channels, width, stride=stride)
    first = ResidualBlock(channels, width, stride=stride, shortcut=shortcut)
    others = (ResidualBlock(width, width, stride=1, shortcut=nn.Identity()) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)


def resnet20(num_classes: int = 10) -> CifarResNet:
    """Return the network with 20 layers, 0.27 M parameters and 40.6 M MACs, untrained, with `num_classes` logits.

    Example:
        >>> import torch
        >>> resnet20()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return CifarResNet(20, num_classes=num_classes)


def resnet56(num_classes: int = 10) -> CifarResNet:
    """Return the network with 56 layers, 0.85 M parameters and 125.5 M MACs, untrained, with `num_classes` logits.

    Example:
        >>> sum(parameter.numel() for parameter in resnet56().parameters())
        853018
    """
    return CifarResNet(56, num_classes=num_classes)


def resnet110(num_classes: int = 10) -> CifarResNet:
    """Return the network with 110 layers, 1.73 M parameters and 252.9 M MACs, untrained, with `num_classes` logits.

    Example:
        >>> sum(parameter.numel() for parameter in resnet110().parameters())
        1727962
    """
    return CifarResNet(110, num_classes=num_classes)
