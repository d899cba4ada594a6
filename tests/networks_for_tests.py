"""Small networks, one graph shape each, that several rooms are tested on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def randomise_batch_norm(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics and gains unlike its initial ones, so that forgetting one is noticed."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model


class _Headed(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, 5)

    def classify(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


class Residual(_Headed):
    """One block with a shortcut: the stem and the block's second convolution share their channels."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.body_norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        randomise_batch_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.body_norm(self.first(x)))
        return self.classify(torch.relu(x + self.norm(self.second(y))))


class Depthwise(_Headed):
    """An inverted residual without its shortcut: expand, depthwise, project; h-swish maps no zero to zero after BN."""

    def __init__(self) -> None:
        super().__init__(6)
        self.expand = nn.Conv2d(3, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project = nn.Conv2d(8, 6, 1)
        randomise_batch_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardswish(self.norm(self.expand(x)))
        return self.classify(torch.sigmoid(self.project(functional.silu(self.depthwise(x)))))


class Grouped(_Headed):
    """A grouped convolution of two blocks between two plain ones."""

    def __init__(self) -> None:
        super().__init__(6)
        self.before = nn.Conv2d(3, 8, 3)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.after = nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(torch.relu(self.after(torch.relu(self.grouped(torch.relu(self.before(x)))))))


class Chunked(_Headed):
    """One convolution whose halves go to different consumers."""

    def __init__(self) -> None:
        super().__init__(6)
        self.both = nn.Conv2d(3, 8, 3)
        self.left = nn.Conv2d(4, 6, 1)
        self.right = nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.relu(self.both(x)).chunk(2, dim=1)
        return self.classify(torch.relu(self.left(left)) + torch.relu(self.right(right)))


class Concatenated(nn.Module):
    """A batch norm that reads two convolutions at once."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.norm, self.last = nn.BatchNorm2d(10), nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1))))


class DepthwiseUnet(_Headed):
    """A depthwise convolution over the encoder's channels and those that come back up: each layer makes only some."""

    def __init__(self) -> None:
        super().__init__(6)
        self.encoder = nn.Conv2d(3, 6, 3, padding=1)
        self.encoder_norm = nn.BatchNorm2d(6)
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 5, 2, stride=2)
        self.depthwise = nn.Conv2d(11, 11, 3, padding=1, groups=11)
        self.project = nn.Conv2d(11, 6, 1)
        randomise_batch_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.encoder_norm(self.encoder(x)))
        both = torch.cat([x, self.up(torch.relu(self.down(x)))], 1)
        return self.classify(torch.relu(self.project(torch.relu(self.depthwise(both)))))


class ResidualOverConcat(_Headed):
    """A shortcut around a layer that reads two others side by side."""

    def __init__(self) -> None:
        super().__init__(13)
        self.left = nn.Conv2d(3, 8, 3)
        self.right = nn.Conv2d(3, 5, 3)
        self.body = nn.Conv2d(13, 13, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(torch.cat([self.left(x), self.right(x)], 1))
        return self.classify(torch.relu(x + self.body(x)))


class ConcatTwice(_Headed):
    """A feature map concatenated with itself."""

    def __init__(self) -> None:
        super().__init__(6)
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(16, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.classify(torch.relu(self.second(torch.cat([x, x], 1))))


class ChannelShuffle(_Headed):
    """A shuffle between two convolutions, which Torch-Pruning takes for an identity."""

    def __init__(self) -> None:
        super().__init__(6)
        self.moved = nn.Conv2d(3, 8, 3)
        self.fine = nn.Conv2d(8, 8, 3)
        self.last = nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.moved(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.classify(torch.relu(self.last(torch.relu(self.fine(x)))))


class PermutedFlatten(nn.Module):
    """Channels last before the flatten, so that a channel's columns are not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 6, 3, stride=4)
        self.moved = nn.Conv2d(6, 8, 3)
        self.head = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.moved(torch.relu(self.fine(x))))
        return self.head(x.permute(0, 2, 3, 1).flatten(1))


class ZeroPaddedShortcut(_Headed):
    """The parameter-free shortcut of the CIFAR ResNets: every second pixel, new channels filled with zeros."""

    def __init__(self) -> None:
        super().__init__(16)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.outer = nn.Conv2d(12, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.classify(torch.relu(shortcut + self.outer(torch.relu(self.inner(x)))))


def torchvision_network(name: str, *, classes: int = 10) -> nn.Module:
    """Return one of torchvision's networks with random weights; only tests that ask for one need torchvision."""
    import torchvision

    slow_start = {"init_weights": False} if name.startswith("vgg") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=classes, **slow_start)


class TwoBranches(nn.Module):
    """Two convolutions concatenated, a convolution that is called twice, a flatten."""

    def __init__(self, left: int = 4, right: int = 6) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, left, 3, padding=1)
        self.right = nn.Conv2d(3, right, (1, 3), padding=(0, 1), stride=1)
        self.meet = nn.Conv2d(left + right, 5, 1)
        self.twice = nn.Conv2d(5, 5, 3, padding=1)
        self.head = nn.Linear((left + right) * 64 + 5, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], 1).relu()
        y = self.twice(self.twice(self.meet(x))).mean((2, 3))
        return self.head(torch.cat([x.flatten(1), y], 1))
