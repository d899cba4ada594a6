"""Stated rates: the published grammar, the widths that they give, and plans made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from networks_for_tests import Residual
from references_search import select_by_removing
from secateur.channel_graph import apply_plan, channel_groups, verify_pruning
from secateur.cost import MacsCost, ParameterCost
from secateur.errors import BudgetError, ConfigError, ScoreError
from secateur.records import ChannelGroup, ChannelGroups, Member, PruningPlan, ScoreTable
from secateur.search import parse_rates, rate_plan, rate_widths

IMAGE = torch.zeros(1, 3, 32, 32)


# --- the grammar ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("[0.5]", [0.5]),
        ("[0.95]+[0.5]*6+[0.9]*4+[0.8]*2", [0.95] + [0.5] * 6 + [0.9] * 4 + [0.8] * 2),
        ("[0.]+[0.18]*29", [0.0] + [0.18] * 29),
        (" [ 0.10 ] * 2 + [1.0] ", [0.1, 0.1, 1.0]),
    ],
)
def test_published_strings_are_read(text: str, rates: list[float]) -> None:
    assert parse_rates(text) == rates


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 40)), min_size=1, max_size=20))
def test_what_is_written_is_read_back(runs: list[tuple[int, int]]) -> None:
    text = "+".join(f"[{hundredths / 100:.2f}]*{times}" for hundredths, times in runs)
    assert parse_rates(text) == [hundredths / 100 for hundredths, times in runs for _ in range(times)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[0.5]+[0]*2", "part 2 of the rates '[0.5]+[0]*2' is '[0]*2'; a rate needs a decimal point"),
        ("", "part 1 of the rates '' is ''; allowed: a rate such as [0.5]"),
        ("[0.5]+", "part 2"),
        ("0.5*3", "part 1"),
        ("[.5]", "part 1"),
        ("[0.5]*", "part 1"),
        ("[0.5]*-1", "part 1"),
        ("[0.5]*2*3", "part 1"),
        ("[-0.5]", "part 1"),
        ("[0.5][0.6]", "part 1"),
        ("[0.1]+[0.2]+[1.5]", "part 3 of the rates '[0.1]+[0.2]+[1.5]' is '[1.5]'; a rate must lie in 0..1"),
        ("[0.5]*0", "repeated at least once"),
    ],
)
def test_malformed_strings_name_the_part(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse_rates(text)


# --- widths -----------------------------------------------------------------------------------------------------------


def group(name: str, width: int, *others: str) -> ChannelGroup:
    own = tuple((c,) for c in range(width))
    return ChannelGroup(name, width, tuple(Member(layer, "producer", own) for layer in (name, *others)))


GROUPS = {"stem": group("stem", 64, "shortcut"), "conv": group("conv", 20)}


@pytest.mark.parametrize(
    ("rates", "mode", "widths"),
    [
        ("[0.45]+[0.5]", "hrank", {"stem": 36, "conv": 10}),
        ("[0.45]+[0.5]", "hrankplus", {"stem": 35, "conv": 10}),
        ([0.45, 0.0], "secateur", {"stem": 36, "conv": 20}),
        ({"conv": 0.3}, "hrank", {"stem": 64, "conv": 14}),
        ({"shortcut": 0.5}, "hrank", {"stem": 32, "conv": 20}),
        ({"stem": 0.5, "shortcut": 0.501}, "hrank", {"stem": 32, "conv": 20}),
        ({"conv": 1.0}, "hrank", {"stem": 64, "conv": 1}),
        ({"elsewhere": 0.0}, "hrank", {"stem": 64, "conv": 20}),
    ],
)
def test_widths(rates: Any, mode: Any, widths: dict[str, int]) -> None:
    assert rate_widths(GROUPS, rates, mode=mode) == widths


def test_widths_are_rounded_as_asked() -> None:
    assert rate_widths(GROUPS, [0.45, 0.9], round_to=8, min_keep=4) == {"stem": 40, "conv": 8}


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ("[0.5]*3", "there are 3 rates for 2 groups; give one for each, in this order: stem, conv"),
        ([], "there are 0 rates for 2 groups"),
        ({"stem": 0.5, "shortcut": 0.2}, "different numbers of them: stem 32 (rate 0.5), shortcut 52 (rate 0.2)"),
        ({"fc": 0.5}, "channels of 'fc' cannot be pruned; rates can be given for conv, shortcut, stem"),
        ({"conv": 1.5}, "the rate of 'conv' is 1.5"),
        ({"conv": float("nan")}, "the rate of 'conv' is nan"),
        ("[0.5]+[1]", "part 2"),
    ],
)
def test_refusals(rates: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        rate_widths(GROUPS, rates)


def test_a_layer_that_is_skipped_is_refused_with_the_reason() -> None:
    groups = ChannelGroups([GROUPS["conv"]], skipped={"fc": "its channels are the network's outputs"})
    with pytest.raises(ConfigError, match=r"'fc' cannot be pruned \(its channels are the network's outputs\)"):
        rate_widths(groups, {"fc": 0.1})


# --- plans ------------------------------------------------------------------------------------------------------------


def random_scores(groups: Mapping[str, ChannelGroup]) -> ScoreTable:
    return ScoreTable(
        {m.layer: torch.rand(g.width) for g in groups.values() for m in g.producers}, settings={"by": "x"}
    )


def test_a_plan_keeps_the_best_channels_and_records_what_it_reached() -> None:
    model, x = Residual(), torch.randn(2, 3, 9, 9)
    groups = channel_groups(model, x)
    costs = MacsCost(model, x, groups), ParameterCost(model, groups)
    scores = random_scores(groups)
    plan = rate_plan(groups, scores, costs, {"stem": 0.4, "first": 0.5}, mode="hrank")
    assert plan.widths == {"stem": 5, "first": 3}
    for name in groups:
        assert list(plan[name]) == select_by_removing(groups[name].combine(scores).tolist(), plan.widths[name])
    assert (plan.cost, plan.cost_before) == ("macs", costs[0]({}))
    assert plan.cost_after == plan.budget == costs[0](plan.widths)
    assert plan.spent["parameters"].after == costs[1](plan.widths)
    assert plan.settings["search"] == "rates"
    assert plan.settings["rates"] == {"stem": 0.4, "first": 0.5}
    assert plan.settings["mode"] == "hrank"
    assert PruningPlan.from_json(plan.to_json()) == plan
    verify_pruning(model, apply_plan(model, plan), plan, x)


def test_a_budget_is_recorded_where_it_is_met_and_refused_where_not() -> None:
    model, x = Residual(), torch.randn(2, 3, 9, 9)
    groups = channel_groups(model, x)
    costs = MacsCost(model, x, groups), ParameterCost(model, groups)
    arguments = (groups, random_scores(groups), costs, {"stem": 0.5, "first": 0.5})
    free = rate_plan(*arguments)
    share = 100 * free.cost_after / free.cost_before
    plan = rate_plan(*arguments, budget={"macs": free.cost_after, "parameters": "99%"})
    assert (plan.kept, plan.budget) == (free.kept, free.cost_after)
    assert plan.further["parameters"].budget == 0.99 * free.further["parameters"].before
    with pytest.raises(
        BudgetError, match=rf"the rates lead to .* MACs \({share:.1f}% of the dense network\), above the"
    ):
        rate_plan(*arguments, budget={"macs": free.cost_after - 1, "parameters": "99%"})
    with pytest.raises(BudgetError, match="no budget is given for the cost 'parameters'"):
        rate_plan(*arguments, budget={"macs": "50%"})


def test_groups_without_a_rate_need_no_scores() -> None:
    model, x = Residual(), torch.randn(2, 3, 9, 9)
    groups = channel_groups(model, x)
    scores = ScoreTable({"first": torch.rand(6)})
    plan = rate_plan(groups, scores, MacsCost(model, x, groups), {"first": 0.5, "stem": 0.0})
    assert plan.widths == {"stem": 8, "first": 3}
    with pytest.raises(ScoreError, match="no scores for the group 'stem'"):
        rate_plan(groups, scores, MacsCost(model, x, groups), {"stem": 0.5})


def test_rates_of_zero_leave_the_network_as_it_is() -> None:
    model, x = Residual(), torch.randn(2, 3, 9, 9)
    groups = channel_groups(model, x)
    plan = rate_plan(groups, random_scores(groups), MacsCost(model, x, groups), "[0.]*2")
    assert plan.cost_after == plan.cost_before == plan.budget
    assert all(len(plan[name]) == groups[name].width for name in groups)


@pytest.mark.parametrize(("wrong", "words"), [({"seed": -1}, "^seed is -1"), ({"variant": "best"}, "'best'")])
def test_settings_out_of_range_are_refused_as_in_every_search(wrong: Any, words: str) -> None:
    groups = {"conv": ChannelGroup("conv", 2, (Member("conv", "producer", ((0,), (1,))),))}
    model = torch.nn.Sequential()
    model.add_module("conv", torch.nn.Conv2d(3, 2, 1))
    cost = MacsCost(model, IMAGE, groups)
    with pytest.raises(ConfigError, match=words):
        rate_plan(groups, ScoreTable({"conv": torch.arange(2.0)}), cost, "[0.5]", **wrong)


@pytest.mark.parametrize("variant", ["reverse", "edge", "middle", "random"])
def test_variants_keep_as_many_and_others(variant: Any) -> None:
    model, x = Residual(), torch.randn(2, 3, 9, 9)
    groups = channel_groups(model, x)
    scores = random_scores(groups)
    low, other = (
        rate_plan(groups, scores, MacsCost(model, x, groups), [0.5, 0.5], variant=v, seed=1) for v in ("low", variant)
    )
    assert low.widths == other.widths
    assert low.kept != other.kept


def test_costs_are_refused_as_in_every_search_also_without_a_budget() -> None:
    groups = {"conv": ChannelGroup("conv", 2, (Member("conv", "producer", ((0,), (1,))),))}
    scores = ScoreTable({"conv": torch.arange(2.0)})

    class Odd:
        name, unit = "odd", "units"

        def __call__(self, widths: Mapping[str, int]) -> float:
            return float("inf") * (1 + len(widths))

    with pytest.raises(ConfigError, match="there must be one; found: None"):
        rate_plan(groups, scores, [], "[0.5]")
    with pytest.raises(ConfigError, match="found: odd, odd"):
        rate_plan(groups, scores, [Odd(), Odd()], "[0.5]")
    with pytest.raises(ConfigError, match="the cost 'odd' is inf"):
        rate_plan(groups, scores, Odd(), "[0.5]")
