"""The published rates: what they belong to, what they cost to the printed digits, and the plans that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from networks_for_tests import torchvision_network
from references_costs import hrank_by_loops
from secateur import networks
from secateur.channel_graph import apply_plan, channel_groups
from secateur.cost import MacsCost, hrank_cost, hrank_parameters
from secateur.errors import ConfigError
from secateur.networks import resnet56, vgg16_bn
from secateur.records import ChannelGroups, PruningPlan, ScoreTable
from secateur.search import PUBLISHED_RATES, PublishedRates, parse_rates, rate_plan, rate_widths

IMAGE = torch.zeros(1, 3, 32, 32)


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


# --- plans ---------------------------------------------------


def published_plan(
    network: Callable[[], nn.Module], name: str, **options: Any
) -> tuple[nn.Module, ChannelGroups, PruningPlan]:
    model = network().eval()
    groups = channel_groups(model, IMAGE, check=False, **options)
    cost = hrank_cost(model, IMAGE, groups)
    scores = ScoreTable({m.layer: torch.rand(g.width) for g in groups.values() for m in g.producers})
    return model, groups, rate_plan(groups, scores, cost, PUBLISHED_RATES[name].rates, mode="hrank")


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
