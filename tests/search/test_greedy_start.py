"""The greedy search from a plan: the literal algorithm from there on, and what holds of its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from chains_for_tests import Case, ChainCost, cases, group_of, small_case
from references_search import algorithm_1
from secateur.errors import BudgetError, PlanError, SecateurWarning
from secateur.records import ChannelGroup, Member, PruningPlan, ScoreTable
from secateur.search import GreedyStep, curve_plan, greedy_plan, uniform_plan
from secateur.search.selection import Variant


def plan_of(case: Case, kept: Mapping[str, tuple[int, ...]]) -> PruningPlan:
    return PruningPlan(tuple(case.groups.values()), kept, "macs", 1.0, 1.0, 1.0, settings={"search": "hand"})


@st.composite
def starts(draw: st.DrawFn) -> tuple[Case, dict[str, list[int]], float]:
    """A case, channels that are left of each group, whatever their scores, and the share of the way down from there."""
    case = draw(cases(8))
    left = {n: sorted(draw(st.sets(st.integers(0, w - 1), min_size=1))) for n, w in case.dense.items()}
    return case, left, draw(st.floats(0, 0.99))


@pytest.mark.filterwarnings("ignore:delta=")
@given(starts(), st.sampled_from([0.005, 0.02, 0.1, 0.5]))
@settings(max_examples=150)
def test_greedy_from_a_start_equals_algorithm_1_from_there(given: Any, delta: float) -> None:
    case, left, share = given
    cost = case.cost
    widths = {name: len(channels) for name, channels in left.items()}
    lowest = cost({name: min(allowed[0], widths[name]) for name, allowed in case.allowed.items()})
    largest = lowest + share * (cost(widths) - lowest)
    assume(largest < cost(widths) and (largest > 100 or largest >= 0.01 * cost({})))
    steps: list[GreedyStep] = []
    start = plan_of(case, {name: tuple(channels) for name, channels in left.items()})
    plan = greedy_plan(
        *case.arguments, largest, case.worth, start=start, delta=delta, on_step=steps.append, **case.rules
    )
    found, expected = algorithm_1(
        case.dense, case.allowed, case.scores, cost, case.worth, largest=largest, delta=delta, left=left
    )
    assert plan.widths == found
    assert [(s.group, s.width) for s in steps] == expected
    for name, channels in left.items():
        assert set(plan[name]) <= set(channels)
        gone = [case.scores[name][c] for c in channels if c not in plan[name]]
        assert max(gone, default=0) <= min(case.scores[name][c] for c in plan[name])
    assert plan.cost_after == cost(plan.widths) <= largest == plan.budget
    assert plan.settings["start"] == {"search": "hand"}


@given(cases(8), st.floats(0, 0.9), st.floats(0.1, 0.99), st.sampled_from(get_args(Variant)))
@example(Case({"a": 3}, {"a": [0, 0, 0]}, ChainCost({"a": 3}, {"a": 1}), 1, 1), 0.0, 0.5, "low")  # ties alone decide
@settings(max_examples=60)
def test_a_search_in_two_parts_is_the_search_in_one(case: Case, share: float, earlier: float, variant: Any) -> None:
    largest = case.share(share)
    looser = largest + earlier * (case.cost(case.dense) - largest)
    assume(looser < case.cost(case.dense))
    whole = greedy_plan(*case.arguments, largest, case.worth, variant=variant, **case.rules)
    first = greedy_plan(*case.arguments, looser, case.worth, variant=variant, **case.rules)
    second = greedy_plan(*case.arguments, largest, case.worth, variant=variant, start=first, **case.rules)
    assert (second.kept, second.ties) == (whole.kept, whole.ties)
    assert first.settings["steps"] + second.settings["steps"] == whole.settings["steps"]


def test_it_goes_on_from_error_curves_and_keeps_what_they_removed_gone() -> None:
    case, asked = small_case(), []

    def evaluate(kept: Mapping[str, tuple[int, ...]]) -> float:
        asked.append(dict(kept))
        return float(len(kept["a"]))

    groups, errors, cost = case.arguments
    start = curve_plan(groups, ScoreTable(errors), cost, "80%", round_to=1)
    assert start.widths == {"a": 6, "b": 8}
    plan = greedy_plan(*case.arguments, "60%", evaluate, start=start, delta=0.05, round_to=1)
    assert all(set(kept["a"]) <= set(start["a"]) for kept in asked)
    assert plan["a"] == start["a"]
    assert plan.ties == start.ties != {}
    assert plan.settings["start"]["search"] == "curves"


def test_a_start_that_meets_the_budget_is_the_plan() -> None:
    case = small_case()
    start = uniform_plan(*case.arguments, "50%", round_to=1)

    def never(kept: Mapping[str, tuple[int, ...]]) -> float:
        raise AssertionError("evaluated")

    plan = greedy_plan(*case.arguments, "70%", never, start=start, round_to=1)
    assert plan.kept == start.kept
    assert (plan.budget, plan.cost_after, plan.settings["steps"]) == (0.7 * 872, start.cost_after, 0)


def test_groups_without_scores_keep_what_the_start_keeps() -> None:
    case = small_case()
    start = replace(plan_of(case, {"a": (1, 2, 3)}), ties={"a": 2})
    alone = ScoreTable({"b": torch.arange(8.0)})
    with pytest.warns(SecateurWarning, match="1 of 2 groups stay as they are.*: a"):
        plan = greedy_plan(case.groups, alone, case.cost, 81 + 27 * 2 + 20, lambda kept: 1.0, start=start, round_to=1)
    assert plan.kept == {"a": (1, 2, 3), "b": (6, 7)}  # below what b alone could reach
    assert plan.cost_after == case.cost({"a": 3, "b": 2})
    assert plan.ties == {"a": 2}


def test_a_start_may_keep_one_channel_that_two_layers_share() -> None:
    case = small_case()
    overlapping = (Member("b", "producer", ((0,), (1,), (2,))), Member("left", "consumer", ((0,), (1,), ())))
    both = ChannelGroup("b", 3, (*overlapping, Member("right", "consumer", ((), (0,), (1,)))))
    groups = {"a": case.groups["a"], "b": both}
    scores = ScoreTable({"a": torch.arange(8.0), "b": torch.arange(3.0)})
    cost = ChainCost({"a": 8, "b": 3}, {"a": 1, "b": 1})
    start = PruningPlan(tuple(groups.values()), {"b": (1,)}, "macs", 1.0, 1.0, 1.0)
    plan = greedy_plan(groups, scores, cost, "40%", lambda kept: 1.0, start=start, round_to=1)
    assert (plan["a"], plan["b"]) == ((3, 4, 5, 6, 7), (1,))


def test_new_scores_choose_among_what_the_start_keeps() -> None:
    case = small_case()
    start = plan_of(case, {"a": (0, 1, 2, 3, 4), "b": (0, 1, 2, 3)})

    def turned(kept: Mapping[str, tuple[int, ...]]) -> ScoreTable:
        return ScoreTable({name: -torch.arange(8.0) for name in "ab"})

    plan = greedy_plan(*case.arguments, "20%", lambda kept: 1.0, start=start, rescore=turned, round_to=1)
    assert set(plan["a"]) <= {0, 1, 2, 3, 4}
    assert set(plan["b"]) <= {0, 1, 2, 3}
    assert plan.settings["rescored"] == plan.settings["steps"] - 1 > 0


def test_a_start_of_other_groups_or_out_of_reach_is_refused() -> None:
    case = small_case()
    other = Case({"a": 8, "c": 8}, {"a": [1] * 8, "c": [1] * 8}, ChainCost({"a": 8, "c": 8}, {"a": 1, "c": 1}))
    with pytest.raises(PlanError, match="the start must be a plan of the same groups; it differs in b, c"):
        greedy_plan(*case.arguments, "50%", lambda kept: 1.0, start=plan_of(other, {}), round_to=1)
    wider = replace(plan_of(case, {}), groups=(group_of("a", 8), group_of("b", 9)))
    with pytest.raises(PlanError, match="it differs in b"):
        greedy_plan(*case.arguments, "50%", lambda kept: 1.0, start=wider, round_to=1)
    with pytest.raises(BudgetError, match=r"lowest cost that can be reached is 65 MACs"):
        greedy_plan(*case.arguments, 33, lambda kept: 1.0, start=plan_of(case, {"a": (1,)}), min_keep=2, round_to=1)
