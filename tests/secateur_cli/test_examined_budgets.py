"""What the doctor says of budgets, and that what mends them changes no more than it has to."""

from __future__ import annotations

import shlex

import pytest

from runs_for_tests import User, examine

pytestmark = pytest.mark.usefixtures("quick")


def test_a_budget_out_of_reach_comes_with_one_within_it(user: User) -> None:
    found = examine(user, "plan.budget.macs=2%", "plan.round_to=4")
    assert found["plan"].severity == "error"
    assert "the lowest cost that can be reached is" in found["plan"].what
    (command,) = found["plan"].mend
    settings = shlex.split(command)[4::2]
    assert len({setting.partition("=")[0] for setting in settings}) == len(settings)
    assert examine(user, *settings)["plan"].severity == "fine"


def test_a_latency_that_nobody_has_measured_is_left_as_it_is(user: User) -> None:
    finding = examine(user, "plan.budget={macs: 2%, parameters: 2%, latency: 60%}", "plan.round_to=4")["plan"]
    (command,) = finding.mend
    changed = [setting.partition("=")[0] for setting in shlex.split(command)[4::2]]
    assert changed == ["plan.budget", "plan.round_to", "plan.budget.macs", "plan.budget.parameters"]


def test_a_search_that_begins_below_its_budget_begins_elsewhere(user: User) -> None:
    settings = ("plan.search=greedy", "plan.greedy_from=30%", "plan.budget={latency: 60%}")
    finding = examine(user, *settings)["plan"]
    assert "the search has to begin above a budget" in finding.what
    assert finding.mend[0].endswith("'plan.budget={latency: 60%}' --set plan.greedy_from=null")


def test_a_latency_in_milliseconds_is_told_as_one(user: User) -> None:
    found = examine(user, "plan.budget={latency: 2.50 ms}")
    assert found["plan"].what == "whether a latency of 2.50 ms can be met, the run measures"
