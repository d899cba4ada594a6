"""A global ranking drops the lowest channels of all groups together; evolution never loses the best it has seen."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chains_for_tests import Case, cases, small_case
from references_search import ranked_widths_by_loops
from secateur.errors import ConfigError, EvaluationError, SecateurWarning
from secateur.search import global_ranking_plan

FEW: dict[str, Any] = {"generations": 12, "population": 5, "sample": 3}


def size(kept: Any) -> float:
    """The more of the group "b", the better."""
    return float(sum(len(kept.get(name, range(8))) * (1 + 3 * place) for place, name in enumerate("ab")))


@settings(max_examples=40)
@given(case=cases(), share=st.floats(0, 0.99))
def test_the_plain_ranking_is_that_of_loops(case: Case, share: float) -> None:
    largest = case.share(share)
    plan = global_ranking_plan(*case.arguments, largest, size, generations=0, **case.rules)
    assert plan.widths == ranked_widths_by_loops(case.allowed, case.scores, case.cost, largest)
    assert plan.cost_after <= largest


def test_evolution_is_never_worse_than_the_plain_ranking_and_repeats() -> None:
    judged: list[float] = []
    progress: list[tuple[int, float]] = []

    def evaluate(kept: Any) -> float:
        judged.append(size(kept))
        return judged[-1]

    options = {**FEW, "generations": 60, "round_to": 1, "seed": 3}
    plan = global_ranking_plan(
        *small_case().arguments, "60%", evaluate, on_generation=lambda *step: progress.append(step), **options
    )
    assert plan.settings["worth"] == max(judged) > plan.settings["plain"] == judged[0]
    assert [number for number, _ in progress] == list(range(61))
    assert [worth for _, worth in progress] == sorted(worth for _, worth in progress)
    assert judged[0] == judged[1]  # to see whether it repeats
    assert len(judged) < 62  # what was judged is remembered
    again = global_ranking_plan(*small_case().arguments, "60%", size, **options)
    assert (again.kept, again.settings["worth"]) == (plan.kept, plan.settings["worth"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"generations": -1}, "generations is -1; it must be a whole number, at least 0"),
        ({"generations": 2.5}, "generations is 2.5"),
        ({"sample": 9, "population": 8}, "sample must be at most population.* found 9, 8"),
        ({"sample": 0}, "sample is 0"),
        ({"population": 8.5}, "population is 8.5"),
        ({"sigma": 0.0}, "sigma above 0"),
        ({"sigma": "1"}, "sigma above 0"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        global_ranking_plan(*small_case().arguments, "60%", size, **options)


def test_an_evaluation_that_fails_names_its_generation() -> None:
    with pytest.raises(EvaluationError, match="generation 0"):
        global_ranking_plan(*small_case().arguments, "60%", lambda kept: math.nan, round_to=1, **FEW)


def test_equal_channels_go_together_and_a_channel_stays() -> None:
    groups, scores, cost = small_case().arguments
    level = type(scores)({name: torch.ones(len(values)) for name, values in scores.items()})
    plan = global_ranking_plan(groups, level, cost, "90%", size, generations=0, round_to=1)
    assert set(plan.widths.values()) == {1}


def test_an_evaluation_that_does_not_repeat_is_noticed() -> None:
    numbers = itertools.count()
    with pytest.warns(SecateurWarning, match="not deterministic: the candidate of generation 0 was worth 0.0"):
        global_ranking_plan(*small_case().arguments, "60%", lambda kept: float(next(numbers)), round_to=1, **FEW)
