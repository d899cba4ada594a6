"""The 16-layer network of [Simonyan2015]_ with batch norm for 32x32 images, as pruned in [Lin2020]_.

Five stages of 3x3 convolutions, each with batch norm and ReLU, of 64, 128, 256, 512 and 512 channels; a 2x2 max pool
between stages; a 2x2 average pool and two linear layers, with batch norm between them. The names of the parameters
(`features.conv0`, `features.norm0`, ..., `classifier.linear1`, `classifier.norm1`, `classifier.linear2`) are those of
the networks trained for [Lin2020]_, so their state dicts load strictly; the numbers skip those of the pools.

.. [Lin2020] M. Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020.
.. [Simonyan2015] Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition. ICLR 2015.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVGG(nn.Module):
    """A plain chain of 13 convolutions for images (N, 3, 32, 32), normalised; gives logits (N, num_classes).

    Args:
        num_classes: number of logits.

    Deviations: [Simonyan2015]_ has no batch norm and three linear layers of 4096 units for 224x224 images. The code
    published with [Lin2020]_ starts the gains of batch norm at one half; here they start at one.

    Example:
        >>> [name for name, module in CifarVGG().features.named_children() if isinstance(module, nn.MaxPool2d)]
        ['pool2', 'pool5', 'pool9', 'pool13']
    """

    def __init__(self, *, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels, index = 3, 0
        for stage in _STAGES:
            if channels != 3:
                self.features.add_module(f"pool{index}", nn.MaxPool2d(2))
                index += 1
            for width in stage:
                self.features.add_module(f"conv{index}", nn.Conv2d(channels, width, 3, padding=1))
                self.features.add_module(f"norm{index}", nn.BatchNorm2d(width))
                self.features.add_module(f"relu{index}", nn.ReLU(inplace=True))
                channels, index = width, index + 1
        self.classifier = nn.Sequential()
        self.classifier.add_module("linear1", nn.Linear(channels, 512))
        self.classifier.add_module("norm1", nn.BatchNorm1d(512))
        self.classifier.add_module("relu1", nn.ReLU(inplace=True))
        self.classifier.add_module("linear2", nn.Linear(512, num_classes))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # every layer here has a bias

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        logits: Tensor = self.classifier(pooled)
        return logits


def vgg16_bn(num_classes: int = 10) -> CifarVGG:
    """Return the network with 15 layers, 14.99 M parameters and 313.5 M MACs, untrained, with `num_classes` logits.

    Example:
        >>> import torch
        >>> vgg16_bn().eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return CifarVGG(num_classes=num_classes)
