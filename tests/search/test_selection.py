"""How many channels stay, and which: rounding, ties, the ablations."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from references_search import keep_by_fractions, select_by_removing, widths_by_trying
from secateur.errors import ConfigError, ScoreError
from secateur.search import (
    allowed_widths,
    cross_layer_plan,
    curve_plan,
    distilled_plan,
    greedy_plan,
    keep_count,
    rate_plan,
    rate_widths,
    refine_plan,
    select,
    ties_at_cut,
    uniform_plan,
)

small_scores = st.lists(st.integers(0, 5), min_size=1, max_size=20)


@given(st.integers(1, 600), st.integers(1, 600), st.data())
def test_keep_count_is_exact_where_the_rate_is_a_fraction(width: int, of: int, data: st.DataObject) -> None:
    removed = data.draw(st.integers(0, of))
    expected = max(1, keep_by_fractions(width, removed, of))
    assert keep_count(width, removed / of) == expected


@pytest.mark.parametrize(
    ("width", "rate", "secateur", "hrank", "hrankplus"),
    [
        (64, 0.45, 36, 36, 35),
        (512, 0.8, 103, 103, 102),  # 512 * (1 - 0.8) is 102.39999999999998
        (100, 0.29, 71, 72, 71),  # 0.29 * 100 is 28.999999999999996
        (10, 0.9, 1, 1, 1),  # 10 * (1 - 0.9) is 0.9999999999999998: the published code would keep none
        (16, 1.0, 1, 1, 1),
        (16, 0.0, 16, 16, 16),
        (1, 0.99, 1, 1, 1),
    ],
)
def test_modes_and_binary_fractions(width: int, rate: float, secateur: int, hrank: int, hrankplus: int) -> None:
    assert keep_count(width, rate) == secateur
    assert keep_count(width, rate, mode="hrank") == hrank
    assert keep_count(width, rate, mode="hrankplus") == hrankplus


@given(st.integers(1, 70), st.integers(1, 20), st.integers(1, 17))
def test_allowed_widths_equal_trying_each(width: int, min_keep: int, round_to: int) -> None:
    allowed = allowed_widths(width, min_keep=min_keep, round_to=round_to)
    assert list(allowed) == widths_by_trying(width, min_keep=min_keep, round_to=round_to)


@given(st.integers(1, 70), st.floats(0, 1), st.integers(1, 20), st.integers(1, 17))
def test_rounding_never_empties_widens_or_removes_more(width: int, rate: float, min_keep: int, round_to: int) -> None:
    keep = keep_count(width, rate, min_keep=min_keep, round_to=round_to)
    assert keep in widths_by_trying(width, min_keep=min_keep, round_to=round_to)
    assert min(width, max(min_keep, keep_count(width, rate))) <= keep <= width
    assert keep - keep_count(width, rate, min_keep=min_keep) < round_to


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1.2}, "the rate is 1.2"),
        ({"rate": -0.1}, "the rate is -0.1"),
        ({"rate": float("nan")}, "the rate is nan"),
        ({"round_to": 0}, "round_to is 0; it must be a whole number, at least 1"),
        ({"round_to": 2.5}, "round_to is 2.5; it must be a whole number"),
        ({"min_keep": 0}, "min_keep is 0"),
        ({"mode": "paper"}, "'paper'; allowed: secateur, hrank, hrankplus"),
    ],
)
def test_keep_count_refuses(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        keep_count(8, **{"rate": 0.5} | settings)


@given(small_scores, st.data())
def test_select_equals_removing_the_smallest_again_and_again(scores: list[int], data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, len(scores)))
    assert list(select(torch.tensor(scores, dtype=torch.float64), keep)) == select_by_removing(scores, keep)


@given(small_scores, st.data(), st.sampled_from(["low", "reverse", "random", "edge", "middle"]))
def test_exactly_so_many_stay_ascending(scores: list[int], data: st.DataObject, variant: str) -> None:
    keep = data.draw(st.integers(1, len(scores)))
    kept = select(torch.tensor(scores, dtype=torch.float64), keep, variant=variant)
    assert len(kept) == keep
    assert list(kept) == sorted(set(kept))
    assert set(kept) <= set(range(len(scores)))


@given(st.permutations(range(9)), st.permutations(range(9)), st.integers(1, 9))
def test_permuting_channels_permutes_what_is_kept(scores: list[int], order: list[int], keep: int) -> None:
    values = torch.tensor(scores, dtype=torch.float64)
    for variant in ("low", "reverse", "edge", "middle"):
        moved = select(values[list(order)], keep, variant=variant)
        assert sorted(order[c] for c in moved) == list(select(values, keep, variant=variant))


@pytest.mark.parametrize(
    ("variant", "keep", "kept"),
    [
        ("low", 4, (3, 4, 5, 6)),
        ("reverse", 4, (0, 1, 2, 3)),
        ("edge", 4, (1, 2, 3, 4)),  # of three removed one is the lowest, two are the highest
        ("middle", 4, (0, 1, 5, 6)),
        ("middle", 5, (0, 1, 4, 5, 6)),
        ("low", 7, (0, 1, 2, 3, 4, 5, 6)),
        ("edge", 7, (0, 1, 2, 3, 4, 5, 6)),
        ("reverse", 7, (0, 1, 2, 3, 4, 5, 6)),
    ],
)
def test_variants_on_seven_ascending_scores(variant: str, keep: int, kept: tuple[int, ...]) -> None:
    assert select(torch.arange(7.0), keep, variant=variant) == kept


def test_random_depends_on_the_seed_alone() -> None:
    first = select(torch.arange(20.0), 10, variant="random", seed=1)
    assert first == select(torch.rand(20), 10, variant="random", seed=1)
    assert first != select(torch.arange(20.0), 10, variant="random", seed=2)


def test_large_layers_are_sorted_stably() -> None:
    assert select(torch.zeros(4096, dtype=torch.float64), 1000) == tuple(range(3096, 4096))


@given(small_scores, st.data(), st.sampled_from(["low", "reverse", "edge", "middle"]))
def test_ties_are_those_whose_order_decides(scores: list[int], data: st.DataObject, variant: str) -> None:
    keep = data.draw(st.integers(1, len(scores)))
    values = torch.tensor(scores, dtype=torch.float64)
    kept = select_by_removing(scores, keep) if variant == "low" else select(values, keep, variant=variant)
    removed = [c for c in range(len(scores)) if c not in kept]
    torn = {scores[c] for c in kept} & {scores[c] for c in removed}
    assert ties_at_cut(values, keep, variant=variant) == sum(scores.count(score) for score in torn)


def test_chance_has_no_ties() -> None:
    assert ties_at_cut(torch.zeros(6), 3, variant="random") == 0
    assert ties_at_cut(torch.tensor([0.0, 0.0, 1.0, 2.0, 2.0]), 3, variant="edge") == 4


def test_select_refuses() -> None:
    for keep in (0, 4, -1):
        with pytest.raises(ConfigError, match=rf"cannot keep {keep} of 3 channels; allowed: 1..3"):
            select(torch.arange(3.0), keep)
    with pytest.raises(ConfigError, match="'high'; allowed: low, reverse"):
        select(torch.arange(3.0), 2, variant="high")
    with pytest.raises(ScoreError, match=r"shape \(2, 2\)"):
        select(torch.zeros(2, 2), 2)
    with pytest.raises(ScoreError, match="finite"):
        ties_at_cut(torch.tensor([1.0, float("nan")]), 1)


def test_searches_allow_multiples_of_eight_unless_asked_and_published_widths_are_not_rounded() -> None:
    searches = (uniform_plan, greedy_plan, curve_plan, refine_plan, distilled_plan)
    published = (rate_plan, rate_widths, cross_layer_plan, keep_count, allowed_widths)
    for functions, default in ((searches, 8), (published, 1)):
        for function in functions:
            assert inspect.signature(function).parameters["round_to"].default == default, function.__name__
