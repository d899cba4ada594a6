"""The interval of a ratio: equal to its naive twins, invariant where it should be, and honest about its coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from references import ratio_interval_by_loops, ratio_interval_over_sessions
from secateur.errors import ConfigError, DataError
from secateur_onnx import ratio_interval
from secateur_onnx.bootstrap import MIN_ROUNDS

TIMES = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=MIN_ROUNDS, max_size=15)


@settings(max_examples=25)
@given(pairs=TIMES, seed=st.integers(0, 100))
def test_equals_the_naive_twin(pairs: list[tuple[float, float]], seed: int) -> None:
    dense, pruned = [d for d, _ in pairs], [p for _, p in pairs]
    found = ratio_interval(dense, pruned, resamples=60, confidence=0.9, seed=seed)
    naive = ratio_interval_by_loops(dense, pruned, resamples=60, confidence=0.9, seed=seed)
    np.testing.assert_allclose((found.ratio, found.lower, found.upper), naive, rtol=1e-12)


@settings(max_examples=25)
@given(parts=st.lists(TIMES, min_size=2, max_size=4))
def test_sessions_equal_the_naive_twin(parts: list[list[tuple[float, float]]]) -> None:
    dense, pruned = [d for pairs in parts for d, _ in pairs], [p for pairs in parts for _, p in pairs]
    found = ratio_interval(dense, pruned, sessions=[len(pairs) for pairs in parts])
    naive = ratio_interval_over_sessions(parts, {2: 12.7062047, 3: 4.3026527, 4: 3.1824463}[len(parts)])
    np.testing.assert_allclose((found.ratio, found.lower, found.upper), naive, rtol=1e-6)


def test_what_moves_a_whole_session_widens_the_interval() -> None:
    """Five sessions, each steady in itself, that differ by some percent."""
    level = np.repeat([1.0, 1.02, 0.98, 1.05, 1.0], 20)
    dense = level * np.random.default_rng(8).lognormal(0, 0.001, 100)
    as_one, as_five = ratio_interval(dense, np.ones(100)), ratio_interval(dense, np.ones(100), sessions=[20] * 5)
    assert as_one.upper - as_one.lower < 0.01
    assert as_five.upper - as_five.lower > 0.03
    assert as_five.ratio == as_one.ratio


@pytest.mark.parametrize("sessions", [[3, 4], [6, 0], []])
def test_sessions_must_make_up_the_rounds(sessions: list[int]) -> None:
    with pytest.raises(DataError, match="do not make up 6 rounds"):
        ratio_interval([1.0] * 6, [1.0] * 6, sessions=sessions)


@settings(max_examples=25)
@given(pairs=TIMES, factor=st.floats(0.1, 10))
def test_scales_with_the_dense_times_and_ignores_the_unit(pairs: list[tuple[float, float]], factor: float) -> None:
    dense, pruned = np.array(pairs).T
    base = ratio_interval(dense, pruned, resamples=100)
    scaled = ratio_interval(factor * dense, pruned, resamples=100)
    same = ratio_interval(factor * dense, factor * pruned, resamples=100)
    for name in ("ratio", "lower", "upper"):
        assert math.isclose(getattr(scaled, name), factor * getattr(base, name), rel_tol=1e-9)
        assert math.isclose(getattr(same, name), getattr(base, name), rel_tol=1e-9)
    assert base.lower <= base.upper


@settings(max_examples=25)
@given(times=st.lists(st.floats(0.1, 10), min_size=MIN_ROUNDS, max_size=15))
def test_equal_times_give_exactly_one(times: list[float]) -> None:
    found = ratio_interval(times, times)
    assert (found.ratio, found.lower, found.upper) == (1.0, 1.0, 1.0)


def test_seed_decides_and_confidence_widens() -> None:
    random = np.random.default_rng(5)
    dense, pruned = random.lognormal(0.4, 0.2, 30), random.lognormal(0, 0.2, 30)
    assert ratio_interval(dense, pruned) == ratio_interval(dense, pruned)
    narrow, wide = ratio_interval(dense, pruned, confidence=0.5), ratio_interval(dense, pruned, confidence=0.99)
    assert wide.lower < narrow.lower < narrow.ratio < narrow.upper < wide.upper


def test_noise_common_to_a_round_does_not_widen_the_interval() -> None:
    random = np.random.default_rng(6)
    load = random.lognormal(0, 0.5, 40)
    paired = ratio_interval(2 * load, load)
    unpaired = ratio_interval(2 * load, random.permutation(load))
    assert paired.lower == pytest.approx(2)
    assert paired.upper == pytest.approx(2)
    assert unpaired.upper - unpaired.lower > 0.2


def test_coverage_is_near_what_is_claimed() -> None:
    """Of 300 experiments with a true ratio of 1.5, about 95% must hold it in their interval, not all and not 85%."""
    random = np.random.default_rng(7)
    held = 0
    for experiment in range(300):
        dense, pruned = 1.5 * random.lognormal(0, 0.1, 25), random.lognormal(0, 0.1, 25)
        found = ratio_interval(dense, pruned, resamples=400, seed=experiment)
        held += found.lower <= 1.5 <= found.upper
    assert 0.91 <= held / 300 <= 0.99


@pytest.mark.parametrize("count", [3, 6])
def test_coverage_is_what_is_claimed_where_sessions_differ(count: int) -> None:
    """Equal networks, sessions 1% apart, rounds 0.5%: what differs is where each session happens to lie."""
    random = np.random.default_rng(9)
    held = faster = 0
    for _ in range(400):
        level = random.normal(0, 0.01, (2, count, 1))
        dense, pruned = np.exp(level + np.abs(random.normal(0, 0.005, (2, count, 12)))).reshape(2, -1)
        found = ratio_interval(dense, pruned, sessions=[12] * count)
        held, faster = held + (found.lower <= 1 <= found.upper), faster + (found.lower > 1)
    assert 0.92 <= held / 400 <= 0.99
    assert faster / 400 <= 0.05


@pytest.mark.parametrize(
    ("dense", "pruned", "message"),
    [
        ([1.0] * 5, [1.0] * 5, "at least 6 rounds; found 5 times"),
        ([1.0] * 7, [1.0] * 6, "found 7 times of the dense and 6"),
        ([1.0] * 5 + [0.0], [1.0] * 6, "positive and finite"),
        ([1.0] * 6, [1.0] * 5 + [math.nan], "positive and finite"),
        ([1.0] * 6, [1.0] * 5 + [math.inf], "positive and finite"),
    ],
)
def test_times_that_cannot_be_used(dense: list[float], pruned: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ratio_interval(dense, pruned)


@pytest.mark.parametrize("options", [{"resamples": 0}, {"confidence": 0.0}, {"confidence": 1.0}])
def test_settings_that_cannot_be_used(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="resamples must be at least 1"):
        ratio_interval([1.0] * 6, [1.0] * 6, **options)  # type: ignore[arg-type]  # an int among floats
