"""Local search by swaps: answers by hand, what it does with a start, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from secateur.errors import BudgetError, ConfigError, EvaluationError, PlanError, SecateurWarning
from secateur.protocols import Kept
from secateur.records import ScoreTable
from secateur.search import RefineStep, curve_plan, refine_plan, uniform_plan
from swaps_for_tests import Case, Chain, pair


def test_swaps_by_hand() -> None:
    """3a + ab + 2b <= 30. Three of each cost 24, four of b 29; of two more a pays one, with one of its own."""
    case, steps = pair(), []
    plan = case.refine(30.0, on_step=steps.append, breadth=1, promise="scores")
    assert case.start(30.0).widths == {"a": 3, "b": 3}
    assert steps[0] == RefineStep(1, {"b": 4}, 29.0, 18.0, 2)  # a would be wider first, and is worth no more
    assert steps[1].widths == {"b": 6, "a": 2}  # 6 + 12 + 12 = 30: as far as a's channel pays for
    assert plan.widths == {"a": 2, "b": 6}
    assert (plan.settings["worth_at_start"], plan.settings["worth"]) == (13.0, 27.0)
    assert plan.settings["search"] == "refine"
    assert plan.settings["start"]["search"] == "uniform"


def test_nothing_is_accepted_that_is_worth_the_same() -> None:
    case = pair(0)
    plan = case.refine(24.0)
    assert plan.kept == case.start(24.0).kept
    assert plan.settings["steps"] == 0
    assert plan.settings["evaluations"] > 1


def test_evaluations_are_counted_and_end_the_search() -> None:
    case = pair()
    plan = case.refine(24.0, max_evaluations=1)
    assert plan.kept == case.start(24.0).kept
    assert len(case.asked) == 2  # the start, twice
    case.asked.clear()
    assert case.refine(24.0, max_evaluations=3, breadth=8).settings["evaluations"] == 3
    assert len(case.asked) == 4


def test_a_group_keeps_the_starts_own_channels_at_the_starts_width() -> None:
    case = pair()
    start = replace(case.start(24.0), kept={"a": (0, 1, 2), "b": (0, 2, 4)}, ties={"a": 2})
    plan = case.refine(24.0, start=start, max_evaluations=1)
    assert plan.kept == start.kept
    assert plan.ties == {"a": 2}
    assert case.asked[0] == start.kept
    moved = case.refine(30.0, start=start, breadth=1, max_evaluations=3)
    assert moved.kept == {"a": (0, 1, 2), "b": (2, 3, 4, 5)}


def test_it_starts_from_curves_and_widths_that_rounding_does_not_allow() -> None:
    case = pair()
    start = curve_plan(case.groups, case.table, case.cost, 24.0, round_to=1)
    plan = case.refine(24.0, start=start)
    assert plan.settings["worth"] >= plan.settings["worth_at_start"]
    rounded = case.refine(24.0, start=case.start(24.0), round_to=2)
    assert {width % 2 for name, width in rounded.widths.items() if width != 3} <= {0}


def test_groups_without_scores_keep_what_they_keep_in_the_start() -> None:
    case = pair()
    start = case.start(24.0)
    alone = ScoreTable({"b": case.table["b"]})
    with pytest.warns(SecateurWarning, match="1 of 2 groups stay as they are.*: a"):
        plan = refine_plan(case.groups, alone, case.cost, 30.0, case.worth, start, round_to=1)
    assert plan["a"] == start["a"]
    assert plan.widths == {"a": 3, "b": 4}
    assert plan.cost_after == case.cost(plan.widths)


def test_several_budgets_are_all_met() -> None:
    case = pair()
    second = Chain(case.dense, inputs=9, name="other")
    both, budgets = (case.cost, second), {"macs": 30.0, "other": 45.0}
    start = uniform_plan(case.groups, case.table, both, budgets, round_to=1)
    plan = refine_plan(case.groups, case.table, both, budgets, case.worth, start, round_to=1)
    assert plan.cost_after <= 30
    assert plan.further["other"].after == second(plan.widths) <= 45
    assert plan.settings["worth"] > plan.settings["worth_at_start"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_worth_that_is_no_number_is_refused_by_the_swap(bad: float) -> None:
    case = pair()
    with pytest.raises(EvaluationError, match="gives 'b' 4 channels in step 1 gave"):
        case.refine(30.0, evaluate=lambda kept: bad if len(kept["b"]) == 4 else 1.0)
    with pytest.raises(EvaluationError, match="evaluating the start gave"):
        case.refine(24.0, evaluate=lambda kept: bad)


def test_an_evaluation_that_fails_is_named_by_the_swap() -> None:
    def evaluate(kept: Kept) -> float:
        if len(kept["a"]) < 3:
            raise RuntimeError("out of memory")
        return 1.0

    with pytest.raises(EvaluationError, match="'b' 4 channels and 'a' 2 channels in step 1 failed: RuntimeError: out"):
        pair().refine(24.0, evaluate=evaluate)


def test_an_evaluation_that_does_not_repeat_is_noticed() -> None:
    worths = iter(range(100))
    with pytest.warns(SecateurWarning, match="not deterministic: the start was worth 0"):
        pair().refine(24.0, evaluate=lambda kept: next(worths), max_evaluations=1)


def test_a_start_that_does_not_fit_is_refused() -> None:
    case = pair()
    with pytest.raises(BudgetError, match=r"the start costs 24 MACs, above the budget 20\.0, which allows 20 MACs"):
        case.refine(20.0, start=case.start(24.0))
    other = Case({"a": [1, 2], "c": [1, 2]}, {"a": [1, 1], "c": [1, 1]})
    with pytest.raises(PlanError, match="plan of the same groups; it differs in a, b, c"):
        case.refine(24.0, start=other.start(8.0))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_evaluations": 0}, "max_evaluations is 0; it must be a whole number, at least 1"),
        ({"max_evaluations": 1.5}, "max_evaluations is 1.5"),
        ({"breadth": 0}, "breadth is 0"),
        ({"promise": "luck"}, "unknown promise 'luck'; allowed: curves, scores"),
        ({"round_to": 0}, "round_to is 0"),
    ],
)
def test_settings_out_of_range(setting: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pair().refine(24.0, **setting)
