"""Cross-layer ranking: against one sorted list, the published cost constants, and the published ResNet-56."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from references_criteria import cross_layer_by_loops
from references_search import select_by_removing, widths_by_trying
from secateur.errors import BudgetError, ConfigError, ScoreError
from secateur.networks import resnet56
from secateur.records import ChannelGroup, Member, PruningPlan, ScoreTable
from secateur.search import convolution_cost, cross_layer_plan, cross_layer_widths
from secateur.weights import load_weights


@st.composite
def units(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, float]]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    names = ["a", "b", "c", "d"][: draw(st.integers(1, 4))]
    shapes = {name: (draw(st.integers(1, 6)), draw(st.integers(1, 5))) for name in names}
    coarse = draw(st.booleans())  # with ties
    weights = {
        name: torch.randint(-4, 5, shape, generator=generator).double()
        if coarse
        else torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    costs = {name: 1.0 if i == 0 else draw(st.sampled_from([0.5, 1.0, 2.0, 4.0])) for i, name in enumerate(names)}
    return weights, costs


@given(units(), st.integers(0, 20), st.sampled_from([0.0, 1.0, 2.0]))
@settings(max_examples=100)
def test_widths_are_those_of_one_sorted_list(case: Any, twentieths: int, exponent: float) -> None:
    weights, costs = case
    share = twentieths / 20
    expected = cross_layer_by_loops(weights, costs, share, exponent)
    assert cross_layer_widths(weights, costs, share=share, exponent=exponent) == expected


@given(units(), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60)
def test_a_larger_share_never_keeps_more_and_one_filter_always_stays(case: Any, first: float, second: float) -> None:
    weights, costs = case
    less, more = (cross_layer_widths(weights, costs, share=s) for s in sorted((first, second)))
    assert all(1 <= more[unit] <= less[unit] <= len(weights[unit]) for unit in weights)
    assert cross_layer_widths(weights, costs, share=0) == {unit: len(weight) for unit, weight in weights.items()}
    assert cross_layer_widths(weights, costs, share=1) == dict.fromkeys(weights, 1)


@given(units(), st.floats(0, 1))
@settings(max_examples=40)
def test_only_ratios_count(case: Any, share: float) -> None:
    weights, costs = case
    widths = cross_layer_widths(weights, costs, share=share)
    assert cross_layer_widths({n: 4 * w for n, w in weights.items()}, costs, share=share) == widths
    assert cross_layer_widths(weights, {n: 8 * c for n, c in costs.items()}, share=share) == widths
    assert cross_layer_widths({n: -w for n, w in weights.items()}, costs, share=share) == widths


def test_costs_may_be_counted_in_anything_and_the_exponent_be_large() -> None:
    weights = {name: torch.randn(20, 9) for name in "abc"}
    widths = cross_layer_widths(weights, {"a": 1.0, "b": 0.9, "c": 1.1}, share=0.5, exponent=40)
    assert cross_layer_widths(weights, {"a": 1e9, "b": 0.9e9, "c": 1.1e9}, share=0.5, exponent=40) == widths


def test_the_exponent_takes_from_dear_units_and_gives_to_cheap_ones() -> None:
    weights = {name: torch.randn(50, 20) for name in ("dear", "cheap")}
    costs = {"dear": 2.0, "cheap": 1.0}
    kept = [cross_layer_widths(weights, costs, share=0.5, exponent=e)["dear"] for e in (0, 1, 2, 4)]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < kept[0]


def conv(inputs: int, outputs: int, side: int, *, bias: bool = False) -> float:
    return convolution_cost(inputs, outputs, kernel=9, positions=side * side, bias=bias)


def resnet_costs(blocks: int) -> list[float]:
    """A unit is a block; the first includes the stem."""
    costs, inputs = [], 16
    for width, side in ((16, 32), (32, 16), (64, 8)):
        for _ in range(blocks):
            costs.append(conv(inputs, width, side) + conv(width, width, side))
            inputs = width
    costs[0] += conv(3, 16, 32)
    return [cost / costs[0] for cost in costs]


@pytest.mark.parametrize("blocks", [9, 18])  # ResNet-56 and ResNet-110
def test_costs_of_residual_networks_are_the_published_constants(blocks: int) -> None:
    stages = [
        [1.0] + [0.9052] * (blocks - 1),
        [0.67278] + [0.89297] * (blocks - 1),
        [0.66667] + [0.88685] * (blocks - 1),
    ]
    assert resnet_costs(blocks) == pytest.approx(sum(stages, []), abs=5.1e-6)  # noqa: RUF017  # three short lists


def test_costs_of_vgg_are_the_published_constants() -> None:
    widths = [(64, 32), (64, 32), (128, 16), (128, 16), *[(256, 8)] * 3, *[(512, 4)] * 3, *[(512, 2)] * 3]
    costs, inputs = [], 3
    for width, side in widths:
        costs.append(conv(inputs, width, side, bias=True))
        inputs = width
    published = [1.0, 18.15625, 9.07812, 18.07812, 9.03906, 18.03906, 18.03906, 9.01953, 18.01953, 18.01953]
    assert [cost / costs[0] for cost in costs] == pytest.approx([*published, 4.50488, 4.50488, 4.50488], abs=5.1e-6)


@pytest.mark.parametrize(("exponent", "macs", "parameters"), [(10, 55.26, 0.378), (0, 58.63, None)])
def test_the_published_resnet56(shared: Path, exponent: float, macs: float, parameters: float | None) -> None:
    """A share of 0.56 and the exponent 10 give 55.26 M MACs; published: 55.26 M and 0.39 M, other weights."""
    model = resnet56()
    load_weights(model, shared / "models" / "resnet56-cifar10.safetensors")
    convs = {name: module for name, module in model.named_modules() if name.endswith(".conv1")}
    weights = {name: module.weight for name, module in convs.items()}
    costs = dict(zip(weights, resnet_costs(9), strict=True))
    widths = cross_layer_widths(weights, costs, share=0.56, exponent=exponent)
    work, size = 3 * 9 * 16 * 32**2 + 640, 3 * 9 * 16 + 2 * 16 + 650
    for name, module in convs.items():
        inputs, outputs, kept = module.in_channels, module.out_channels, widths[name]
        side = {16: 32, 32: 16, 64: 8}[outputs]
        work += side**2 * 9 * kept * (inputs + outputs)
        size += 9 * kept * (inputs + outputs) + 2 * (kept + outputs)
    assert work / 1e6 == pytest.approx(macs, abs=0.005)
    if parameters is not None:
        assert size / 1e6 == pytest.approx(parameters, abs=0.0005)


# --- plans ------------------------------------------------------------------------------------------------------------


@dataclass
class Chain:
    """A chain of layers, each reading the one before."""

    dense: dict[str, int]
    name: str = "macs"
    unit: str = "MACs"

    def __call__(self, widths: Mapping[str, int]) -> float:
        sizes = [3, *(widths.get(name, width) for name, width in self.dense.items()), 10]
        return float(100 * sum(a * b for a, b in itertools.pairwise(sizes)))


def chain(seed: int, filters: list[int]) -> tuple[dict[str, ChannelGroup], ScoreTable, Chain, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    dense = {f"conv{k}": C for k, C in enumerate(filters)}
    groups = {n: ChannelGroup(n, C, (Member(n, "producer", tuple((c,) for c in range(C))),)) for n, C in dense.items()}
    weights = {name: torch.randn(C, 4, generator=generator) for name, C in dense.items()}
    return groups, ScoreTable({name: w.abs().sum(1) for name, w in weights.items()}), Chain(dense), weights


@given(
    st.integers(0, 10**6),
    st.lists(st.integers(2, 9), min_size=1, max_size=4),
    st.floats(0.02, 0.98),
    st.sampled_from([0.0, 1.0, 3.0]),
    st.sampled_from([1, 2, 4]),
)
@settings(max_examples=60)
def test_a_plan_has_the_widths_of_the_smallest_share_that_meets_the_budget(
    seed: int, filters: list[int], share: float, exponent: float, round_to: int
) -> None:
    groups, scores, cost, weights = chain(seed, filters)
    allowed = {name: widths_by_trying(group.width, min_keep=1, round_to=round_to) for name, group in groups.items()}
    dense, lowest = cost({}), cost({name: widths[0] for name, widths in allowed.items()})
    assume(lowest < dense)
    budget = lowest + share * (dense - lowest)
    unit_costs = {name: float(1 + k) for k, name in enumerate(groups)}
    plan = cross_layer_plan(
        groups, scores, cost, budget, weights=weights, unit_costs=unit_costs, exponent=exponent, round_to=round_to
    )

    def rounded(keep: int) -> dict[str, int]:
        total = sum(weight.numel() for weight in weights.values())
        widths = cross_layer_by_loops(weights, unit_costs, 1 - keep / total, exponent)
        return {name: next(w for w in allowed[name] if w >= width) for name, width in widths.items()}

    total = sum(weight.numel() for weight in weights.values())
    best = max(keep for keep in range(total + 1) if cost(rounded(keep)) <= budget)
    assert plan.widths == rounded(best)
    assert plan.settings["share"] == pytest.approx(1 - best / total)
    assert plan.cost_after == cost(plan.widths) <= budget
    assert {n: list(k) for n, k in plan.kept.items()} == {
        n: select_by_removing(scores[n].tolist(), w) for n, w in plan.widths.items()
    }


def test_a_plan_records_how_it_was_found_and_refuses_what_does_not_fit() -> None:
    groups, scores, cost, weights = chain(0, [8, 8])
    unit_costs = {"conv0": 1.0, "conv1": 2.0}
    arguments = (groups, scores, cost, "50%")
    plan = cross_layer_plan(*arguments, weights=weights, unit_costs=unit_costs, exponent=2, variant="reverse")
    assert plan.settings["search"] == "cross_layer"
    assert (plan.settings["exponent"], plan.settings["unit_costs"]) == (2, unit_costs)
    assert plan.settings["variant"] == "reverse"
    assert PruningPlan.from_json(plan.to_json()) == plan
    with pytest.raises(ScoreError, match="weights of the group 'conv1' are missing; it has 8 channels"):
        cross_layer_plan(*arguments, weights={"conv0": weights["conv0"]}, unit_costs=unit_costs)
    with pytest.raises(ScoreError, match=r"'conv1' are of the shape \(7, 4\); it has 8 channels"):
        cross_layer_plan(*arguments, weights=weights | {"conv1": weights["conv1"][:7]}, unit_costs=unit_costs)
    with pytest.raises(ScoreError, match=r"'conv1' are of the shape \(\); it has 8 channels"):
        cross_layer_plan(*arguments, weights=weights | {"conv1": torch.tensor(1.0)}, unit_costs=unit_costs)
    with pytest.raises(ScoreError, match="no cost is given for conv1"):
        cross_layer_plan(*arguments, weights=weights, unit_costs={"conv0": 1.0})
    with pytest.raises(BudgetError, match="the lowest cost that can be reached"):
        cross_layer_plan(groups, scores, cost, "1%", weights=weights, unit_costs=unit_costs)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"share": 1.5}, ConfigError, "the share is 1.5"),
        ({"share": float("nan")}, ConfigError, "the share is nan"),
        ({"exponent": -1}, ConfigError, "the exponent is -1"),
        (
            {"exponent": 200, "costs": {"a": 1.0, "b": 1e3}},
            ConfigError,
            "200 is too large for the cost of 'b', 1000 of",
        ),
        (
            {"exponent": 200, "costs": {"a": 1e3, "b": 1.0}},
            ConfigError,
            "200 is too large for the cost of 'b', 0.001 of",
        ),
        ({"costs": {"a": 1.0, "b": 0.0}}, ConfigError, "the cost of 'b' is 0.0"),
        ({"costs": {"a": 1.0}}, ScoreError, "no cost is given for b"),
        ({"weights": {}}, ScoreError, "no unit"),
        ({"weights": {"a": torch.ones(2, 2), "b": torch.tensor([[float("nan")]])}}, ScoreError, "the weights of 'b'"),
        ({"weights": {"a": torch.ones(2, 2), "b": torch.ones(0, 2)}}, ScoreError, r"'b', of the shape \(0, 2\)"),
    ],
)
def test_refusals(change: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments: dict[str, Any] = {
        "weights": {"a": torch.ones(2, 2), "b": torch.ones(3, 2)},
        "costs": {"a": 1.0, "b": 2.0},
        "share": 0.5,
    } | change
    with pytest.raises(error, match=words):
        cross_layer_widths(arguments.pop("weights"), arguments.pop("costs"), **arguments)
