"""The basic block of residual networks [He2016]_, with the shortcut left to the network.

.. [He2016] He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. CVPR 2016, section 3.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut: (N, C, H, W) -> (N, width, H / stride, W / stride).

    Formula: relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)). The activations are functional: no module named relu
    exists that could be hooked.

    Args:
        channels: C, of the input.
        width: channels of the output and between the convolutions.
        stride: of the first convolution.
        shortcut: brings the input to the shape of the output.
    """

    def __init__(self, channels: int, width: int, *, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))
