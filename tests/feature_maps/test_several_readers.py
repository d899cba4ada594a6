"""Tensors that several operations read: who only looks, who is waited for, and when a map is let go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from feature_maps_for_tests import assert_same, randomise, tap_all
from secateur.feature_maps import tapped

Keep = Callable[[str, Tensor], Tensor]


def check(model: nn.Module, images: Tensor, *, grad: Any = torch.no_grad) -> None:
    """Compare what the tap hands over with what the network keeps of itself in a pass of its own.

    A copy is an operation too: in the tapped pass nothing is kept.
    """
    expected: dict[str, Tensor] = {}

    def keep(layer: str, maps: Tensor) -> Tensor:
        expected[layer] = maps.clone()
        return maps

    with torch.no_grad():
        model(images, keep)
    found = tap_all(model, images, lambda layer, maps: maps, grad=grad)
    assert found.keys() == expected.keys()
    for layer, maps in expected.items():
        assert len(found[layer]) == 1, layer
        assert_same(found[layer][0], maps)


class Gated(nn.Module):
    """The block of SE-ResNet: norm, squeeze and excitation, sum, ReLU; nothing activates the map before the sum."""

    def __init__(self, squeeze: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.reduce, self.expand = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.squeeze = squeeze

    def forward(self, x: Tensor, keep: Keep) -> Tensor:
        x = keep("stem", F.relu_(self.stem(x)))
        y = self.norm(self.conv(x))
        inner = keep("reduce", F.relu(self.reduce(self.squeeze(y))))
        gate = keep("expand", torch.sigmoid(self.expand(inner)))
        return keep("conv", F.relu_(y * gate + x)).exp_()


@pytest.mark.parametrize(
    "squeeze",
    [
        lambda y: y.mean((2, 3), keepdim=True),
        lambda y: F.adaptive_avg_pool2d(y, 1),
        lambda y: F.adaptive_max_pool2d(y, 1),
        lambda y: F.avg_pool2d(y, y.shape[2:]),
        lambda y: y.amax((2, 3), keepdim=True),
    ],
)
@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_pool_of_a_gate_only_looks(squeeze: Callable[[Tensor], Tensor], grad: type) -> None:
    check(randomise(Gated(squeeze)), torch.randn(2, 3, 6, 6), grad=grad)


class PreActivation(nn.Module):
    """A block whose shortcut convolution reads the bare sum, before or after the norm does."""

    def __init__(self, *, shortcut_first: bool) -> None:
        super().__init__()
        self.stem, self.deep, self.shortcut = (nn.Conv2d(i, 4, 3, padding=1) for i in (3, 4, 4))
        self.norm, self.last = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.shortcut_first = shortcut_first

    def forward(self, x: Tensor, keep: Keep) -> Tensor:
        x = self.stem(x)
        shortcut = self.shortcut(x) if self.shortcut_first else None
        y = keep("stem", F.relu(self.norm(x)))
        x = self.deep(y) + (self.shortcut(x) if shortcut is None else shortcut)
        return keep("shortcut", keep("deep", F.relu_(self.last(x)))).exp_()


@pytest.mark.parametrize("shortcut_first", [False, True])
def test_a_shortcut_that_reads_the_bare_sum_does_not_end_its_trail(shortcut_first: bool) -> None:
    check(randomise(PreActivation(shortcut_first=shortcut_first)), torch.randn(2, 3, 6, 6))


class NormedShortcut(nn.Module):
    """A convolution reads the stem, whose norm comes after, and the two are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor, keep: Keep) -> Tensor:
        x = self.stem(x)
        y = self.deep(x)
        return keep("deep", keep("stem", F.relu_(self.norm(x) + y))).exp_()


def test_behind_the_norm_a_sum_is_followed_again() -> None:
    check(randomise(NormedShortcut()), torch.randn(2, 3, 6, 6))


class Bottlenecks(nn.Module):
    """Linear bottlenecks in a row: each block reads the sum before it and adds to it, and nothing activates a sum."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(i, 4, 3, padding=1) for i in (3, 4, 4))
        self.in_place = in_place

    def forward(self, x: Tensor, keep: Keep) -> Tensor:
        x = keep("convs.0", self.convs[0](x))
        for i in (1, 2):
            y = self.convs[i](x)
            x = keep(f"convs.{i}", x.add_(y) if self.in_place else x + y)
        return x.exp_()


@pytest.mark.parametrize("in_place", [False, True])
def test_a_sum_that_a_convolution_has_read_is_not_carried_into_the_next(in_place: bool) -> None:
    check(Bottlenecks(in_place=in_place).eval(), torch.randn(2, 3, 6, 6))


class Forgetful(nn.Module):
    """An output that nothing reads, one that only a convolution reads, and one that the network keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.unread, self.read, self.kept, self.after, self.end = (nn.Conv2d(3, 3, 1) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        self.unread(x)
        y = self.read(x)
        kept = self.kept(y)
        y = self.after(kept)
        del kept
        return self.end(y)


def test_a_map_is_handed_over_once_the_network_lets_it_go() -> None:
    """By the next layer at the latest; one that only convolutions have read may still be normalised until then."""
    order: list[str] = []
    model = Forgetful().eval()
    for layer, module in model.named_children():
        module.register_forward_pre_hook(lambda *_, layer=layer: order.append(f"call {layer}"))
    with torch.no_grad(), tapped(model, lambda layer, maps: order.append(layer)):
        model(torch.randn(1, 3, 4, 4))
    assert order == [
        "call unread",
        "call read",
        "unread",
        "call kept",
        "call after",
        "call end",
        "read",
        "kept",
        "after",
        "end",
    ]


def test_a_map_that_is_reached_through_a_view_or_an_alias_is_not_let_go() -> None:
    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            alias = self.first(x).detach()
            other = self.second(x)
            return F.relu_(alias) * other

    model, images = Aliased().eval(), torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        expected = F.relu(model.first(images))
    assert_same(tap_all(model, images)["first"][0], expected)


@pytest.mark.parametrize(
    "to_last_and_back",
    [
        lambda x, norm: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        lambda x, norm: norm(x.transpose(1, 3)).transpose(3, 1),
        lambda x, norm: norm(x.permute(0, -2, -1, -3)).movedim(-1, 1),
        lambda x, norm: F.gelu(norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
    ],
)
def test_a_norm_over_channels_that_come_last_is_followed(to_last_and_back: Callable[..., Tensor]) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            return to_last_and_back(self.conv(x), self.norm).exp()

    model, images = randomise(Last()), torch.randn(2, 3, 5, 6)
    found = tap_all(model, images)["conv"]
    assert len(found) == 1
    assert_same(found[0], to_last_and_back(model.conv(images), model.norm))
