"""Stated rates: the published grammar, the published rows to their printed digits, and plans made of rates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from networks_for_tests import Residual, torchvision_network
from references import select_by_removing
from references_costs import hrank_by_loops
from secateur import networks
from secateur.channel_graph import apply_plan, channel_groups, verify_pruning
from secateur.cost import MacsCost, ParameterCost, hrank_cost, hrank_parameters
from secateur.errors import ConfigError, ScoreError
from secateur.networks import resnet56, vgg16_bn
from secateur.records import ChannelGroup, ChannelGroups, Member, PruningPlan, ScoreTable
from secateur.search import PUBLISHED_RATES, PublishedRates, parse_rates, rate_plan, rate_widths

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


# --- the published rows -----------------------------------------------------------------------------------------------


def build(row: PublishedRates) -> tuple[nn.Module, torch.Tensor]:
    if row.network == "torchvision.resnet50":
        pytest.importorskip("torchvision")
        return torchvision_network("resnet50", classes=1000), torch.zeros(1, 3, 224, 224)
    return getattr(networks, row.network)(), IMAGE


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("vgg16_bn", 13),
        ("resnet56", 55),
        ("resnet110", 109),
        ("densenet40", 39),
        ("googlenet", 10),
        ("googlenet-wide", 10),
        ("resnet50", 53),
    ],
)
def test_every_rate_belongs_to_convolutions_of_the_network(name: str, length: int) -> None:
    row = PUBLISHED_RATES[name]
    assert len(row.layers) == len(parse_rates(row.text)) == length
    model, _ = build(row)
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert set(row.rates) <= set(convolutions)
    if name not in ("vgg16_bn", "googlenet", "googlenet-wide"):
        assert set(row.rates) == set(convolutions)
    if name in ("resnet56", "resnet110", "densenet40"):
        assert list(row.rates) == list(convolutions), "in the order in which they run"
    assert row.counted_rates.keys() == row.rates.keys()


def cost_of(row: PublishedRates, rates: Mapping[str, float]) -> tuple[float, float, float, float]:
    """MACs and parameters in millions, dense and at the rates, by the published accounting and by its naive twin."""
    model, x = build(row)
    groups = channel_groups(model, x, check=False) if row.narrowed else None
    macs = hrank_cost(model, x, groups, narrowed=row.narrowed)
    parameters = hrank_parameters(model, groups, narrowed=row.narrowed)
    widths = rate_widths(macs.groups, rates, mode="hrank")
    kept = {layer: int(model.get_submodule(layer).out_channels) for layer in rates}
    kept = {layer: width - int(rates[layer] * width) for layer, width in kept.items()}
    lost = {
        transition: sum(int(rate * 12) for layer, rate in rates.items() if layer.startswith(f"dense{stage}."))
        for stage, transition in enumerate(row.narrowed, 1)
    }
    assert (macs(widths), parameters(widths)) == hrank_by_loops(model, x, kept, lost)
    return macs({}) / 1e6, parameters({}) / 1e6, macs(widths) / 1e6, parameters(widths) / 1e6


@pytest.mark.parametrize(
    ("name", "dense", "found"),
    [
        ("resnet56", (125.486, 0.849), (62.716, 0.4894)),
        ("resnet110", (252.888, 1.720), (156.885, 1.0548)),
        ("densenet40", (282.917, 1.0406), (167.411, 0.6646)),
        ("googlenet", (1521.756, 6.150), (450.061, 1.8583)),
        ("googlenet-wide", (1521.756, 6.150), (686.015, 2.7402)),
        ("resnet50", (4089.185, 25.504), (1549.652, 13.7738)),
    ],
)
def test_the_published_rows_cost_what_was_printed(
    name: str, dense: tuple[float, float], found: tuple[float, float]
) -> None:
    row = PUBLISHED_RATES[name]
    *before, macs, parameters = cost_of(row, row.counted_rates)
    assert before == pytest.approx(dense, abs=6e-4)
    assert (macs, parameters) == (pytest.approx(found[0], abs=6e-4), pytest.approx(found[1], abs=6e-5))
    printed = 5.0 if row.macs % 10 == 0 else 0.02  # 0.45 G or 62.72 M
    assert macs == pytest.approx(row.macs, abs=printed)
    assert parameters == pytest.approx(row.parameters, abs=0.015 if name == "resnet110" else 0.005)
    if name == "resnet110":
        assert 100 * (1 - parameters / before[1]) == pytest.approx(38.7, abs=0.05)


def test_the_published_row_of_vgg_cannot_be_had() -> None:
    """Printed are 108.61 M and 2.64 M; neither reading of the thirteenth rate gives them."""
    row = PUBLISHED_RATES["vgg16_bn"]
    twelve, thirteen = cost_of(row, row.rates), cost_of(row, row.rates | {"features.conv16": 0.8})
    assert twelve == pytest.approx((313.464, 14.982, 116.629, 4.808), abs=6e-4)
    assert thirteen[2:] == pytest.approx((109.090, 2.923), abs=6e-4)


def test_googlenets_module_c4_counts_by_the_rate_of_the_next() -> None:
    row = PUBLISHED_RATES["googlenet"]
    assert {layer for layer in row.rates if row.rates[layer] != row.counted_rates[layer]} == {
        f"inception_c4.{branch}"
        for branch in ("branch1x1.0", "branch3x3.3", "branch5x5.3", "branch5x5.6", "branch_pool.1")
    }
    assert cost_of(row, row.rates)[2:] == pytest.approx((455.683, 1.8803), abs=6e-4)


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


def published_plan(
    network: Callable[[], nn.Module], name: str, **options: Any
) -> tuple[nn.Module, ChannelGroups, PruningPlan]:
    model = network().eval()
    groups = channel_groups(model, IMAGE, check=False, **options)
    cost = hrank_cost(model, IMAGE, groups)
    return model, groups, rate_plan(groups, random_scores(groups), cost, PUBLISHED_RATES[name].rates, mode="hrank")


def test_the_published_resnet56_is_a_plan_that_masks_the_stream() -> None:
    model, groups, plan = published_plan(resnet56, "resnet56", residual="mask")
    assert len(groups) == 55
    assert (plan.cost, round(plan.cost_after / 1e6, 2), plan.cost_after) == ("hrank", 62.72, plan.budget)
    row = PUBLISHED_RATES["resnet56"]
    assert plan.widths == rate_widths(groups, row.text, mode="hrank"), "the groups are in the order of the rates"
    apart = hrank_cost(model, IMAGE)
    assert rate_widths(apart.groups, row.rates, mode="hrank") == plan.widths | {"linear": 10}
    assert apart(plan.widths) == plan.cost_after
    pruned = apply_plan(model, plan)
    left = MacsCost(pruned, IMAGE, {})({})
    assert left == MacsCost(model, IMAGE, groups)(plan.widths)
    assert round(left / 1e6, 2) == 65.07, "more than the 62.72 M that are counted: the stream stays as wide as it was"
    with pytest.raises(ConfigError, match="layers that share their 16 channels would keep different numbers"):
        published_plan(resnet56, "resnet56")


def test_the_published_vgg_is_a_plan_of_which_a_third_of_the_counted_work_is_left() -> None:
    model, groups, plan = published_plan(vgg16_bn, "vgg16_bn")
    pruned = apply_plan(model, plan)
    assert round(plan.cost_after / 1e6, 2) == 116.63
    assert round(MacsCost(pruned, IMAGE, {})({}) / 1e6, 2) == 43.23
    assert MacsCost(model, IMAGE, groups)(plan.widths) == MacsCost(pruned, IMAGE, {})({})
