"""The greedy search within limits: the least and the most channels that each group keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from secateur.errors import BudgetError, ConfigError, PlanError
from secateur.records import ChannelGroup, Member, ScoreTable
from secateur.search import greedy_plan, uniform_plan

WIDTH = 8
CHANNELS = tuple((c,) for c in range(WIDTH))
GROUPS = {name: ChannelGroup(name, WIDTH, (Member(name, "producer", CHANNELS),)) for name in "ab"}
SCORES = ScoreTable({"a": torch.arange(8.0), "b": torch.arange(8.0)})


class Channels:
    """The channels that are left."""

    name, unit = "channels", "channels"

    def __call__(self, widths: Mapping[str, int]) -> float:
        return float(sum(widths.get(name, WIDTH) for name in GROUPS))


def spares(group: str, kept: Mapping[str, tuple[int, ...]]) -> float:
    """Worth: how much of one group is left."""
    return float(len(kept.get(group, CHANNELS)))


def test_a_cap_stops_the_cut_that_costs_nothing() -> None:
    free = greedy_plan(GROUPS, SCORES, Channels(), "50%", lambda kept: spares("b", kept), round_to=1)
    capped = greedy_plan(
        GROUPS, SCORES, Channels(), "50%", lambda kept: spares("b", kept), limits={"a": (5, 8)}, round_to=1
    )
    assert free.widths == {"a": 1, "b": 7}
    assert capped.widths == {"a": 5, "b": 3}
    assert capped["a"] == (3, 4, 5, 6, 7)


def test_a_floor_goes_before_the_first_step() -> None:
    seen = []

    def evaluate(kept: Mapping[str, tuple[int, ...]]) -> float:
        seen.append(dict(kept))
        return spares("b", kept)

    plan = greedy_plan(GROUPS, SCORES, Channels(), "50%", evaluate, limits={"b": (1, 6)}, round_to=1)
    assert plan.widths == {"a": 2, "b": 6}
    assert all(len(kept["b"]) <= 6 for kept in seen)
    assert plan.cost_before == 16


def test_floors_that_meet_the_budget_need_no_evaluation() -> None:
    plan = greedy_plan(GROUPS, SCORES, Channels(), "75%", lambda kept: 1 / 0, limits={"a": (1, 4)}, round_to=1)
    assert plan.widths == {"a": 4, "b": 8}
    assert plan.settings["evaluations"] == 0


@pytest.mark.parametrize(
    ("limits", "options", "told"),
    [
        ({"c": (1, 2)}, {}, "limits are given for c, which is no channel group"),
        ({"a": (5, 4)}, {}, "'a' is to keep 5 to 4 of its 8 channels"),
        ({"a": 3}, {}, "the limits of the group 'a' are 3; they must be two numbers"),
        ({"a": "37"}, {}, "the limits of the group 'a' are '37'"),
        ({"a": (1, 2, 3)}, {}, "they must be two numbers"),
        ({"a": (5, 7)}, {"round_to": 4}, "widths that are allowed are 4, 8"),
    ],
)
def test_limits_that_cannot_be_met(limits: dict[str, Any], options: dict[str, int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        greedy_plan(GROUPS, SCORES, Channels(), "50%", lambda kept: 0.0, limits=limits, **options)


def test_caps_count_in_what_can_be_reached() -> None:
    with pytest.raises(
        BudgetError, match=r"lowest cost that can be reached is 9 channels.* and the limits of each group"
    ):
        greedy_plan(GROUPS, SCORES, Channels(), "50%", lambda kept: 0.0, limits={"a": (8, 8)}, round_to=1)


@pytest.mark.parametrize(("budget", "widths"), [("50%", {"a": 3, "b": 5}), ("95%", {"a": 3, "b": 7})])
def test_limits_hold_from_a_start_too(budget: str, widths: dict[str, int]) -> None:
    start = uniform_plan(GROUPS, SCORES, Channels(), "90%", round_to=1)
    limits = {"a": (3, 3)}
    plan = greedy_plan(
        GROUPS, SCORES, Channels(), budget, lambda kept: spares("a", kept), start=start, limits=limits, round_to=1
    )
    assert start.widths == {"a": 7, "b": 7}
    assert plan.widths == widths
    with pytest.raises(PlanError, match="the start keeps 7 channels of the group 'b', which must keep 8"):
        greedy_plan(GROUPS, SCORES, Channels(), budget, lambda kept: 0.0, start=start, limits={"b": (8, 8)}, round_to=1)
