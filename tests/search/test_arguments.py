"""What the searches refuse as seeds, costs and rates, and that numpy's numbers are numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy
import pytest

from chains_for_tests import small_case
from secateur.errors import ConfigError
from secateur.records import PruningPlan, ScoreTable
from secateur.search import global_ranking_plan, greedy_plan, rate_plan, uniform_plan


@pytest.mark.parametrize("seed", [None, "a", 1.5, True])
def test_a_seed_must_be_a_whole_number(seed: Any) -> None:
    with pytest.raises(ConfigError, match=f"^seed is {seed!r}; it must be a whole number, at least 0"):
        uniform_plan(*small_case().arguments, "60%", seed=seed, round_to=1)


@pytest.mark.parametrize("wrong", ["macs", ["macs"], None, {max}, (each for each in [max]), max])
def test_what_is_no_cost_is_refused(wrong: Any) -> None:
    groups, scores, _ = small_case().arguments
    with pytest.raises(ConfigError, match="stands where a cost should"):
        uniform_plan(groups, scores, wrong, "60%", round_to=1)
    with pytest.raises(ConfigError, match="stands where a cost should"):
        rate_plan(groups, scores, wrong, dict.fromkeys(groups, 0.5))


@pytest.mark.parametrize("rate", ["0.5", None])
def test_a_rate_must_be_a_number(rate: Any) -> None:
    groups, scores, cost = small_case().arguments
    with pytest.raises(ConfigError, match=f"is {rate!r}; a share of removed channels"):
        rate_plan(groups, scores, cost, dict.fromkeys(groups, rate))


def test_settings_in_the_numbers_of_numpy_can_be_stored() -> None:
    groups, scores, cost = small_case().arguments
    rules = {"round_to": numpy.int64(2), "min_keep": numpy.int64(1), "seed": numpy.int64(3)}
    scores = ScoreTable(dict(scores), settings={"samples": numpy.int32(5), "options": [{"r": numpy.float32(0.5)}]})
    plans = [
        uniform_plan(groups, scores, cost, "60%", variant="random", **rules),
        greedy_plan(groups, scores, cost, "60%", lambda kept: 1.0, delta=numpy.float32(0.25), **rules),
        rate_plan(groups, scores, cost, numpy.full(len(groups), 0.5, dtype=numpy.float32), **rules),
        global_ranking_plan(groups, scores, cost, "60%", lambda kept: 1.0, generations=numpy.int64(3), **rules),
    ]
    for plan in plans:
        again = PruningPlan.from_json(json.loads(json.dumps(plan.to_json())))
        assert again == plan
        assert json.loads(json.dumps(dict(plan.settings))) == plan.settings
        assert (plan.settings["round_to"], plan.settings["scores"]["options"]) == (2, [{"r": 0.5}])
    assert (plans[1].settings["delta"], set(plans[2].settings["rates"].values())) == (0.25, {0.5})
    assert json.loads(json.dumps(scores.to_json()))["settings"] == plans[0].settings["scores"]
