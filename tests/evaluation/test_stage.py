"""A candidate on a stage computes what the masked dense network computes, whatever the stage has cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from networks_for_tests import (
    ChannelShuffle,
    Chunked,
    ConcatTwice,
    Depthwise,
    Grouped,
    PermutedFlatten,
    Residual,
    ZeroPaddedShortcut,
    randomise_batch_norm,
)
from secateur.channel_graph import apply_plan, channel_groups
from secateur.channel_graph.masks import masked
from secateur.channel_graph.narrowing import cut_layer, narrowed, removals
from secateur.errors import PlanError
from secateur.evaluation.stage import Stage, shared_channels
from secateur.networks import resnet20
from secateur.protocols import Kept
from secateur.records import ChannelGroup, PruningPlan


class Normalised(nn.Module):
    """A group of channels that pass a normalisation over channels, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.GroupNorm(1, 8)
        self.second = nn.Conv2d(8, 6, 3)
        self.last = nn.Conv2d(6, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.norm(self.first(x)))))).mean((2, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "depthwise": Depthwise,
    "grouped": Grouped,
    "chunked": Chunked,
    "concat": ConcatTwice,
    "shuffle": ChannelShuffle,
    "permuted": PermutedFlatten,
    "padded": ZeroPaddedShortcut,
    "normalised": Normalised,
    "resnet20": resnet20,
}


def draw(groups: dict[str, ChannelGroup], kept: Kept, generator: torch.Generator) -> Kept:
    """Return fewer channels of some groups than `kept`."""
    found = dict(kept)
    for name, group in groups.items():
        there = kept.get(name, tuple(range(group.width)))
        if float(torch.rand((), generator=generator)) < 0.5:
            count = int(torch.randint(1, len(there) + 1, (), generator=generator))
            chosen = torch.randperm(len(there), generator=generator)[:count]
            found[name] = tuple(sorted(there[i] for i in chosen.tolist()))
    return found


@pytest.mark.parametrize("residual", ["joint", "mask"])
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_candidate_on_a_stage_is_the_masked_network(build: Callable[[], nn.Module], residual: str) -> None:
    network = randomise_batch_norm(build()).eval()
    images = torch.randn(3, 3, 32, 32) if build is resnet20 else torch.randn(3, 3, 17, 17)
    if build is ZeroPaddedShortcut:
        images = torch.randn(3, 3, 16, 16)
    groups = dict(channel_groups(network, images, residual=residual))
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        shared = shared_channels(groups, [draw(groups, {}, generator)])
        stage = Stage(network, groups, shared)
        for _ in range(3):
            candidate = draw(groups, shared, generator)
            with torch.inference_mode():
                with masked(network, groups, candidate):
                    wanted = network(images)
                with stage.candidate(candidate):
                    torch.testing.assert_close(stage.network(images), wanted, rtol=1e-4, atol=1e-4)
                with masked(network, groups, shared):
                    wanted = network(images)
                torch.testing.assert_close(stage.network(images), wanted, rtol=1e-4, atol=1e-4)


def test_channels_behind_a_normalisation_over_channels_are_masked_and_others_cut() -> None:
    network = Normalised().eval()
    groups = channel_groups(network, torch.randn(2, 3, 16, 16))
    stage = Stage(network, groups, {"first": (0, 1), "second": (0, 3)})
    assert stage.network.first.out_channels == 8
    assert stage.network.second.out_channels == 2
    assert stage.layers({"first": (0,), "second": (0, 3)}) == ["second"]


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_cutting_in_two_steps_is_cutting_at_once(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = ConcatTwice().eval()
    groups = dict(channel_groups(network, torch.randn(2, 3, 8, 8)))
    first = draw(groups, {}, generator)
    both = draw(groups, first, generator)

    def cut(model: nn.Module, of: dict[str, ChannelGroup], kept: Kept) -> nn.Module:
        return apply_plan(model, PruningPlan(tuple(of.values()), dict(kept), "none", 0.0, 0.0, 0.0))

    def place(name: str, channels: tuple[int, ...]) -> tuple[int, ...]:
        there = list(first.get(name, range(groups[name].width)))
        return tuple(there.index(channel) for channel in channels)

    narrow = narrowed(groups, first)
    twice = cut(cut(network, groups, first), narrow, {name: place(name, kept) for name, kept in both.items()})
    once = cut(network, groups, both)
    for (name, value), other in zip(twice.state_dict().items(), once.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    gone = removals(groups, both)
    for name, module in once.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert torch.equal(cut_layer(network.get_submodule(name), name, gone).weight, module.weight)


@pytest.mark.parametrize("kept", [{"nosuch": (0,)}, {"stem": ()}, {"stem": (0, 8)}])
def test_candidates_of_another_network_are_refused(kept: Kept) -> None:
    groups = channel_groups(Residual(), torch.randn(2, 3, 8, 8))
    with pytest.raises(PlanError, match=r"nosuch|stem"):
        shared_channels(groups, [kept])
