"""Every search ends in the same plan, to the byte, however many threads torch has, and whenever it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from secateur import MacsCost, MaskedAccuracy, ParameterCost, PruningPlan, ScoreTable, channel_groups
from secateur.channel_graph import cut_scores
from secateur.scoring import scores_by_name
from secateur.search import cross_layer_plan, curve_plan, greedy_plan, uniform_plan

BUDGETS = {"macs": "55%", "parameters": "60%"}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class Setting:
    """A network, images and labels, always the same."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 12, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12 * 64, 6),
        ).eval()
        self.images, self.labels = torch.randn(1000, 3, 8, 8), torch.randint(0, 6, (1000,))
        self.groups = channel_groups(self.net, self.images[:1])
        self.costs = [MacsCost(self.net, self.images[:1], self.groups), ParameterCost(self.net, self.groups)]

    def scores(self, name: str, net: nn.Module | None = None) -> ScoreTable:
        return scores_by_name(net or self.net, [(self.images, self.labels)], name, groups=self.groups)


def uniform(given: Setting) -> PruningPlan:
    return uniform_plan(given.groups, given.scores("l1"), given.costs, BUDGETS, variant="random", seed=3, round_to=1)


def greedy(given: Setting) -> PruningPlan:
    evaluate = MaskedAccuracy(given.net, given.groups, [(given.images, given.labels)])
    anew = cut_scores(given.net, given.groups, lambda net, _: given.scores("l1", net))
    arguments = (given.groups, given.scores("l1"), given.costs, BUDGETS, evaluate)
    return greedy_plan(*arguments, delta=0.05, variant="random", seed=3, rescore=anew, rescore_every=2, round_to=1)


def curves(given: Setting) -> PruningPlan:
    return curve_plan(given.groups, given.scores("reconstruction"), given.costs, BUDGETS, round_to=1)


def cross_layer(given: Setting) -> PruningPlan:
    weights = {name: given.net.get_submodule(name).weight for name in given.groups}
    unit_costs = {name: 1.0 + rank for rank, name in enumerate(given.groups)}
    scores = given.scores("l1")
    return cross_layer_plan(given.groups, scores, given.costs, BUDGETS, weights=weights, unit_costs=unit_costs)


@pytest.mark.parametrize("search", [uniform, greedy, pytest.param(curves, marks=pytest.mark.thorough), cross_layer])
def test_the_plan_does_not_depend_on_the_number_of_threads(
    search: Callable[[Setting], PruningPlan], threads: Callable[[int], None]
) -> None:
    given, plans = Setting(), []
    for number in (1, 4, 1):
        threads(number)
        plans.append(search(given))
    written = {json.dumps(plan.to_json(), sort_keys=True) for plan in plans}
    assert len(written) == 1
    assert all(spent.after <= spent.budget < spent.before for spent in plans[0].spent.values())


@pytest.mark.parametrize("name", ["hrank", "di", "reconstruction"])
def test_scores_do_not_depend_on_the_number_of_threads(name: str, threads: Callable[[int], None]) -> None:
    """The sums of the reconstruction round otherwise for each number of threads, and are rounded to fewer digits."""
    given, tables = Setting(), []
    for number in (1, 2, 4):
        threads(number)
        tables.append(given.scores(name))
    for layer, scores in tables[0].items():
        assert all(torch.equal(scores, table[layer]) for table in tables), layer
