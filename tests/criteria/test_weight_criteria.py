"""Criteria over weights and gradients: what each owes its callers, then against loops, by hand and by their laws."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import references_criteria as naive
from secateur.criteria import (
    FPGM,
    GRADIENT_CRITERIA,
    WEIGHT_CRITERIA,
    BatchNormScale,
    CompactFusion,
    L1Norm,
    L2Norm,
    RandomScores,
    ReciprocalNearestFilters,
    Taylor,
    gradient_criterion,
    weight_criterion,
)
from secateur.criteria.filters import filter_distances
from secateur.errors import ConfigError, ScoreError
from secateur.protocols import GradientCriterion, WeightCriterion

C = 7


@pytest.fixture(params=sorted(WEIGHT_CRITERIA))
def rule(request: pytest.FixtureRequest) -> WeightCriterion:
    return weight_criterion(request.param)


def weight_for(rule: WeightCriterion, *, seed: int = 0) -> Tensor:
    shape = (C, 3, 2, 2) if rule.reads == "filters" else (C,)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- what every criterion over weights owes ---------------------------------------------------------------------------


def test_attributes_are_those_of_the_protocol_and_options_plain_data(rule: WeightCriterion) -> None:
    assert isinstance(rule, WeightCriterion)
    assert WEIGHT_CRITERIA[rule.name] is type(rule)
    assert rule.reads in ("filters", "norm")
    assert dataclasses.is_dataclass(rule)
    assert all(isinstance(value, str | int | float | bool) for value in vars(rule).values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(rule, "name", "x")  # noqa: B010  # a plain assignment is what the type checker forbids already


def test_scores_are_one_finite_float64_per_channel_and_repeat(rule: WeightCriterion) -> None:
    weight = weight_for(rule).requires_grad_()
    scores = rule(weight)
    assert (scores.shape, scores.dtype, scores.device.type, scores.requires_grad) == ((C,), torch.float64, "cpu", False)
    assert bool(torch.isfinite(scores).all())
    assert torch.equal(rule(weight), scores)
    assert torch.equal(rule(weight.detach().bfloat16().float()), rule(weight.detach().bfloat16()))


def test_the_weight_is_left_as_it_was(rule: WeightCriterion) -> None:
    weight = weight_for(rule)
    copy = weight.clone()
    rule(weight)
    assert torch.equal(weight, copy)


def test_channels_are_scored_by_what_they_hold_not_where_they_stand(rule: WeightCriterion) -> None:
    if rule.name == "random":
        pytest.skip("chance knows no channel")
    weight, order = weight_for(rule), torch.tensor([3, 0, 6, 4, 2, 1, 5])
    torch.testing.assert_close(rule(weight[order]), rule(weight)[order])


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (torch.tensor([[1.0], [float("nan")]]), "NaN or infinite"),
        (torch.ones(2, 3, dtype=torch.int64), "floating"),
        (torch.ones(0, 3), "shape .0, 3."),
        (torch.tensor(1.0), "one row for each channel"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(rule: WeightCriterion, weight: Tensor, words: str) -> None:
    with pytest.raises(ScoreError, match=words):
        rule(weight)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'fpgm'\? Allowed: bn_scale, dcff, fpgm, l1, l2, random, rnf"):
        weight_criterion("fpmg")
    with pytest.raises(ConfigError, match="distance is 'manhattan'; allowed: euclidean, cosine"):
        weight_criterion("rnf", distance="manhattan")
    with pytest.raises(ConfigError, match="fpgm: distance is 'dot'"):
        weight_criterion("fpgm", distance="dot")
    with pytest.raises(ConfigError, match="unknown distance 'dot'"):
        filter_distances(torch.ones(2, 2), distance="dot")


# --- norms, distances, scale, chance ----------------------------------------------------------------------------------

integer_filters = st.integers(0, 10**6).map(
    lambda seed: torch.randint(-3, 4, (6, 2, 2, 1), generator=torch.Generator().manual_seed(seed)).float()
)


@given(weight=integer_filters)
@settings(max_examples=40)
def test_norms_and_distances_are_those_of_loops(weight: Tensor) -> None:
    rows = weight.flatten(1).tolist()
    assert L1Norm()(weight).tolist() == [sum(abs(w) for w in row) for row in rows]
    assert L2Norm()(weight).tolist() == pytest.approx([sum(w * w for w in row) ** 0.5 for row in rows])
    for distance in ("euclidean", "cosine"):
        expected = naive.distances_by_loops(weight, distance=distance)
        found = filter_distances(weight, distance=distance)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
        sums = FPGM(distance=distance)(weight).tolist()
        assert sums == pytest.approx([sum(row) for row in expected])


@given(weight=integer_filters, temperature=st.floats(0.05, 20))
@settings(max_examples=40)
def test_neighbourhoods_diverge_as_loops_say(weight: Tensor, temperature: float) -> None:
    expected = naive.neighbourhood_divergence_by_loops(weight, temperature)
    assert CompactFusion(temperature=temperature)(weight).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_cold_neighbourhoods_rank_as_fpgm_does() -> None:
    weight = torch.randn(C, 5, dtype=torch.float64)
    assert CompactFusion(temperature=1e-4)(weight).argsort().tolist() == FPGM()(weight).argsort().tolist()
    with pytest.raises(ConfigError, match="dcff: the temperature is 0; it must be a number > 0"):
        CompactFusion(temperature=0)


def test_fpgm_does_not_move_with_a_common_offset_and_puts_the_middle_last() -> None:
    weight = torch.randn(C, 5, dtype=torch.float64)
    torch.testing.assert_close(FPGM()(weight + 3), FPGM()(weight))
    assert FPGM()(torch.tensor([[-1.0], [0.0], [1.0], [9.0]])).argmin() in (1, 2)


def test_near_filters_far_from_the_origin_keep_their_distance_and_are_none_from_themselves() -> None:
    weight = 1e6 + torch.arange(8, dtype=torch.float64)[:, None] * torch.tensor([1e-3, 0.0], dtype=torch.float64)
    expected = 1e-3 * (torch.arange(8)[:, None] - torch.arange(8)).abs().double()
    torch.testing.assert_close(filter_distances(weight), expected, rtol=1e-6, atol=1e-9)
    weight[3] = 0
    for distance in ("euclidean", "cosine"):
        assert filter_distances(weight, distance=distance).diagonal().tolist() == [0.0] * 8
    assert filter_distances(weight, distance="cosine")[3].tolist() == [1.0] * 3 + [0.0] + [1.0] * 4


def test_bn_scale_is_the_size_of_gamma() -> None:
    assert BatchNormScale()(torch.tensor([0.25, -2.0, 0.0])).tolist() == [0.25, 2.0, 0.0]


def test_chance_depends_on_the_seed_and_the_layer() -> None:
    first, second = torch.randn(50, 4), torch.randn(50, 4)
    assert torch.equal(RandomScores(seed=3)(first), RandomScores(seed=3)(first.clone()))
    assert not torch.equal(RandomScores(seed=3)(first), RandomScores(seed=4)(first))
    assert not torch.equal(RandomScores(seed=3)(first), RandomScores(seed=3)(second))
    scores = RandomScores(seed=-1)(torch.randn(4000, 1))
    assert 0 <= float(scores.min()) < 0.01 < 0.99 < float(scores.max()) < 1
    assert float(scores.mean()) == pytest.approx(0.5, abs=0.03)


# --- reciprocal nearest filters ---------------------------------------------------------------------------------------


@given(
    st.integers(0, 10**6), st.integers(2, 14), st.integers(1, 4), st.sampled_from(["euclidean", "cosine"]), st.data()
)
@settings(max_examples=80)
def test_the_closed_form_keeps_what_the_published_search_finds(
    seed: int, filters: int, dimensions: int, distance: Any, data: st.DataObject
) -> None:
    """Up to ties of the worst position, which the search breaks by chance."""
    weight = torch.randn(filters, 1 + dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    m = data.draw(st.integers(1, filters))
    before, found = naive.reciprocal_search(filter_distances(weight, distance=distance).tolist(), m)
    scores = ReciprocalNearestFilters(distance=distance)(weight)
    kept = set(torch.argsort(scores, descending=True, stable=True)[:m].tolist())
    assert before <= kept <= found
    if len(found) == m:
        assert kept == found


def test_scale_and_rotation_change_nothing() -> None:
    weight = torch.randn(9, 4, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    scores = ReciprocalNearestFilters()(weight)
    assert torch.equal(ReciprocalNearestFilters()(1e3 * weight), scores)
    assert torch.equal(ReciprocalNearestFilters()(weight @ rotation), scores)
    sizes = torch.tensor([10.0**k for k in range(-4, 5)], dtype=torch.float64)[:, None]
    cosine = ReciprocalNearestFilters(distance="cosine")
    assert torch.equal(cosine(weight * sizes), cosine(weight))


def test_far_filters_are_told_apart_where_float32_similarities_vanish() -> None:
    weight = torch.tensor([[0.0], [20.0], [50.0], [90.0], [91.0]])
    similarity = torch.exp(-filter_distances(weight).float().square())
    assert int((similarity == 0).sum()) == 18
    assert ReciprocalNearestFilters()(weight).tolist() == [-4, -3, -2, -3, -4]


def test_equal_filters_score_alike_wherever_they_stand() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [5.0, 5.0]])
    scores = ReciprocalNearestFilters()(weight)
    assert scores[0] == scores[2]
    assert torch.equal(ReciprocalNearestFilters()(weight.flip(0)), scores.flip(0))


def test_the_euclidean_hub_is_a_small_filter_and_cosine_does_not_care() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(40, 30, generator=generator) * torch.linspace(0.2, 3, 40)[:, None]
    worst = -ReciprocalNearestFilters()(weight)
    small, large = worst[:20].mean(), worst[20:].mean()
    assert float(small) < float(large)
    directions = -ReciprocalNearestFilters(distance="cosine")(weight)
    assert abs(float(directions[:20].mean() - directions[20:].mean())) < float(large - small) / 2


# --- Taylor -----------------------------------------------------------------------------------------------------------


@given(weight=integer_filters, gradient=integer_filters, mode=st.sampled_from(["squared", "joint", "absolute"]))
@settings(max_examples=40)
def test_taylor_is_that_of_a_loop(weight: Tensor, gradient: Tensor, mode: Any) -> None:
    rule = gradient_criterion("taylor", mode=mode)
    assert isinstance(rule, GradientCriterion)
    assert GRADIENT_CRITERIA[rule.name] is type(rule)
    assert rule(weight, gradient).tolist() == naive.taylor_by_loops(weight, gradient, mode=mode)
    assert rule(weight, -gradient).tolist() == rule(weight, gradient).tolist()


def test_taylor_foretells_the_loss_of_a_linear_function_exactly() -> None:
    weight, gradient = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    for c in range(4):
        without = weight.clone()
        without[c] = 0
        change = ((without - weight) * gradient).sum().abs()
        torch.testing.assert_close(Taylor(mode="absolute")(weight, gradient)[c], change)


def test_taylor_refuses() -> None:
    with pytest.raises(ConfigError, match="mode is 'cubed'; allowed: squared, joint, absolute"):
        Taylor(mode="cubed")
    with pytest.raises(ConfigError, match="batch_size is 0"):
        Taylor(batch_size=0)
    with pytest.raises(ScoreError, match="differ in shape"):
        Taylor()(torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(ScoreError, match="NaN or infinite"):
        Taylor()(torch.ones(2, 1), torch.tensor([[1.0], [float("inf")]]))
