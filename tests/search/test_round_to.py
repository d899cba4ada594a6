"""Widths in multiples where a channel of a group stands for several of a layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import secateur
from secateur.cost import MacsCost
from secateur.records import ChannelGroup, Member, PruningPlan
from secateur.scoring import scores_by_name
from secateur.search import allowed_widths, curve_plan, greedy_plan, rate_plan, uniform_plan

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@given(width=st.integers(1, 24), blocks=st.integers(1, 40), round_to=st.integers(1, 16))
def test_it_is_the_channels_of_the_layer_that_are_multiples(width: int, blocks: int, round_to: int) -> None:
    tied = tuple(tuple(range(c, width * blocks, width)) for c in range(width))
    behind_a_flatten = tuple(tuple(p * 9 + i for p in owned for i in range(9)) for owned in tied)
    group = ChannelGroup(
        "conv", width, (Member("conv", "producer", tied), Member("head", "consumer", behind_a_flatten))
    )
    found = allowed_widths(width, round_to=group.step(round_to))
    assert found == tuple(k for k in range(1, width + 1) if k * blocks % round_to == 0 or k == width)


def normalised() -> nn.Sequential:
    """A stem that is normalised in 16 groups, and a convolution in 8 groups behind it."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3),
        nn.GroupNorm(16, 64),
        nn.ReLU(),
        nn.Conv2d(64, 32, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, groups=8),
        nn.ReLU(),
        nn.Conv2d(32, 5, 1),
    ).eval()


@pytest.mark.parametrize("search", ["uniform", "curves", "greedy", "rates"])
def test_networks_in_blocks_are_pruned_by_default(search: str) -> None:
    model = normalised()
    groups = secateur.channel_groups(model, IMAGES)
    assert {name: group.width for name, group in groups.items()} == {"0": 4, "3": 4, "5": 4}
    cost, scores = MacsCost(model, IMAGES, groups), scores_by_name(model, [IMAGES], "l1", groups=groups)
    plan: PruningPlan
    if search == "uniform":
        plan = uniform_plan(groups, scores, cost, "60%")
    elif search == "curves":
        curves = secateur.reconstruction_scores(model, groups, [IMAGES], order=scores)
        plan = curve_plan(groups, curves, cost, "60%")
    elif search == "greedy":
        plan = greedy_plan(groups, scores, cost, "60%", lambda kept: float(sum(map(len, kept.values()))))
    else:
        plan = rate_plan(groups, scores, cost, {"0": 0.5, "3": 0.4, "5": 0}, round_to=8)
    pruned = secateur.apply_plan(model, plan)
    wide = [module.out_channels for module in pruned if isinstance(module, nn.Conv2d)][:3]
    assert wide != [64, 32, 32]
    assert all(width % 8 == 0 for width in wide)


def test_prune_rounds_the_channels_of_the_layer() -> None:
    model = normalised()
    result = secateur.prune(model, IMAGES, secateur.HRankImportance([IMAGES]), pruning_ratio=0.5, round_to=8)
    assert [module.out_channels for module in result.model if isinstance(module, nn.Conv2d)][:3] == [32, 16, 16]
