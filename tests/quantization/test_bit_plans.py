"""Bits go to the filters that score high, so many as a size allows; and the plans that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from secateur.errors import BudgetError, ConfigError, NetworkError, ScoreError
from secateur.networks import resnet20
from secateur.quantization import (
    BitPlan,
    bit_plan,
    fake_quantized,
    largest_uniform,
    quantize_network,
    quantized_bytes,
    uniform_bits,
)
from secateur.records import ScoreTable


def test_shares_by_score_reversed_and_at_random(net: nn.Sequential) -> None:
    scores = ScoreTable({"0": torch.tensor([5.0, 1, 7, 3, 3, 8, 2, 6])})
    options: dict[str, Any] = {"levels": (8, 4, 2), "shares": (0.25, 0.5, 0.25), "ends": None}
    plan = bit_plan(net, scores, **options)
    assert plan.bits["0"].tolist() == [4, 2, 8, 4, 4, 8, 2, 4]
    assert bit_plan(net, scores, order="reversed", **options).bits["0"].tolist() == [4, 8, 2, 4, 4, 2, 8, 4]
    plans = [bit_plan(net, scores, order="random", seed=s, **options) for s in (0, 0, 1)]
    random = [found.bits["0"] for found in plans]
    assert [found.settings["seed"] for found in plans] == [0, 0, 1]
    assert torch.equal(random[0], random[1])
    assert not torch.equal(random[0], random[2])
    assert sorted(random[2].tolist()) == sorted(plan.bits["0"].tolist())
    assert plan.settings["shares"] == [0.25, 0.5, 0.25]


def test_the_ends_and_layers_without_scores(net: nn.Sequential) -> None:
    plan = bit_plan(net, ScoreTable({}), levels=(4, 2), shares=(0.5, 0.5))
    assert {name: set(bits.tolist()) for name, bits in plan.bits.items()} == {
        "0": {8}, "3": {4, 2}, "4": {4, 2}, "6": {8},
    }  # fmt: skip
    norms = net[3].weight.detach().abs().sum((1, 2, 3))
    assert bool((norms[plan.bits["3"] == 4].min() >= norms[plan.bits["3"] == 2].max()).item())


@pytest.mark.parametrize("levels", [(8, 4), (8, 4, 2)])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.8, 1.0])
def test_a_size_is_met_from_below_as_near_as_filters_allow(levels: tuple[int, ...], part: float) -> None:
    net = resnet20()
    ends = [quantized_bytes(net, bit_plan(net, ScoreTable({}), levels=(b,), shares=(1.0,))) for b in levels]
    size = ends[-1] + part * (ends[0] - ends[-1])

    def measured(plan: BitPlan) -> int:
        return quantized_bytes(net, plan)

    plan = bit_plan(net, ScoreTable({}), levels=levels, size=size, measured=measured)
    assert 0.985 * size <= measured(plan) <= size
    assert len({b for bits in plan.bits.values() for b in bits.tolist()} - {8}) <= 2
    with pytest.raises(
        BudgetError, match=rf"as small as {ends[-1] - 1:,} bytes; the smallest takes {ends[-1]:,} bytes"
    ):
        bit_plan(net, ScoreTable({}), levels=levels, size=ends[-1] - 1, measured=measured)


def test_size_per_weight_approaches_the_bits() -> None:
    net = nn.Sequential(nn.Conv2d(64, 128, 3, bias=False), nn.Conv2d(128, 128, 3, bias=False))
    for bits in (2, 3, 4, 8):
        plan = uniform_bits(net, bits, ends=None)
        weights = sum(p.numel() for p in net.parameters())
        size = quantized_bytes(net, plan)
        assert 8 * size / weights == pytest.approx(bits, rel=0.05)
        assert plan.average(net) == bits
        found = largest_uniform(net, size, lambda other: quantized_bytes(net, other), ends=None)
        assert found.settings["levels"] == [bits]  # which take exactly so much


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"levels": (4, 8), "shares": (0.5, 0.5)}, ConfigError, r"falling numbers of bits, such as \(8, 4\)"),
        ({"levels": (8, 8), "shares": (0.5, 0.5)}, ConfigError, "must be falling"),
        ({"levels": (8, 1), "shares": (0.5, 0.5)}, ConfigError, r"2\.\.16; found \[1, 8\]"),
        ({"shares": (0.5, 0.4)}, ConfigError, "add up to 1"),
        ({"shares": (1.0,)}, ConfigError, "one for each of 2 levels"),
        ({"shares": (float("nan"), 0.5)}, ConfigError, "add up to 1"),
        ({"shares": (0.5, 0.5), "thresholds": "mse"}, ConfigError, "'mse'; allowed: published, largest, least_squares"),
        ({}, ConfigError, "either the shares of the levels or a size"),
        ({"shares": (0.5, 0.5), "size": 10}, ConfigError, "not both"),
        ({"size": 10}, ConfigError, "give measured"),
        ({"shares": (0.5, 0.5), "order": "best"}, ConfigError, "unknown order 'best'"),
    ],
)
def test_bad_plans(net: nn.Sequential, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bit_plan(net, ScoreTable({}), **options)


def test_plans_and_scores_of_other_networks(net: nn.Sequential) -> None:
    with pytest.raises(ScoreError, match="'0' has 8 filters and 5 scores"):
        bit_plan(net, ScoreTable({"0": torch.rand(5)}), shares=(0.5, 0.5))
    for bits, message in (
        ({"9": torch.tensor([8])}, "'9', which the network does not have"),
        ({"0": torch.tensor([8])}, "1 filters of '0', which has 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            quantize_network(net, BitPlan(bits))
        with pytest.raises(ConfigError, match=message), fake_quantized(net, BitPlan(bits)):
            pass
        with pytest.raises(ConfigError, match=message):
            quantized_bytes(net, BitPlan(bits))
        with pytest.raises(ConfigError, match=message):
            BitPlan(bits).average(net)
    with pytest.raises(ConfigError, match="thresholds are those of another plan: there are none for '3'"):
        quantize_network(net, uniform_bits(net, 4), {"0": torch.ones(8)})


def test_networks_without_layers_and_bits_that_are_not_whole() -> None:
    for found in (lambda: uniform_bits(nn.ReLU(), 4), lambda: bit_plan(nn.ReLU(), ScoreTable({}), shares=(0.5, 0.5))):
        with pytest.raises(NetworkError, match="no convolution and no linear layer"):
            found()
    with pytest.raises(ConfigError, match="whole numbers"):
        BitPlan({"0": torch.tensor([4.5])})
