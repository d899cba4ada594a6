"""Alpha grows as published and is corrected where a code collapses or stays undecided; lambda follows the share."""

from __future__ import annotations

import pytest
import torch

from references_gates import alpha_by_hand
from secateur.errors import ConfigError
from secateur.gates import PRESETS, GateRecipe
from secateur.gates.learnt import Learnt
from secateur.gates.schedule import AlphaSchedule, Penalty, is_binary

HALF = torch.tensor([0.0, 1.0])
OPEN = torch.full((4,), 0.25)


def test_a_short_run_has_twenty_changes_too() -> None:
    alpha = AlphaSchedule(GateRecipe(alpha=(1.0, 20.0), every=100), steps=60, keep=0.5)
    assert [alpha(step) for step in range(60)] == pytest.approx([1 + step // 3 for step in range(60)])


@pytest.mark.parametrize("preset", PRESETS)
def test_alpha_runs_through_the_published_list(preset: str) -> None:
    recipe = PRESETS[preset]
    alpha = AlphaSchedule(recipe, steps=3000, keep=0.5)
    for step in range(0, 3000, 37):
        expected = alpha_by_hand(*recipe.alpha, step=step, steps=3000, every=recipe.every, bumps=0.0)
        assert alpha(step) == pytest.approx(expected)
    assert alpha(2999) == pytest.approx(recipe.alpha[1])


def test_a_collapsing_code_bumps_alpha_at_falling_bounds() -> None:
    alpha = AlphaSchedule(GateRecipe(alpha=(1.0, 1.0), bump=0.5, every=1), steps=2000, keep=0.4)
    seen = []
    for gone in (0.94, 0.95, 0.9, 0.84, 0.85, *[0.8, 0.75, 0.7, 0.65, 0.6, 0.6, 0.59]):
        alpha.watch(0, HALF, 1 - gone)
        seen.append(alpha(0))
    assert seen == [1.0, 1.5, 2.0, 2.0, 2.5, *[3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 5.5]]  # never below 1 - r = 60%
    other = AlphaSchedule(GateRecipe(alpha=(1.0, 1.0), bump=0.5, every=1), steps=2000, keep=0.4)
    other.memory = alpha.memory
    other.watch(0, HALF, 0.4)
    assert other(0) == 6.0


def test_an_undecided_code_bumps_alpha_after_twenty_changes() -> None:
    alpha = AlphaSchedule(GateRecipe(alpha=(1.0, 1.0), bump=0.5, every=10), steps=1000, keep=0.5)
    for step in range(200):
        alpha.watch(step, OPEN, 0.5)
    assert alpha(0) == 1.0
    for step in range(200, 230):
        alpha.watch(step, OPEN, 0.5)
        alpha.watch(step, 1 - OPEN, 0.5)
        alpha.watch(step, HALF, 0.5)
    assert alpha(0) == 4.0  # three changes, at which the one and the other were undecided


def test_alpha_runs_ahead_in_a_hurry_and_stays_without_binarisation() -> None:
    recipe = GateRecipe(alpha=(1.0, 101.0), every=1, hurry=10)
    alpha = AlphaSchedule(recipe, steps=101, keep=0.5)
    alpha.hurry()
    assert alpha(5) == pytest.approx(16.0)
    assert AlphaSchedule(recipe.changed({"binarise": False}), steps=101, keep=0.5)(100) == 1.0


def test_lambda_is_the_distance_of_the_code_from_its_share() -> None:
    penalty = Penalty(GateRecipe(penalty=10.0, pull=100.0), keep=0.5)
    code = torch.tensor([0.9, 0.4, 0.3, 0.2])
    assert float(penalty(code)) == pytest.approx(10 * (0.45 - 0.5) ** 2)
    for step in range(20):
        assert penalty.weight == 10.0
        penalty.remember(step, torch.tensor([0.9, 0.4 + 0.4 * (step >= 9), 0.3 + 0.4 * (step < 9), 0.9 * (step < 10)]))
    assert penalty.kept == 0.5  # the second channel in eleven of twenty steps, the others in nine and ten
    assert penalty.weight == 0.0
    for step in range(20, 40):
        penalty.remember(step, torch.tensor([0.9, 0.9 * (step < 30), 0.3, 0.2]))
    assert penalty.kept == 0.25  # the second in ten of the last twenty steps, though in 21 of all
    assert penalty.weight == pytest.approx(100 * 0.25)


def test_lambda_stays_where_it_is_not_adaptive() -> None:
    penalty = Penalty(PRESETS["mobilenet_v2"], keep=0.64)
    for step in range(40):
        penalty.remember(step, OPEN)
    assert penalty.weight == 10.0


def test_binary_means_nine_in_ten() -> None:
    code = torch.tensor([*[0.0, 1.0] * 4, 1.0, 0.5])
    assert is_binary(code)
    assert not is_binary(torch.cat([code[1:], torch.tensor([0.15])]))
    assert not is_binary(torch.cat([code[1:], torch.tensor([0.85])]))
    assert is_binary(torch.cat([code[1:], torch.tensor([0.15])]), 0.2, 0.8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": (2.0, 1.0)}, "alpha must be two numbers > 0, the first not above the second"),
        ({"every": 0}, "every must be at least 1"),
        ({"precision": "int8"}, "precision must be one of float32, bfloat16, float16"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number > 0"),
        ({"rate": 1}, "unknown number 'rate' of a gate recipe; known: epochs"),
    ],
)
def test_numbers_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GateRecipe().changed(changes)


def test_channels_stay_that_most_steps_keep_then_those_of_the_largest_code() -> None:
    shares, code = torch.tensor([0.5, 0.05, 0.55, 0.5, 0.05]), torch.tensor([0.3, 0.9, 0.6, 0.4, 0.8])
    gate = Learnt("group", shares, code, alpha=10.0, target=0.5, kept=0.2, binary=True)
    assert [gate.channels(width) for width in (None, 1, 2, 3, 4)] == [(2,), (2,), (2, 3), (0, 2, 3), (0, 1, 2, 3)]
