"""Several budgets at once: all are met, one that is met already changes nothing, and every cost is told of."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from references_search import select_by_removing, uniform_by_trying, widths_by_trying
from secateur.errors import BudgetError, ConfigError
from secateur.records import ChannelGroup, Member, PruningPlan, ScoreTable, Spent
from secateur.search import GreedyStep, cross_layer_plan, curve_plan, greedy_plan, uniform_plan

Widths = Mapping[str, int]


@dataclass
class Chain:
    """A chain of layers, each reading the one before; `work` counts what each pair of channels costs there."""

    name: str
    dense: Mapping[str, int]
    work: tuple[int, ...]
    unit: str = "units"

    def __call__(self, widths: Widths) -> float:
        sizes = [3, *(widths.get(name, width) for name, width in self.dense.items()), 4]
        return float(sum(work * a * b for work, (a, b) in zip(self.work, itertools.pairwise(sizes), strict=True)))


@dataclass
class Case:
    dense: dict[str, int]
    scores: dict[str, list[int]]
    costs: list[Chain]
    shares: list[float]
    round_to: int = 1

    @property
    def allowed(self) -> dict[str, list[int]]:
        return {n: widths_by_trying(width, min_keep=1, round_to=self.round_to) for n, width in self.dense.items()}

    @property
    def budgets(self) -> dict[str, float]:
        """Each at a share of the way from the lowest reachable to the dense cost."""
        lowest = {name: allowed[0] for name, allowed in self.allowed.items()}
        costs = list(zip(self.costs, self.shares, strict=True))
        budgets = {cost.name: cost(lowest) + share * (cost({}) - cost(lowest)) for cost, share in costs}
        assume(any(budgets[cost.name] < cost({}) for cost in self.costs))
        return budgets

    @property
    def start(self) -> tuple[dict[str, ChannelGroup], ScoreTable]:
        own = {name: tuple((c,) for c in range(width)) for name, width in self.dense.items()}
        groups = {n: ChannelGroup(n, width, (Member(n, "producer", own[n]),)) for n, width in self.dense.items()}
        return groups, ScoreTable({n: torch.tensor(s, dtype=torch.float64) for n, s in self.scores.items()})

    def met(self, widths: Widths) -> bool:
        return all(cost(widths) <= self.budgets[cost.name] for cost in self.costs)

    def worth(self, kept: Mapping[str, tuple[int, ...]]) -> float:
        """The score that is kept, each group counted in another unit; coarse, so that ties occur."""
        sums = [sum(scores[c] for c in kept.get(n, range(len(scores)))) for n, scores in self.scores.items()]
        return round(sum(total / (1 + rank) for rank, total in enumerate(sums)) / 3)

    def error(self, widths: Widths) -> float:
        curves = {name: sorted(scores) for name, scores in self.scores.items()}
        return sum(curve[len(curve) - widths[n] - 1] if widths[n] < len(curve) else 0 for n, curve in curves.items())


@st.composite
def cases(draw: st.DrawFn, largest_width: int = 8) -> Case:
    names = ["a", "b", "c"][: draw(st.integers(1, 3))]
    dense = {name: draw(st.integers(1, largest_width)) for name in names}
    scores = {n: draw(st.lists(st.integers(0, 20), min_size=w, max_size=w)) for n, w in dense.items()}
    works = st.lists(st.integers(1, 9), min_size=len(names) + 1, max_size=len(names) + 1).map(tuple)
    costs = [Chain(name, dense, draw(works)) for name in ("macs", "parameters")]
    return Case(dense, scores, costs, [draw(st.floats(0, 1)), draw(st.floats(0, 0.99))], draw(st.sampled_from([1, 2])))


def crossed(groups: Any, scores: ScoreTable, cost: Any, budget: Any, **rules: Any) -> PruningPlan:
    unit_costs = {name: 1.0 + rank for rank, name in enumerate(groups)}
    weights = {name: scores[name].unsqueeze(1) + 1 for name in groups}
    return cross_layer_plan(groups, scores, cost, budget, weights=weights, unit_costs=unit_costs, **rules)


def searches(case: Case) -> dict[str, Callable[..., PruningPlan]]:
    return {
        "uniform": partial(uniform_plan, round_to=1),
        "greedy": partial(greedy_plan, evaluate=case.worth, delta=0.02, round_to=1),
        "curves": partial(curve_plan, round_to=1),
        "cross_layer": crossed,
    }


@given(cases())
@settings(max_examples=60)
@pytest.mark.filterwarnings("ignore:delta=")
def test_every_search_meets_every_budget_and_tells_of_it(case: Case) -> None:
    budgets = case.budgets
    for name, search in searches(case).items():
        plan = search(*case.start, case.costs, budgets, round_to=case.round_to)
        assert case.met(plan.widths), name
        assert all(plan.widths[group] in allowed for group, allowed in case.allowed.items())
        assert plan.spent == {c.name: Spent(c({}), c(plan.widths), pytest.approx(budgets[c.name])) for c in case.costs}
        assert PruningPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@given(cases(), st.booleans())
@settings(max_examples=40)
@pytest.mark.filterwarnings("ignore:delta=")
def test_a_budget_that_is_met_already_changes_nothing(case: Case, first: bool) -> None:
    case = replace(case, shares=[case.shares[1]] * 2)
    cost, met = case.costs
    budget = case.budgets[cost.name]
    assume(budget < cost({}))
    for search in searches(case).values():
        alone = search(*case.start, cost, budget, round_to=case.round_to)
        costs = [met, cost] if first else [cost, met]
        both = search(*case.start, costs, {cost.name: budget, met.name: "100%"}, round_to=case.round_to)
        assert both.kept == alone.kept
        assert both.settings == alone.settings
        assert both.spent == {**alone.spent, met.name: Spent(met({}), met(both.widths), met({}))}
        for costs, one in (([cost], budget), (cost, {cost.name: budget})):
            assert search(*case.start, costs, one, round_to=case.round_to) == alone


@given(cases())
@settings(max_examples=60)
def test_uniform_equals_trying_every_share(case: Case) -> None:
    budgets = case.budgets
    plan = uniform_plan(*case.start, case.costs, budgets, round_to=case.round_to)
    expected = uniform_by_trying(case.dense, case.allowed, lambda widths: 0.0 if case.met(widths) else 1.0, 0.5)
    assert plan.widths == expected


def algorithm_1_for_several(case: Case, *, delta: float) -> list[tuple[str, int]]:
    """The accepted cuts: costs above their budgets are added up as shares of the dense network."""
    widths, steps = dict(case.dense), []
    while not case.met(widths):
        over = [cost for cost in case.costs if cost(widths) > case.budgets[cost.name]]
        proposals, least = [], delta
        while not proposals:
            for rank, name in enumerate(case.dense):
                for width in [w for w in reversed(case.allowed[name]) if w < widths[name]]:
                    tried = {**widths, name: width}
                    freed = sum((cost(widths) - cost(tried)) / cost({}) for cost in over)
                    if freed >= least * (1 - 1e-9):
                        cut = {n: w for n, w in tried.items() if w < case.dense[n]}
                        kept = {n: tuple(select_by_removing(case.scores[n], w)) for n, w in cut.items()}
                        per_channel = round(freed / (widths[name] - width), 12)
                        proposals.append((case.worth(kept), per_channel, -rank, name, width))
                        break
            least /= 2
        *_, name, width = max(proposals)
        widths[name] = width
        steps.append((name, width))
    return steps


@given(cases(6), st.sampled_from([0.005, 0.05, 0.2]))
@settings(max_examples=60)
@pytest.mark.filterwarnings("ignore:delta=")
def test_greedy_equals_a_literal_search(case: Case, delta: float) -> None:
    steps: list[GreedyStep] = []
    arguments = (*case.start, case.costs, case.budgets, case.worth)
    plan = greedy_plan(*arguments, delta=delta, round_to=case.round_to, on_step=steps.append)
    assert [(step.group, step.width) for step in steps] == algorithm_1_for_several(case, delta=delta)
    assert (steps[-1].cost, steps[-1].further) == (plan.cost_after, {"parameters": plan.spent["parameters"].after})


@given(cases(5))
@settings(max_examples=60)
def test_curves_are_never_worse_than_the_trivial_and_near_the_optimum(case: Case) -> None:
    budgets = case.budgets
    error = curve_plan(*case.start, case.costs, budgets, round_to=case.round_to).settings["error"]
    assert error <= case.error(uniform_plan(*case.start, case.costs, budgets, round_to=case.round_to).widths)
    for cost in case.costs:
        if budgets[cost.name] < cost({}):
            alone = curve_plan(*case.start, cost, budgets[cost.name], round_to=case.round_to)
            if case.met(alone.widths):
                assert error <= alone.settings["error"]
    tried = (dict(zip(case.dense, widths, strict=True)) for widths in itertools.product(*case.allowed.values()))
    best = min(case.error(widths) for widths in tried if case.met(widths))
    assert best <= error <= 2 * best


# --- refusals ---------------------------------------------------------------------------------------------------------


def two_costs() -> Case:
    dense = {"a": 8, "b": 8}
    scores = {"a": [5, 1, 1, 1, 7, 8, 6, 9], "b": [1, 2, 3, 4, 5, 6, 7, 8]}
    return Case(dense, scores, [Chain("macs", dense, (9, 9, 9)), Chain("parameters", dense, (1, 1, 1))], [0.5, 0.5])


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("50%", r"2 costs \(macs, parameters\) and one budget, '50%'; give a mapping .*'macs': '50%'"),
        ({"macs": "50%"}, "no budget is given for the cost 'parameters'"),
        ({"macs": "50%", "parameters": "50%", "bytes": "1M"}, "no cost is called 'bytes'; the costs are: macs, param"),
        ({"macs": "50%", "parameters": "50"}, "parameters: the budget 50 is ambiguous"),
        ({"macs": "100%", "parameters": 200}, r"already met .*'100%' for macs, dense 1.08K units; 200 for parameters"),
        (
            {"macs": "50%", "parameters": "5%"},
            r"'50%' for macs allows 540 units, and the lowest cost that can be reached is 72 units \(6.7% of the dense "
            r"network\); the budget '5%' for parameters allows 6 units, but the lowest .* is 8 units \(6.7%",
        ),
    ],
)
def test_budgets_that_make_no_sense_are_refused_before_any_evaluation(budget: Any, words: str) -> None:
    def never(kept: Mapping[str, tuple[int, ...]]) -> float:
        raise AssertionError("evaluated")

    case = two_costs()
    for search in (searches(case) | {"greedy": partial(greedy_plan, evaluate=never, round_to=1)}).values():
        with pytest.raises(BudgetError, match=words):
            search(*case.start, case.costs, budget)


def test_costs_that_cannot_be_told_apart_or_are_no_numbers_are_refused() -> None:
    case = two_costs()
    macs = case.costs[0]
    for search in searches(case).values():
        with pytest.raises(ConfigError, match=r"different names, .* found: macs, macs"):
            search(*case.start, [macs, macs], {"macs": "50%"})
        with pytest.raises(ConfigError, match="there must be one; found: None"):
            search(*case.start, [], {})

    class Broken(Chain):
        given: Any

        def __call__(self, widths: Widths) -> float:
            return self.given if widths.get("a", 8) < 8 else super().__call__(widths)  # type: ignore[no-any-return]  # as a user's may be

    broken = Broken("latency", case.dense, (1, 1, 1))
    for broken.given, told in ((float("nan"), "nan"), (-(2**31), "-2147483648"), (10**400, "1000"), (None, "None")):
        for search in searches(case).values():
            with pytest.raises(ConfigError, match=f"the cost 'latency' is {told}.* at the widths .* at least 0"):
                search(*case.start, broken, "50%")


def test_a_cost_may_count_in_numbers_of_any_kind() -> None:
    case = two_costs()

    class Tensors(Chain):
        def __call__(self, widths: Widths) -> float:
            return torch.tensor(super().__call__(widths))  # type: ignore[return-value]  # as a user's may be

    plain, cost = (kind("macs", case.dense, (1, 1, 1)) for kind in (Chain, Tensors))
    for search in searches(case).values():
        found = search(*case.start, cost, "50%")
        assert json.loads(json.dumps(found.to_json())) == search(*case.start, plain, "50%").to_json()


def test_groups_that_cannot_be_cut_are_named_as_the_reason() -> None:
    case = two_costs()
    with pytest.raises(BudgetError, match=r"lowest .* is 1.08K units \(100.0% .* round_to=8; no group can be cut"):
        uniform_plan(*case.start, case.costs[0], "50%", round_to=8)
