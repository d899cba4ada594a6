"""The gate is what the paper says it is, number by number, and stands where removal acts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from networks_for_tests import Chunked, Depthwise, Grouped, Residual
from references_gates import code_by_loops
from secateur import channel_groups
from secateur.channel_graph import masked
from secateur.errors import NetworkError, PlanError
from secateur.gates import ChannelGate, GateRecipe
from secateur.gates.attached import Attached, places
from secateur.gates.gate import pool_size
from secateur.networks import resnet20

IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3))


@settings(max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    alpha=st.floats(0.1, 3),
    seed=st.integers(0, 99),
)
def test_equals_the_naive_twin(shape: tuple[int, int, int, int], alpha: float, seed: int) -> None:
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    gate = ChannelGate(maps.shape, generator=torch.Generator().manual_seed(seed))
    gate.alpha = alpha
    with torch.no_grad():
        gate.bias.uniform_(-1, 1)
        found = gate(maps)
    naive = code_by_loops(maps.tolist(), gate.weight.tolist(), gate.bias.tolist(), alpha, pool=gate.pool)
    torch.testing.assert_close(found, torch.tensor(naive), rtol=1e-3, atol=1e-5)


def test_each_image_gets_its_share_of_the_gradient() -> None:
    maps = torch.rand(5, 2, 3, 3).expand(5, 2, 3, 3).clone().requires_grad_()
    gate = ChannelGate(maps.shape, gain=0.1)
    gate(maps).sum().backward()
    alone = maps.detach().mean(0, keepdim=True).requires_grad_()
    gate(alone).sum().backward()
    for gradient in maps.grad:
        torch.testing.assert_close(gradient, alone.grad[0] / 5)


def test_one_code_for_the_batch_or_one_for_each_image() -> None:
    maps = torch.rand(3, 4, 5, 5)
    weights = torch.Generator().manual_seed(0)
    assert ChannelGate(maps.shape, generator=weights)(maps).shape == (4,)
    alone = ChannelGate(maps.shape, batch_average=False)
    codes = alone(maps)
    assert codes.shape == (3, 4)
    torch.testing.assert_close(codes[1], alone(maps[1:2])[0])


def test_no_code_before_training_and_the_stored_one_after() -> None:
    gate = ChannelGate(torch.Size((2, 3, 4, 4)))
    with pytest.raises(NetworkError, match="no code before it is trained"):
        gate.eval()(torch.rand(2, 3, 4, 4))
    gate.settle((0, 2))
    assert gate(torch.rand(2, 3, 4, 4)).tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("maps", "most", "pool"),
    [
        ((8, 64, 7, 7), 2**24, 1),
        ((8, 64, 8, 8), 2**24, 2),
        ((8, 64, 112, 112), 2**24, 2),
        ((8, 64, 112, 112), 10**6, 8),
    ],
)
def test_large_maps_are_pooled_until_the_weights_fit(maps: tuple[int, ...], most: int, pool: int) -> None:
    assert pool_size(torch.Size(maps), most=most) == pool
    gate = ChannelGate(torch.Size((1, *maps[1:])), most=most)
    assert gate.weight.numel() <= most
    assert gate(torch.rand(1, *maps[1:])).shape == (maps[1],)


def test_too_many_channels_are_refused() -> None:
    with pytest.raises(NetworkError, match="20 channels take 400 weights to select from; at most 399 are allowed"):
        pool_size(torch.Size((1, 20, 1, 1)), most=399)


def flat() -> nn.Module:
    """A linear layer that reads four positions of each channel, and one that reads vectors."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(5), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 5)
    )


NETWORKS: dict[str, Any] = {
    "residual": Residual, "depthwise": Depthwise, "grouped": Grouped, "chunked": Chunked, "flat": flat,
    "resnet20": resnet20,
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_settled_gate_computes_what_masking_computes(name: str) -> None:
    """All layers that read a group, streams of residual blocks included, hear the same code."""
    network = NETWORKS[name]().eval()
    groups = channel_groups(network, IMAGES)
    attached = Attached(network, groups, IMAGES, GateRecipe())
    kept = {name: tuple(range(0, group.width, 2)) for name, group in groups.items()}
    for group, channels in kept.items():
        attached.gates[group].settle(channels)
    with torch.no_grad():
        before = network(IMAGES)
        with masked(network, groups, kept):
            expected = network(IMAGES)
        with attached.attached(list(groups)):
            found = network(IMAGES)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(before, expected, atol=1e-4)
        assert torch.equal(network(IMAGES), before)
    assert attached.codes.keys() == groups.keys()


def test_the_code_is_made_of_what_the_first_reader_reads() -> None:
    network = Residual().eval()
    groups = channel_groups(network, IMAGES)
    found = places(network, groups, IMAGES[:2])
    assert {name: place.reader.layer for name, place in found.items()} == {"stem": "first", "first": "second"}
    assert found["stem"].maps == (2, 8, 12, 12)
    assert [member.layer for member in found["stem"].consumers] == ["first", "head"]


def test_groups_that_take_no_gate() -> None:
    network = resnet20().eval()
    streams = channel_groups(network, IMAGES, residual="mask")
    with pytest.raises(PlanError, match=r"'layer1\.0\.conv2' are only masked"):
        places(network, {"layer1.0.conv2": streams["layer1.0.conv2"]}, IMAGES)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))

    tokens = torch.randn(2, 5, 6)
    with pytest.raises(NetworkError, match=r"'first' take no gate: second reads tokens"):
        places(Tokens(), channel_groups(Tokens(), tokens), tokens)

    class Parts(nn.Module):
        """Of two branches that a depthwise convolution joins, one is read on its own before."""

        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.alone = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.depthwise, self.last = nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            left = self.left(x)
            return self.alone(left) + self.last(self.depthwise(torch.cat([left, self.right(x)], 1)))

    network = Parts()
    with pytest.raises(NetworkError, match="take no gate: alone, which reads them first, does not read them one like"):
        places(network, channel_groups(network, IMAGES), IMAGES)


def test_a_reader_that_is_called_twice_reads_one_code() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1, stride=2)
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.fine(x)).mean((2, 3)) + self.head(self.coarse(x)).mean((2, 3))

    torch.manual_seed(0)
    network = Pyramid()
    attached = Attached(network, channel_groups(network, IMAGES), IMAGES, GateRecipe())
    for images in (IMAGES, 2 * IMAGES):
        with attached.attached(["fine"]), torch.no_grad():
            found, code = network(images), attached.codes["fine"][:, None, None]
            torch.testing.assert_close(code[:, 0, 0], attached.gates["fine"](network.fine(images)))
        fine, coarse = (network.head(code * layer(images)) for layer in (network.fine, network.coarse))
        torch.testing.assert_close(found, fine.mean((2, 3)) + coarse.mean((2, 3)))
