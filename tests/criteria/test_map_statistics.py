"""Mean activation and feature variance against loops, and what they do not see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import references_criteria as naive
from secateur.criteria import FeatureVariance, MeanActivation, moments
from secateur.errors import ConfigError, DataError


def score(rule: Any, maps: Tensor, *, cut: int = 0) -> Tensor:
    state = rule.init(maps.shape[1])
    for part in (maps[:cut], maps[cut:]):
        if len(part):
            state = rule.update(state, part, None)
    return rule.compute(state)


shapes = st.tuples(st.integers(1, 8), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


@given(seed=st.integers(0, 10**6), shape=shapes, cut=st.integers(0, 8), offset=st.sampled_from([0.0, 50.0]))
@settings(max_examples=60)
def test_scores_are_those_of_a_loop(seed: int, shape: tuple[int, ...], cut: int, offset: float) -> None:
    maps = offset + torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    found = [score(rule, maps, cut=cut).tolist() for rule in (MeanActivation(), FeatureVariance())]
    assert found[0] == pytest.approx(naive.mean_activation_by_loops(maps), rel=1e-6)
    assert found[1] == pytest.approx(naive.variance_by_loops(maps), rel=1e-6, abs=1e-12)
    energy = score(FeatureVariance(centred=False), maps, cut=cut).tolist()
    assert energy == pytest.approx(naive.variance_by_loops(maps, centred=False), rel=1e-6)


@pytest.mark.parametrize("numbers", [1, 150, 10**6])
def test_moments_do_not_depend_on_how_many_numbers_are_made_at_a_time(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "CHUNK", numbers)
    maps = torch.randn(7, 5, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    for found, over in ((moments.position_moments(maps), 0), (moments.image_moments(maps), (2, 3))):
        torch.testing.assert_close(found.mean, maps.mean(over))
        torch.testing.assert_close(found.variance, maps.var(over, unbiased=False))


def test_scale_behaviour() -> None:
    maps = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(score(MeanActivation(), -3 * maps), 3 * score(MeanActivation(), maps))
    torch.testing.assert_close(score(FeatureVariance(), 5 - 3 * maps), 9 * score(FeatureVariance(), maps))


def test_a_pattern_that_never_changes_has_activation_and_energy_but_no_variance() -> None:
    maps = torch.rand(1, 1, 4, 4).expand(7, 1, 4, 4)
    assert score(FeatureVariance(), maps, cut=3).item() == pytest.approx(0, abs=1e-30)
    assert score(FeatureVariance(centred=False), maps).item() > 0
    assert score(MeanActivation(), maps).item() > 0


def test_maps_of_another_size_suit_the_mean_but_not_the_variance() -> None:
    small, large = torch.ones(2, 3, 4, 4), torch.zeros(1, 3, 8, 8)
    mean, variance = MeanActivation(), FeatureVariance()
    state = mean.update(mean.update(mean.init(3), small), large)
    assert mean.compute(state).tolist() == [32 / 96] * 3
    with pytest.raises(DataError, match="64 positions and had 16 before; variance compares images position by"):
        variance.update(variance.update(variance.init(3), small), large)


@pytest.mark.parametrize("rule", [MeanActivation, FeatureVariance])
def test_no_samples_are_refused(rule: Any) -> None:
    with pytest.raises(ConfigError, match="samples is 0; it must be a whole number, at least 1"):
        rule(samples=0)
