"""Views of a feature map: what is only looked at, gates by way of one, and pools over one axis, done over two."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.feature_maps import tapped


def looked_at_as_rows(y: Tensor) -> Tensor:
    return y.permute(0, 2, 3, 1).mean((1, 2))


def looked_at_flat(y: Tensor) -> Tensor:
    return y.flatten(2).mean(-1)


def looked_at_transposed(y: Tensor) -> Tensor:
    return y.transpose(1, 3).amax((1, 2))


@pytest.mark.parametrize("look", [looked_at_as_rows, looked_at_flat, looked_at_transposed])
@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad])
def test_a_view_that_is_only_looked_at_is_left_behind(look: Callable[[Tensor], Tensor], grad: type) -> None:
    """The network goes on from the tensor itself, whose axes lie as they did."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.gate = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            gate = torch.sigmoid(self.gate(look(y)))
            return torch.relu(self.norm(y)) * gate[:, :, None, None]

    torch.manual_seed(0)
    network, images, found = Gated().eval(), torch.randn(2, 3, 6, 6), {}
    with grad(), tapped(network, lambda layer, maps: found.update({layer: maps.clone()}), layers=["conv"]):
        network(images)
    assert torch.equal(found["conv"], torch.relu(network.norm(network.conv(images))))


def test_a_gate_by_way_of_a_view_does_not_end_before_the_sum() -> None:
    class Excited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return torch.relu(x + y * torch.sigmoid(self.gate(looked_at_flat(y)))[:, :, None, None])

    torch.manual_seed(0)
    network, images, found = Excited().eval(), torch.randn(2, 4, 6, 6), {}
    with torch.no_grad(), tapped(network, lambda layer, maps: found.update({layer: maps.clone()}), layers=["conv"]):
        expected = network(images)
    assert torch.equal(found["conv"], expected)


class Pooled(nn.Module):
    """A convolution, a pool, a norm and an activation, over one or two axes, in this order or with the pool last."""

    def __init__(self, axes: int, pool: str, *, last: bool) -> None:
        super().__init__()
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if axes == 1 else (nn.Conv2d, nn.BatchNorm2d)
        self.conv, self.norm, self.last = conv(3, 4, 3), norm(4), last
        self.pool = getattr(nn, f"{pool}{axes}d")(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.pool(torch.relu(self.norm(y))) if self.last else torch.relu(self.norm(self.pool(y)))


@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("pool", ["AvgPool", "MaxPool"])
def test_pools_over_one_axis_are_followed_as_those_over_two(pool: str, last: bool, grad: type) -> None:
    reaches_output = {}
    for axes in (1, 2):
        torch.manual_seed(0)
        network = Pooled(axes, pool, last=last).eval()
        images, found = torch.randn(2, 3, *[12] * axes), {}
        with grad(), tapped(network, lambda layer, maps, found=found: found.update({layer: maps.clone()})):
            output = network(images)
        before = torch.relu(network.norm(network.conv(images)))
        reaches_output[axes] = found["conv"].shape == output.shape
        assert torch.equal(found["conv"], output if reaches_output[axes] else before)
    assert reaches_output[1] == reaches_output[2]


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool1d(1), nn.AdaptiveMaxPool1d(1), lambda y: y.mean(-1, keepdim=True)])
@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad])
def test_a_gate_over_one_axis_only_looks(pool: Callable[[Tensor], Tensor], grad: type) -> None:
    class Excited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate = nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return torch.relu(x + y * torch.sigmoid(self.gate(pool(y).flatten(1)))[:, :, None])

    torch.manual_seed(0)
    network, images, found = Excited().eval(), torch.randn(2, 4, 9), {}
    with grad(), tapped(network, lambda layer, maps: found.update({layer: maps.clone()}), layers=["conv"]):
        expected = network(images)
    assert torch.equal(found["conv"], expected)
