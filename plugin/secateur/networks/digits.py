"""A small residual network for the 8x8 digits of scikit-learn, after [He2016]_.

Its shortcuts are projections (1x1 convolution and batch norm) wherever the width changes, so every channel can be
pruned: those inside the blocks and those of the stream that the shortcuts carry.

.. [He2016] He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. CVPR 2016 (option B of section 4.1).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from secateur.networks.residual_block import ResidualBlock


class DigitsResNet(nn.Module):
    """A residual network for images (N, 1, 8, 8) with values in [0, 1]; gives logits (N, num_classes).

    Three stages, of 48 channels at 8x8, 96 at 8x8 and 96 at 4x4: 0.51 M parameters, 16.4 M MACs.

    Example:
        >>> [len(stage) for stage in (DigitsResNet().layer1, DigitsResNet().layer2, DigitsResNet().layer3)]
        [1, 1, 2]
    """

    def __init__(self, *, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 48, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(48)
        self.layer1 = nn.Sequential(_block(48, 48, stride=1))
        self.layer2 = nn.Sequential(_block(48, 96, stride=1))
        self.layer3 = nn.Sequential(_block(96, 96, stride=2), _block(96, 96, stride=1))
        self.linear = nn.Linear(96, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.linear(functional.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def _block(channels: int, width: int, *, stride: int) -> ResidualBlock:
    shortcut: nn.Module = nn.Identity()
    if stride != 1 or channels != width:
        projection = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
        shortcut = nn.Sequential(projection, nn.BatchNorm2d(width))
    return ResidualBlock(channels, width, stride=stride, shortcut=shortcut)


def digits_resnet(num_classes: int = 10) -> DigitsResNet:
    """Return the network for scikit-learn's digits, untrained, with `num_classes` logits.

    Example:
        >>> import torch
        >>> digits_resnet()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return DigitsResNet(num_classes=num_classes)
