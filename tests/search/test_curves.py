"""Widths from error curves, beside the optimum that trying everything finds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secateur.errors import BudgetError, ScoreError
from secateur.records import ChannelGroup, Member, ScoreTable
from secateur.search import curve_plan


class Prices:
    """So much for each channel of each group."""

    name, unit = "channels", "channels"

    def __init__(self, prices: Mapping[str, float], width: int) -> None:
        self.prices, self.width = prices, width

    def __call__(self, widths: Mapping[str, int]) -> float:
        return sum(price * widths.get(name, self.width) for name, price in self.prices.items())


class Chain(Prices):
    """Layers in a row: each costs its inputs times its outputs."""

    def __call__(self, widths: Mapping[str, int]) -> float:
        every = [widths.get(name, self.width) for name in self.prices]
        return float(sum(a * b for a, b in itertools.pairwise([1, *every, 1])))


class Maps(Chain):
    """Layers in a row, each with its own cost of an input times an output."""

    def __init__(self, name: str, sizes: Sequence[float]) -> None:
        super().__init__(dict.fromkeys("abcd", 1.0), 6)
        self.name, self.sizes = name, sizes

    def __call__(self, widths: Mapping[str, int]) -> float:
        every = [1, *(widths.get(name, self.width) for name in self.prices), 1]
        return float(sum(size * a * b for size, (a, b) in zip(self.sizes, itertools.pairwise(every), strict=True)))


def groups_of(names: str, width: int) -> dict[str, ChannelGroup]:
    own = tuple((c,) for c in range(width))
    return {name: ChannelGroup(name, width, (Member(name, "producer", own),)) for name in names}


def error_of(scores: torch.Tensor, width: int) -> float:
    return float(scores.sort().values[len(scores) - width - 1]) if width < len(scores) else 0.0


def best_error(curves: Mapping[str, torch.Tensor], costs: Sequence[Prices], budgets: Sequence[float]) -> float:
    """Try all widths."""
    widths = range(1, costs[0].width + 1)
    errors = {name: {width: error_of(scores, width) for width in widths} for name, scores in curves.items()}
    return min(
        sum(errors[name][width] for name, width in tried.items())
        for tried in (dict(zip(curves, each, strict=True)) for each in itertools.product(widths, repeat=len(curves)))
        if all(cost(tried) <= budget for cost, budget in zip(costs, budgets, strict=True))
    )


curves_of = st.lists(st.lists(st.integers(0, 50), min_size=5, max_size=5), min_size=3, max_size=3)


@settings(max_examples=60)
@given(steps=curves_of, prices=st.lists(st.integers(1, 5), min_size=3, max_size=3), share=st.integers(35, 95))
def test_no_widths_of_the_same_cost_have_a_lower_error(steps: list[list[int]], prices: list[int], share: int) -> None:
    """At the price that was found the choice is optimal; what the rest buys only lowers the error."""
    cost = Prices(dict(zip("abc", map(float, prices), strict=True)), 5)
    curves = {name: torch.tensor(step, dtype=torch.float64).cumsum(0) for name, step in zip("abc", steps, strict=True)}
    plan = curve_plan(groups_of("abc", 5), ScoreTable(curves), cost, f"{share}%", round_to=1)
    assert plan.cost_after <= plan.budget
    assert plan.settings["error"] == sum(error_of(curves[n], w) for n, w in plan.widths.items())
    assert plan.settings["error"] <= plan.settings["error_at_price"]
    assert plan.settings["error"] >= best_error(curves, [cost], [plan.budget])
    for name, width in plan.widths.items():
        wider = {**plan.widths, name: width + 1}
        if width < 5 and cost(wider) <= plan.budget:
            assert error_of(curves[name], width + 1) == error_of(curves[name], width), "money was left that buys"


def test_convex_curves_are_spent_on_optimally() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        curves = {name: torch.rand(5, dtype=torch.float64).sort().values.cumsum(0) for name in "abcd"}
        cost = Prices(dict.fromkeys("abcd", 1.0), 5)
        plan = curve_plan(groups_of("abcd", 5), ScoreTable(curves), cost, 11, round_to=1)
        assert plan.settings["error"] == pytest.approx(best_error(curves, [cost], [11]))


def test_layers_in_a_row_come_near_the_optimum() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        curves = {name: torch.rand(6, dtype=torch.float64).sort().values.cumsum(0) for name in "abc"}
        cost = Chain(dict.fromkeys("abc", 1.0), 6)
        plan = curve_plan(groups_of("abc", 6), ScoreTable(curves), cost, "50%", round_to=1)
        assert plan.cost_after <= plan.budget
        assert plan.settings["error"] <= 1.5 * best_error(curves, [cost], [plan.budget])


def test_what_is_worthless_goes_first() -> None:
    curves = {"a": torch.tensor([1e-9, 2e-9, 3e-9, 4e-9]), "b": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    plan = curve_plan(groups_of("ab", 4), ScoreTable(curves), Prices({"a": 1.0, "b": 1.0}, 4), "62.5%", round_to=1)
    assert plan.widths == {"a": 1, "b": 4}
    assert plan.settings["search"] == "curves"


def test_rounding_and_floors_are_kept() -> None:
    curves = {"a": torch.arange(8.0), "b": 100 + torch.arange(8.0)}
    cost = Prices({"a": 1.0, "b": 1.0}, 8)
    plan = curve_plan(groups_of("ab", 8), ScoreTable(curves), cost, "70%", round_to=4, min_keep=2)
    assert plan.widths == {"a": 4, "b": 4} or (plan.widths == {"a": 4, "b": 8} and plan.cost_after <= plan.budget)
    with pytest.raises(BudgetError, match="lowest cost"):
        curve_plan(groups_of("ab", 8), ScoreTable(curves), cost, "10%", min_keep=2, round_to=1)


def test_curves_of_any_shape_find_the_optimum_nine_times_in_ten() -> None:
    """Layers in a row, whose costs multiply; steep curves and prices alike leave gaps that no price reaches."""
    ratios = []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        steps = torch.rand(3, 6, generator=generator, dtype=torch.float64) ** (1 + seed % 3)
        curves = {name: step.cumsum(0) * 5 ** (seed % 2) for name, step in zip("abc", steps, strict=True)}
        cost = Chain(dict.fromkeys("abc", 1.0), 6)
        budget = 4 + (cost({}) - 4) * float(0.15 + 0.75 * torch.rand(1, generator=generator))
        plan = curve_plan(groups_of("abc", 6), ScoreTable(curves), cost, budget, round_to=1)
        ratios.append(plan.settings["error"] / best_error(curves, [cost], [budget]))
    assert max(ratios) <= 1.3
    assert sum(ratio < 1 + 1e-9 for ratio in ratios) >= 54


def test_two_budgets_of_layers_in_a_row_find_the_optimum_nineteen_times_in_twenty() -> None:
    """Two prices, each budget at its own or both at one, and higher ones to start from: each finds what others miss."""
    narrowest, optimal = dict.fromkeys("abcd", 1), 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        steps = torch.rand(4, 6, generator=generator, dtype=torch.float64) ** (1 + seed % 3)
        curves = {name: step.cumsum(0) for name, step in zip("abcd", steps, strict=True)}
        costs = [Maps("macs", (9, 4, 4, 1, 1)), Maps("parameters", (1, 1, 4, 4, 9))]
        budgets = {}
        for cost in costs:
            share = float(0.15 + 0.6 * torch.rand(1, generator=generator))
            budgets[cost.name] = cost(narrowest) + share * (cost({}) - cost(narrowest))
        plan = curve_plan(groups_of("abcd", 6), ScoreTable(curves), costs, budgets, round_to=1)
        optimal += plan.settings["error"] <= (1 + 1e-9) * best_error(curves, costs, list(budgets.values()))
    assert optimal >= 38


def test_a_layer_is_widened_at_what_it_costs_beside_the_narrower_one() -> None:
    class Pair(Prices):
        def __call__(self, widths: Mapping[str, int]) -> float:
            a, b = widths.get("a", 4), widths.get("b", 3)
            return float(a + a * b + b)

    groups = {"a": groups_of("a", 4)["a"], "b": groups_of("b", 3)["b"]}
    curves = {"a": torch.tensor([17.0, 23.0, 25.0, 29.0]), "b": torch.tensor([17.0, 21.0, 24.0])}
    plan = curve_plan(groups, ScoreTable(curves), Pair({}, 4), "50%", round_to=1)
    assert (plan.widths, plan.settings["error"]) == ({"a": 4, "b": 1}, 21.0)  # {"a": 1, "b": 3} errs 25


class Steps(Chain):
    """Layers in a row that run on blocks of three channels."""

    def __call__(self, widths: Mapping[str, int]) -> float:
        return super().__call__({name: -(-widths.get(name, self.width) // 3) * 3 for name in self.prices})


@settings(max_examples=60)
@given(
    steps=st.lists(st.lists(st.integers(0, 50), min_size=6, max_size=6), min_size=3, max_size=3),
    share=st.integers(25, 95),
    kind=st.sampled_from([Prices, Chain, Steps]),
)
def test_no_group_widens_and_no_two_exchange_at_a_lower_error(
    steps: list[list[int]], share: int, kind: type[Prices]
) -> None:
    cost = kind({"a": 1.0, "b": 2.0, "c": 3.0}, 6)
    curves = {name: torch.tensor(step, dtype=torch.float64).cumsum(0) for name, step in zip("abc", steps, strict=True)}
    budget = 4 + (cost({}) - 4) * share / 100
    assume(cost(dict.fromkeys("abc", 1)) <= budget)
    plan = curve_plan(groups_of("abc", 6), ScoreTable(curves), cost, budget, round_to=1)
    for one, other in itertools.permutations("abc", 2):
        for widths in itertools.product(range(1, plan.widths[one] + 1), range(plan.widths[other], 7)):
            moved = {**plan.widths, one: widths[0], other: widths[1]}
            error = sum(error_of(curves[name], width) for name, width in moved.items())
            assert cost(moved) > plan.budget or error >= plan.settings["error"]


def test_a_cost_that_only_joint_cuts_lower_is_met_too() -> None:
    class Widest(Prices):
        def __call__(self, widths: Mapping[str, int]) -> float:
            return float(max(widths.get(name, self.width) for name in self.prices))

    curves = {name: torch.arange(1.0, 6.0) for name in "ab"}
    plan = curve_plan(groups_of("ab", 5), ScoreTable(curves), Widest({"a": 1.0, "b": 1.0}, 5), 3, round_to=1)
    assert plan.widths == {"a": 3, "b": 3}


@pytest.mark.parametrize("lowest", [-1.0, -1e-300])
def test_scores_below_zero_are_no_errors(lowest: float) -> None:
    curves = ScoreTable({"a": torch.zeros(4), "b": torch.tensor([lowest, lowest, 0.0, 1.0], dtype=torch.float64)})
    with pytest.raises(ScoreError, match=f"the group 'b' are no error curve: they fall to {lowest:g}"):
        curve_plan(groups_of("ab", 4), curves, Prices({"a": 1, "b": 1}, 4), "50%", round_to=1)


def test_scores_by_another_criterion_are_no_errors() -> None:
    scores = ScoreTable({name: torch.arange(4.0) for name in "ab"}, settings={"criterion": "hrank"})
    with pytest.raises(ScoreError, match=r"these are scores by hrank, and no error curves; `reconstruction_scores"):
        curve_plan(groups_of("ab", 4), scores, Prices({"a": 1, "b": 1}, 4), "50%", round_to=1)


def test_ties_are_those_of_the_scores_that_the_curves_were_made_in_the_order_of() -> None:
    """Curves rise with every channel, so that they show no ties where a criterion has put equal channels in a row."""
    groups, cost = groups_of("ab", 4), Prices({"a": 1.0, "b": 1.0}, 4)
    scores = ScoreTable({"a": torch.tensor([2.0, 1.0, 1.0, 1.0]), "b": torch.tensor([1.0, 2.0, 3.0, 4.0])})
    curves = ScoreTable({"a": torch.tensor([4.0, 1.0, 2.0, 3.0]), "b": torch.tensor([1.0, 2.0, 3.0, 4.0])})
    plan = curve_plan(groups, curves, cost, "50%", round_to=1, order=scores)
    assert plan.widths == {"a": 2, "b": 2}
    assert plan.ties == {"a": 3}
    assert curve_plan(groups, curves, cost, "50%", round_to=1).ties == {}
    part = ScoreTable({"b": torch.tensor([1.0, 1.0, 1.0, 4.0])})  # a has no scores: its curve decides by itself
    assert curve_plan(groups, curves, cost, "50%", round_to=1, order=part).ties == {"b": 3}
