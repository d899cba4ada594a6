"""Channels chosen and weights solved for layer by layer: the choice is the best one, the weights are compensate's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cases_for_tests import cases
from networks_for_tests import (
    ConcatTwice,
    Depthwise,
    Grouped,
    PermutedFlatten,
    Residual,
    ZeroPaddedShortcut,
    randomise_batch_norm,
)
from secateur import apply_plan, channel_groups, compensate, verify_pruning
from secateur.channel_map import with_channel_maps
from secateur.errors import ConfigError, DataError, PlanError, SecateurWarning
from secateur.networks import resnet20
from secateur.networks.cifar_densenet import CifarDenseNet
from secateur.records import PruningPlan
from secateur.recovery import reconstruct

pytestmark = pytest.mark.filterwarnings("ignore:fewer rows than unknowns")
IMAGES = [torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]


class Chain(nn.Module):
    """Three convolutions, two of which have a reader."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(6, 5, 3, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.third = nn.Conv2d(5, 4, 1)
        randomise_batch_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.relu(self.norm(self.second(torch.relu(self.first(x))))))


def half_of(network: nn.Module) -> PruningPlan:
    """Keep the first half of every group: widths that matter, channels that should not."""
    groups = channel_groups(network, IMAGES[0][:2])
    kept = {name: tuple(range(group.width // 2)) for name, group in groups.items()}
    return PruningPlan(tuple(groups.values()), kept, "macs", 2.0, 1.0, 1.0, ties=dict.fromkeys(kept, 2))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "chain": Chain,
    "residual": Residual,
    "depthwise": Depthwise,
    "grouped": Grouped,
    "the same twice": ConcatTwice,
    "flattened": PermutedFlatten,
    "zero-padded": lambda: with_channel_maps(ZeroPaddedShortcut().eval(), IMAGES[0][:2]),
    "resnet20": lambda: with_channel_maps(resnet20().eval(), IMAGES[0][:2]),
    "densenet16": lambda: CifarDenseNet(16),  # as DenseNet-40, with four layers a block instead of twelve
}


@pytest.mark.parametrize("target", ["sum", "layer"])
@pytest.mark.parametrize("build", cases(NETWORKS, thorough=["resnet20"]))
def test_it_equals_compensating_its_own_choice(build: Callable[[], nn.Module], target: str) -> None:
    """Solving beside the choice, on the dense network with silent channels, is solving on the network cut by it."""
    torch.manual_seed(0)
    network = randomise_batch_norm(build()).eval()
    before = copy.deepcopy(network.state_dict())
    plan = half_of(network)
    done = reconstruct(network, plan, IMAGES, rows=300, target=target)
    assert done.plan.widths == plan.widths
    verify_pruning(network, apply_plan(network, done.plan), done.plan, IMAGES[0])
    cut = apply_plan(network, done.plan)
    fits = compensate(network, cut, done.plan, IMAGES, rows=300, target=target).layers
    assert [fit.layer for fit in fits] == [fit.layer for fit in done.compensation.layers]
    with torch.no_grad():
        for images in IMAGES:
            torch.testing.assert_close(done.model(images), cut(images), rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def naive_choice(
    U: Tensor, T: Tensor, channels: int, keep: int, ridge: float, *, beside: Tensor | None = None
) -> list[int]:
    """Take away, one by one, the channel without which a ridge regression of T on the rest's columns loses least.

    `beside`: columns that stay whatever goes.
    """
    own = U.shape[1]
    U = U if beside is None else torch.cat([U, beside], 1)
    U, T = U - U.mean(0), T - T.mean(0)
    r = ridge * (U.T @ U).diagonal().mean()
    left = list(range(channels))

    def error(stay: list[int]) -> float:
        columns = [c * own // channels + k for c in stay for k in range(own // channels)]
        X = U[:, columns + list(range(own, U.shape[1]))]
        W = torch.linalg.solve(X.T @ X + r * torch.eye(X.shape[1], dtype=X.dtype), X.T @ T)
        return float((X @ W - T).square().sum() + r * W.square().sum())

    while len(left) > keep:
        left.remove(min(left, key=lambda c: error([other for other in left if other != c])))
    return left


def test_the_choice_is_the_naive_one() -> None:
    torch.manual_seed(0)
    network = Chain().eval()
    done = reconstruct(network, half_of(network), IMAGES, rows=10**6)
    images = torch.cat(IMAGES)
    with torch.no_grad():
        first = torch.relu(network.first(images))
        wanted = network.second(first)
        rows = nn.functional.unfold(first, 3).transpose(1, 2).flatten(0, 1).double()
        gain = network.norm.weight / (network.norm.running_var + network.norm.eps).sqrt()
        outputs = wanted.flatten(2).transpose(1, 2).flatten(0, 1).double() * gain.double()
        assert list(done.plan["first"]) == naive_choice(rows, outputs, 6, 3, 1e-2)

    reads = half_of(network)
    alone = reconstruct(network, replace(reads, kept={"second": reads["second"]}), IMAGES, rows=10**6)
    with torch.no_grad():
        rows = torch.relu(network.norm(wanted)).movedim(1, -1).flatten(0, 2).double()
        outputs = network.third(torch.relu(network.norm(wanted))).movedim(1, -1).flatten(0, 2).double()
    assert list(alone.plan["second"]) == naive_choice(rows, outputs, 5, 2, 1e-2)


class Fire(nn.Module):
    """Two layers whose maps, side by side, one layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(16, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(torch.cat([self.left(x), self.right(x)], 1)))


@pytest.mark.parametrize("seed", range(4))
def test_the_second_group_of_a_reader_is_chosen_for_all_that_the_reader_gave(seed: int) -> None:
    torch.manual_seed(seed)
    network = Fire().eval()
    done = reconstruct(network, half_of(network), IMAGES, rows=10**6)
    with torch.no_grad():
        maps = torch.relu(torch.cat([network.left(torch.cat(IMAGES)), network.right(torch.cat(IMAGES))], 1))
        wanted = network.head(maps).movedim(1, -1).flatten(0, 2).double()
        left, right = maps.movedim(1, -1).flatten(0, 2).double().split(8, 1)
    first = naive_choice(left, wanted, 8, 4, 1e-2, beside=right)
    assert list(done.plan["left"]) == first
    assert list(done.plan["right"]) == naive_choice(right, wanted, 8, 4, 1e-2, beside=left[:, first])


def test_what_is_redundant_goes() -> None:
    """Channels that copy others are the ones to go, and the answers stay."""
    torch.manual_seed(0)
    network = Chain().eval()
    with torch.no_grad():
        for copied, original in ((0, 3), (1, 4), (2, 5)):
            network.first.weight[copied] = 2 * network.first.weight[original]
            network.first.bias[copied] = 2 * network.first.bias[original]
    plan = replace(half_of(network), kept={"first": (0, 1, 2)})
    done = reconstruct(network, plan, IMAGES, ridge=1e-9)
    assert [sorted(c % 3 for c in done.plan["first"])] == [[0, 1, 2]]
    with torch.no_grad():
        torch.testing.assert_close(done.model(IMAGES[0]), network(IMAGES[0]), rtol=1e-3, atol=1e-4)


def test_channels_with_several_readers_are_those_of_the_plan() -> None:
    torch.manual_seed(0)
    network = Residual().eval()
    plan = half_of(network)
    kept = {name: tuple(range(1, 1 + len(channels))) for name, channels in plan.kept.items()}
    done = reconstruct(network, replace(plan, kept=kept), IMAGES)
    assert done.plan["stem"] == kept["stem"], "the stem's channels are read by the block, the shortcut and the head"
    assert done.plan.settings["selection"] == "reconstruction"
    assert done.plan.ties == {"stem": 2}, "what is chosen anew is decided by no tie"


def test_equations_that_do_not_fit_leave_the_choice_to_the_plan() -> None:
    torch.manual_seed(0)
    network = PermutedFlatten().eval()
    plan = half_of(network)
    with pytest.warns(SecateurWarning, match=r"fewer rows than unknowns.*head \("):
        done = reconstruct(network, plan, IMAGES, memory=110_000, rows=100)
    assert "do not fit" in done.compensation.left["fine"]
    assert done.plan["fine"] == plan["fine"]
    assert all(fit.after <= fit.before for fit in done.compensation.layers)


def test_bad_input_is_refused() -> None:
    network = Chain().eval()
    plan = half_of(network)
    with pytest.raises(ConfigError, match="ridge"):
        reconstruct(network, plan, IMAGES, ridge=0)
    with pytest.raises(DataError, match="empty"):
        reconstruct(network, plan, [])
    with pytest.raises(PlanError):
        reconstruct(Depthwise(), plan, IMAGES)
    with pytest.raises(DataError, match="NaN"):
        reconstruct(network, plan, [torch.full((2, 3, 16, 16), float("nan"))])
