"""Layers that carry only some channels of a group, behind a concatenation: each keeps at least one of them."""

from __future__ import annotations

import itertools
import json
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from networks_for_tests import DepthwiseUnet, ResidualOverConcat
from secateur import apply_plan, channel_groups, prune, reconstruct, verify_pruning
from secateur.channel_graph.rescoring import cut_scores
from secateur.cost import ParameterCost
from secateur.errors import ConfigError, NetworkError, PlanError
from secateur.gates.learnt import Learnt
from secateur.records import ChannelGroup, Member, PruningPlan, ScoreTable
from secateur.records.groups import narrowed
from secateur.search import (
    curve_plan,
    global_ranking_plan,
    greedy_plan,
    rate_plan,
    refine_plan,
    select,
    ties_at_cut,
    uniform_plan,
)
from secateur.training.soft_clusters import check_mergeable

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NETWORKS = {network.__name__: network().eval() for network in (DepthwiseUnet, ResidualOverConcat)}
GROUPS = {name: channel_groups(network, IMAGES) for name, network in NETWORKS.items()}
PARTIAL = {"DepthwiseUnet": ("depthwise", "encoder"), "ResidualOverConcat": ("body", "left")}
"""Network -> the group with layers that have only some of its channels, and one of these."""

each_network = pytest.mark.parametrize("name", [*NETWORKS])


def disdaining(name: str, layer: str) -> ScoreTable:
    """Return scores by which all channels that pass through a layer go before any other of its group."""
    scores = {}
    for group in GROUPS[name].values():
        values = torch.arange(1.0, 1.0 + group.width, dtype=torch.float64)
        for member in group.members:
            if member.layer == layer and not all(member.indices):
                values[[c for c, own in enumerate(member.indices) if own]] /= 100
        scores[group.name] = values
    return ScoreTable(scores)


def check(name: str, plan: PruningPlan) -> None:
    pruned = apply_plan(NETWORKS[name], plan)
    assert all(0 not in parameter.shape for parameter in pruned.parameters())
    assert verify_pruning(NETWORKS[name], pruned, plan, IMAGES).largest_difference < 1e-4


def uniform(*arguments: Any, **options: Any) -> PruningPlan:
    return uniform_plan(*arguments, "30%", round_to=1, **options)


def greedy(*arguments: Any) -> PruningPlan:
    return greedy_plan(*arguments, "30%", lambda _: 1.0, delta=0.05, round_to=1)


def refined(*arguments: Any) -> PruningPlan:
    start = uniform(*arguments)
    return refine_plan(*arguments, "30%", lambda kept: -len(kept), start, round_to=1, max_evaluations=20)


SEARCHES: Mapping[str, Callable[..., PruningPlan]] = {
    "uniform": uniform,
    "curves": lambda *arguments: curve_plan(*arguments, "30%", round_to=1),
    "greedy": greedy,
    "refine": refined,
    "rates": lambda groups, *more: rate_plan(groups, *more, dict.fromkeys(groups, 1.0)),
    "global": lambda *arguments: global_ranking_plan(
        *arguments, "30%", lambda _: 1.0, round_to=1, population=4, generations=6, sample=2
    ),
}


@each_network
@pytest.mark.parametrize("search", [*SEARCHES])
def test_every_search_leaves_every_layer_a_channel(name: str, search: str) -> None:
    group, layer = PARTIAL[name]
    groups = GROUPS[name]
    plan = SEARCHES[search](groups, disdaining(name, layer), ParameterCost(NETWORKS[name], groups))
    own = next(member for member in groups[group].members if member.layer == layer).indices
    assert sum(map(bool, (own[c] for c in plan[group]))) == 1  # the scores would have none stay
    check(name, plan)


@each_network
@pytest.mark.parametrize("variant", ["low", "reverse", "edge", "middle", "random"])
@settings(max_examples=15)
@given(data=st.data())
def test_any_scores_leave_every_layer_a_channel(name: str, variant: Any, data: st.DataObject) -> None:
    groups = GROUPS[name]
    scores = {
        group.name: torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=group.width, max_size=group.width)))
        for group in groups.values()
    }
    table = ScoreTable({layer: values.double() for layer, values in scores.items()})
    plan = uniform(groups, table, ParameterCost(NETWORKS[name], groups), variant=variant)
    assert all(part & {*plan[group.name]} for group in groups.values() for part in group.parts)
    check(name, plan)


@each_network
def test_a_rescored_search_leaves_every_layer_a_channel(name: str) -> None:
    """The better scores fall to other channels as the search goes on."""
    groups, (_, layer) = GROUPS[name], PARTIAL[name]
    other = "up" if name == "DepthwiseUnet" else "right"
    rescore = cut_scores(
        NETWORKS[name],
        groups,
        lambda _, narrow: ScoreTable({g.name: torch.arange(float(g.width)).flip(0) for g in narrow.values()}),
    )
    for disdained in (layer, other):
        plan = greedy_plan(
            *(groups, disdaining(name, disdained), ParameterCost(NETWORKS[name], groups), "30%", lambda _: 1.0),
            delta=0.05,
            round_to=1,
            rescore=rescore,
        )
        check(name, plan)


@each_network
@pytest.mark.parametrize("options", [{}, {"global_pruning": True}, {"iterative_steps": 3}, {"round_to": 4}])
@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0])
def test_prune_does_so(name: str, options: Any, ratio: float) -> None:
    def importance(group: Any) -> Tensor:
        return torch.arange(float(len(group[0].idxs)))  # the channels of the first layer go first

    result = prune(NETWORKS[name], IMAGES, importance, pruning_ratio=ratio, **options)
    check(name, result.plan)
    assert all(0 not in parameter.shape for parameter in result.model.parameters())


class SideBySide(nn.Module):
    """Two layers side by side before a depthwise one, whose channels one layer reads; what the first makes is tiny."""

    def __init__(self, left: int = 6) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, left, 3), nn.Conv2d(3, 14 - left, 3)
        self.depthwise, self.head = nn.Conv2d(14, 14, 3, groups=14), nn.Conv2d(14, 4, 1)
        nn.init.zeros_(self.left.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.depthwise(torch.cat([self.left(x), self.right(x)], 1)))


def test_reconstruct_does_so() -> None:
    network, images = SideBySide().eval(), torch.randn(32, 3, 8, 8)
    groups = channel_groups(network, images)
    for kept in ((0, 6), (0, 1, 2, 6), tuple(range(13))):
        plan = PruningPlan(tuple(groups.values()), {"depthwise": kept}, "none", 0.0, 0.0, 0.0)
        done = reconstruct(network, plan, [images])
        assert done.model.left.out_channels == max(1, len(kept) - 8)
        assert done.plan.widths == plan.widths
        assert done.model(images).shape == network(images).shape


@pytest.mark.parametrize("left", [1, 3, 13])
def test_a_group_is_tried_without_emptying_a_layer(left: int) -> None:
    """Or it would be left out, since the network does not run then."""
    assert [*channel_groups(SideBySide(left), IMAGES)] == ["depthwise"]


@each_network
def test_a_plan_that_empties_a_layer_is_refused_by_its_name(name: str) -> None:
    group, layer = PARTIAL[name]
    groups = GROUPS[name]
    own = next(member for member in groups[group].members if member.layer == layer).indices
    plan = PruningPlan(tuple(groups.values()), {group: (0, len(own) - 1)}, "none", 0.0, 0.0, 0.0)
    data = json.loads(json.dumps(plan.to_json()))
    data["kept"][group] = [c for c, positions in enumerate(own) if not positions]
    passing = re.escape(reprlib.repr([c for c, positions in enumerate(own) if positions]))
    message = f"leaves the layer '{layer}' no channel; of those of '{group}' that pass through it, {passing}, at least"
    with pytest.raises(PlanError, match=message):
        PruningPlan.from_json(data)
    with pytest.raises(PlanError, match=message):
        PruningPlan(plan.groups, {group: tuple(data["kept"][group])}, "none", 0.0, 0.0, 0.0)


def test_a_masked_layer_may_lose_what_it_has_since_it_keeps_its_width() -> None:
    members = (Member("a", "masked", ((0,), (), ())), Member("b", "producer", ((0,), (1,), (2,))))
    group = ChannelGroup("a", 3, members)
    assert group.parts == (frozenset({0, 1, 2}),)
    assert PruningPlan((group,), {"a": (2,)}, "none", 0.0, 0.0, 0.0).removed("a") == (0, 1)


@given(st.lists(st.integers(0, 5), min_size=6, max_size=12), st.sampled_from(["low", "reverse", "edge", "middle"]))
def test_of_each_part_one_stays_and_narrower_selections_lie_in_wider_ones(scores: list[int], variant: Any) -> None:
    values, parts = torch.tensor(scores, dtype=torch.float64), [{0, 1}, {1, 2}, {4, 5}]
    chosen = [{*select(values, keep, variant=variant, parts=parts)} for keep in range(3, len(scores) + 1)]
    assert [len(each) for each in chosen] == list(range(3, len(scores) + 1))
    assert all(part & each for part in parts for each in chosen)
    assert all(narrow < wide for narrow, wide in itertools.pairwise(chosen))
    whole = [select(values, keep, variant=variant) for keep in range(1, len(scores) + 1)]
    assert whole == [
        select(values, keep, variant=variant, parts=[{*range(len(scores))}]) for keep in range(1, len(scores) + 1)
    ]


def test_the_part_decides_and_ties_are_of_what_it_leaves() -> None:
    scores, parts = torch.tensor([1.0, 2.0, 5.0, 5.0, 5.0, 9.0]), [{0, 1}, {2, 3, 4, 5}]
    assert select(scores, 3, parts=parts) == (1, 4, 5)
    assert ties_at_cut(scores, 3, parts=parts) == 3
    assert ties_at_cut(scores, 2, parts=parts) == 0
    with pytest.raises(ConfigError, match=r"cannot keep 1 of 6 channels; allowed: 2\.\.6"):
        select(scores, 1, parts=parts)


def test_what_has_no_scores_does_so_too() -> None:
    gate = Learnt("body", torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.1, 0.2, 0.8, 0.9]), 2.0, 0.5, 0.5, True)
    assert gate.channels(2, parts=[{0, 1}, {2, 3}]) == (1, 3)
    assert gate.channels(None, parts=[{0, 1}, {2, 3}]) == (1, 3)
    groups = GROUPS["ResidualOverConcat"]
    with pytest.raises(ConfigError, match=r"'body' has 13 channels; asked to keep 1, allowed: 2\.\.13"):
        narrowed(groups, {"body": 1})
    with pytest.raises(NetworkError, match="channels of 'body' cannot be merged: 'left' has only some of them"):
        check_mergeable(NETWORKS["ResidualOverConcat"], groups["body"])
