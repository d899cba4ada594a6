"""Uniform and greedy plans against naive twins, and the laws that both obey."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chains_for_tests import SETTINGS, Case, ChainCost, cases, group_of, small_case
from references_search import algorithm_1, select_by_removing, uniform_by_trying
from secateur.errors import BudgetError, ConfigError, EvaluationError, NetworkError, ScoreError, SecateurWarning
from secateur.records import ChannelGroup, Member, PruningPlan, ScoreTable
from secateur.search import GreedyStep, greedy_plan, uniform_plan

# --- uniform ----------------------------------------------------------------------------------------------------------


@given(cases(), st.floats(0, 0.99))
@settings(max_examples=150)
def test_uniform_equals_trying_every_share(case: Case, share: float) -> None:
    largest = case.share(share)
    plan = uniform_plan(*case.arguments, largest, **case.rules)
    assert plan.widths == uniform_by_trying(case.dense, case.allowed, case.cost, largest)
    assert {n: list(k) for n, k in plan.kept.items()} == {
        n: select_by_removing(case.scores[n], w) for n, w in plan.widths.items()
    }


@given(cases(), st.floats(0, 0.99))
@settings(max_examples=60)
def test_uniform_meets_the_budget_from_below_and_no_smaller_share_does(case: Case, share: float) -> None:
    largest = case.share(share)
    plan = uniform_plan(*case.arguments, largest, **case.rules)
    assert plan.cost_after == case.cost(plan.widths) <= largest == plan.budget < plan.cost_before
    looser = uniform_plan(*case.arguments, (largest + plan.cost_before) / 2, **case.rules)
    assert all(looser.widths[name] >= width for name, width in plan.widths.items())


def test_uniform_by_hand() -> None:
    plan = uniform_plan(*small_case().arguments, "60%", round_to=1)
    # dense 9*3*8 + 9*8*8 + 10*8 = 872; widths 6, 6: 162 + 324 + 60 = 546 > 523.2; widths 5, 5: 135 + 225 + 50 = 410
    assert (plan.cost, plan.cost_before, plan.budget, plan.cost_after) == ("macs", 872, pytest.approx(523.2), 410)
    assert plan.kept == {"a": (0, 4, 5, 6, 7), "b": (3, 4, 5, 6, 7)}
    assert plan.ties == {}
    assert plan.settings == {
        "search": "uniform",
        "rate": 3 / 8,
        "round_to": 1,
        "min_keep": 1,
        "reduction": "sum",
        "variant": "low",
        "scores": SETTINGS,
    }
    assert PruningPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_ties_at_the_cut_are_reported() -> None:
    plan = uniform_plan(*small_case().arguments, 600.0, round_to=1)
    assert plan.widths == {"a": 6, "b": 6}
    assert plan.ties == {"a": 3}


def test_scores_of_several_producers_are_combined() -> None:
    channels = tuple((c,) for c in range(3))
    group = ChannelGroup("a", 3, (Member("a", "producer", channels), Member("z", "producer", channels)))
    scores = ScoreTable({"a": torch.tensor([1.0, 2.0, 2.5]), "z": torch.tensor([3.0, 0.0, 0.0])})
    cost = ChainCost({"a": 3}, {"a": 1})
    assert uniform_plan({"a": group}, scores, cost, "70%", round_to=1)["a"] == (0, 2)
    assert uniform_plan({"a": group}, scores, cost, "70%", reduction="max", round_to=1)["a"] == (0, 2)
    assert uniform_plan({"a": group}, ScoreTable({"a": scores["a"]}), cost, "70%", round_to=1)["a"] == (1, 2)


# --- greedy -----------------------------------------------------------------------------------------------------------


@given(cases(8), st.floats(0, 0.99), st.sampled_from([0.005, 0.02, 0.1, 0.5]))
@settings(max_examples=150)
def test_greedy_equals_algorithm_1(case: Case, share: float, delta: float) -> None:
    largest = case.share(share)
    steps: list[GreedyStep] = []
    plan = greedy_plan(*case.arguments, largest, case.worth, delta=delta, on_step=steps.append, **case.rules)
    widths, expected = algorithm_1(
        case.dense, case.allowed, case.scores, case.cost, case.worth, largest=largest, delta=delta
    )
    assert plan.widths == widths
    assert [(s.group, s.width) for s in steps] == expected
    assert {n: list(k) for n, k in plan.kept.items()} == {
        n: select_by_removing(case.scores[n], w) for n, w in widths.items()
    }


@given(cases(8), st.floats(0, 0.99))
@settings(max_examples=60)
def test_greedy_reaches_every_budget_that_can_be_reached(case: Case, share: float) -> None:
    largest = case.share(share)
    steps: list[GreedyStep] = []
    plan = greedy_plan(*case.arguments, largest, case.worth, delta=0.3, on_step=steps.append, **case.rules)
    assert plan.cost_after == steps[-1].cost <= largest
    assert all(step.cost > largest for step in steps[:-1])
    costs = [plan.cost_before, *(step.cost for step in steps)]
    assert all(after < before for before, after in itertools.pairwise(costs))
    assert all(plan.widths[name] in case.allowed[name] for name in case.dense)
    assert plan.settings["steps"] == len(steps)
    assert plan.settings["evaluations"] == sum(step.candidates for step in steps)


@given(st.data())
@settings(max_examples=30)
def test_permuting_channels_permutes_the_plan(data: st.DataObject) -> None:
    dense = {"a": 6, "b": 5}
    scores = {name: list(data.draw(st.permutations(range(width)))) for name, width in dense.items()}
    orders = {name: list(data.draw(st.permutations(range(width)))) for name, width in dense.items()}
    case = Case(dense, scores, ChainCost(dense, {"a": 2, "b": 1}))
    moved = Case(dense, {n: [s[c] for c in orders[n]] for n, s in scores.items()}, case.cost)
    for plan, other in (
        (uniform_plan(*case.arguments, "40%", round_to=1), uniform_plan(*moved.arguments, "40%", round_to=1)),
        (
            greedy_plan(*case.arguments, "40%", case.worth, round_to=1),
            greedy_plan(*moved.arguments, "40%", moved.worth, round_to=1),
        ),
    ):
        for name in dense:
            assert sorted(orders[name][c] for c in other[name]) == list(plan[name])


def test_greedy_takes_the_cut_of_greatest_worth_and_says_so() -> None:
    case, asked, steps = small_case(), [], []

    def evaluate(kept: Mapping[str, tuple[int, ...]]) -> float:
        asked.append(dict(kept))
        return 0.9 if "a" not in kept else 0.1

    plan = greedy_plan(*case.arguments, "85%", evaluate, delta=0.05, on_step=steps.append, round_to=1)
    # delta frees 43.6: a channel of a frees 27 + 72 = 99, one of b frees 72 + 10 = 82; 872 - 82 - 82 = 708 <= 741.2
    assert asked == [
        {"a": (0, 2, 3, 4, 5, 6, 7)},
        {"b": (1, 2, 3, 4, 5, 6, 7)},
        {"b": (1, 2, 3, 4, 5, 6, 7)},  # the first winner, to see whether it is worth the same
        {"a": (0, 2, 3, 4, 5, 6, 7), "b": (1, 2, 3, 4, 5, 6, 7)},
        {"b": (2, 3, 4, 5, 6, 7)},
    ]
    assert steps == [GreedyStep(1, "b", 7, 790.0, 0.9, 2), GreedyStep(2, "b", 6, 708.0, 0.9, 2)]
    assert plan.widths == {"a": 8, "b": 6}
    assert plan.settings["search"] == "greedy"
    assert plan.settings["scores"] == SETTINGS


def test_equal_worth_goes_to_the_larger_saving_per_channel_then_to_the_first() -> None:
    case = small_case()
    assert greedy_plan(*case.arguments, "90%", lambda kept: 1.0, delta=0.05, round_to=1).widths == {"a": 7, "b": 8}

    class Even(ChainCost):
        def __call__(self, widths: Mapping[str, int]) -> float:
            return float(sum(widths.get(name, width) for name, width in self.dense.items()))

    even = Even({"b": 4, "a": 4}, {})
    groups = {"b": group_of("b", 4), "a": group_of("a", 4)}
    assert greedy_plan(groups, case_scores(4), even, "90%", lambda kept: 1.0, round_to=1).widths == {"b": 3, "a": 4}


def case_scores(width: int) -> ScoreTable:
    return ScoreTable({name: torch.arange(float(width)) for name in "ab"})


def test_a_delta_that_rounds_up_still_lets_exactly_delta_through() -> None:
    """0.07 * 100 is 7.000000000000001; a cut that frees 7 of 100 frees 7%."""

    class Hundred(ChainCost):
        def __call__(self, widths: Mapping[str, int]) -> float:
            return 79.0 + 7 * widths.get("a", 3)

    case = Case({"a": 3}, {"a": [1, 2, 3]}, Hundred({"a": 3}, {}))
    steps: list[GreedyStep] = []
    greedy_plan(*case.arguments, "95%", lambda kept: 1.0, delta=0.07, on_step=steps.append, round_to=1)
    assert [step.width for step in steps] == [2]
    assert steps[0].cost == 93


def test_out_of_reach_is_said_before_any_evaluation_with_the_lowest_cost() -> None:
    def never(kept: Mapping[str, tuple[int, ...]]) -> float:
        raise AssertionError("evaluated")

    case = small_case()
    for search, more in ((uniform_plan, ()), (greedy_plan, (never,))):
        with pytest.raises(
            BudgetError, match=r"'4%' allows 34.88 MACs, .* is 46 MACs \(5.3% of the dense network\) with min_keep=1"
        ):
            search(*case.arguments, "4%", *more, round_to=1)
        with pytest.raises(BudgetError, match="already met"):
            search(*case.arguments, 872, *more, round_to=1)
        with pytest.raises(BudgetError, match="with min_keep=1 and round_to=8"):
            search(*case.arguments, "50%", *more)  # the groups are eight wide


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_evaluation_that_gives_no_number_is_refused_by_name(bad: float) -> None:
    with pytest.raises(EvaluationError, match=rf"cuts the group 'b' to 7 channels in step 1 gave {bad}"):
        greedy_plan(*small_case().arguments, "50%", lambda kept: bad if "b" in kept else 1.0, delta=0.05, round_to=1)


def test_an_evaluation_that_fails_is_named_with_its_cause() -> None:
    def evaluate(kept: Mapping[str, tuple[int, ...]]) -> float:
        if len(kept.get("a", range(8))) < 7:
            raise RuntimeError("out of memory")
        return 1.0

    with pytest.raises(EvaluationError, match=r"'a' to 6 channels in step 2 failed: RuntimeError: out of memory") as e:
        greedy_plan(*small_case().arguments, "50%", evaluate, delta=0.05, round_to=1)
    assert isinstance(e.value.__cause__, RuntimeError)


def test_ctrl_c_passes_through() -> None:
    def evaluate(kept: Mapping[str, tuple[int, ...]]) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        greedy_plan(*small_case().arguments, "50%", evaluate, round_to=1)


def test_stuck_where_only_joint_cuts_free_anything() -> None:
    class Joint(ChainCost):
        def __call__(self, widths: Mapping[str, int]) -> float:
            return float(100 * max(widths.get(name, width) for name, width in self.dense.items()))

    cost = Joint({"a": 4, "b": 4}, {})
    groups = {name: group_of(name, 4) for name in "ab"}
    with pytest.raises(BudgetError, match=r"stuck at 400 MACs, above the budget of 200 MACs"):
        greedy_plan(groups, case_scores(4), cost, "50%", lambda kept: 1.0, round_to=1)
    assert uniform_plan(groups, case_scores(4), cost, "50%", round_to=1).widths == {"a": 2, "b": 2}


@pytest.mark.parametrize("delta", [0, -0.1, 1.5, float("nan")])
def test_delta_must_be_a_share(delta: float) -> None:
    with pytest.raises(ConfigError, match=f"delta is {delta}"):
        greedy_plan(*small_case().arguments, "50%", lambda kept: 1.0, delta=delta, round_to=1)


@pytest.mark.parametrize("search", [uniform_plan, partial(greedy_plan, evaluate=lambda kept: 1.0)])
def test_groups_without_scores_stay_and_are_named(search: Any) -> None:
    groups, scores, cost = small_case().arguments
    with pytest.warns(SecateurWarning, match="1 of 2 groups stay as they are.*: b"):
        plan = search(groups, ScoreTable({"a": scores["a"]}), cost, "90%", round_to=1)
    assert plan["b"] == tuple(range(groups["b"].width))
    assert len(plan["a"]) < groups["a"].width
    assert plan.cost_after <= plan.budget


def test_bad_groups_scores_and_settings() -> None:
    case = small_case()
    groups, scores, cost = case.arguments
    foreign: Any = ScoreTable({"c": scores["a"]})
    for search, more in ((uniform_plan, ()), (greedy_plan, (lambda kept: 1.0,))):
        with pytest.raises(NetworkError, match="no channel group"):
            search({}, scores, cost, "50%", *more)
        with pytest.raises(ScoreError, match="none of the 1 scored layers"):
            search(groups, foreign, cost, "50%", *more)
        for wrong in (0, 2.5):
            with pytest.raises(ConfigError, match=f"round_to is {wrong}; it must be a whole number"):
                search(groups, scores, cost, "50%", *more, round_to=wrong)
        with pytest.raises(BudgetError, match="malformed"):
            search(groups, scores, cost, "flops", *more)
