"""A race finds the best exactly, whatever is expected of the runners, and stops losers early where that is right."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.evaluation.racing import Form, race
from secateur.protocols import Worth


def run(losses: Tensor, expected: Tensor, *, best: float = -math.inf, goal: float = 0.0) -> tuple[list[Worth], Tensor]:
    """Race rows of losses (R, N); return the worths and how often each image was run by each."""
    found: dict[int, Worth] = {}
    runs = torch.zeros_like(losses)

    def lose(images: Mapping[int, Tensor]) -> dict[int, Tensor]:
        for runner, which in images.items():
            assert len(which), "nobody is asked to run nothing"
            runs[runner, which] += 1
        return {runner: losses[runner, which] for runner, which in images.items()}

    def settle(runner: int, worth: Worth) -> None:
        assert runner not in found, "settled once"
        found[runner] = worth

    forms = {runner: Form(row.clone(), -row) for runner, row in enumerate(expected)}
    race(forms, lose, worth=lambda lost: -lost, goal=goal, best=best, step=4, settle=settle)
    return [found[runner] for runner in range(len(losses))], runs


@given(seed=st.integers(0, 10**6), best=st.sampled_from([-math.inf, -8.0, -3.0]))
@settings(max_examples=60)
def test_what_is_left_open_is_asked_once_of_those_that_may_win(seed: int, best: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    losses = torch.randint(0, 2, (4, 12), generator=generator).double()
    open_ = torch.rand(4, 12, generator=generator) < 0.3
    found: dict[int, Worth] = {}
    asked: list[int] = []

    def doubts(runner: int) -> float:
        asked.append(runner)
        return float(losses[runner][open_[runner]].sum())

    said = losses.masked_fill(open_, 0.0)
    race(
        {runner: Form(row, -row) for runner, row in enumerate(said)},
        lambda images: {runner: said[runner, which] for runner, which in images.items()},
        worth=lambda lost: -lost,
        goal=0.0,
        best=best,
        step=4,
        doubts=doubts,
        settle=found.__setitem__,
    )
    truth = [-sum(row) for row in losses.tolist()]
    for runner, true in enumerate(truth):
        if true == max(*truth, best):
            assert found[runner] == Worth(true)
        assert found[runner].exact == (runner in asked)
        assert found[runner].value == true if runner in asked else true <= found[runner].value < max(*truth, best)
    assert len(asked) == len({*asked})
    assert all(-float(said[runner].sum()) >= best for runner in asked)


@given(
    runners=st.integers(1, 6),
    images=st.integers(1, 40),
    most=st.integers(0, 3),
    goal=st.floats(0, 30),
    best=st.sampled_from([-math.inf, -30.0, -10.0, -1.0, 0.0]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=150)
def test_whatever_is_expected_no_better_one_is_missed(
    runners: int, images: int, most: int, goal: float, best: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    losses = torch.randint(0, most + 1, (runners, images), generator=generator).double()
    expected = torch.rand(runners, images, generator=generator).double() * most
    worths, runs = run(losses, expected, best=best, goal=goal)
    truth = [-sum(row) for row in losses.tolist()]
    top = max(*truth, best)
    for worth, true in zip(worths, truth, strict=True):
        if true == top:
            assert worth == Worth(true)
        else:
            assert worth.value == true if worth.exact else true <= worth.value < top
    assert int(runs.max()) <= 1, "no image is run twice"


def test_what_is_expected_rightly_ends_the_race_early() -> None:
    losses = torch.zeros(10, 1000, dtype=torch.float64)
    for runner in range(10):
        losses[runner, runner * 90 : runner * 90 + 20 + runner] = 1.0
    worths, runs = run(losses, losses, goal=20.0)
    assert [worth.exact for worth in worths] == [True] + [False] * 9
    assert runs[0].sum() == 1000
    assert int(runs[1:].sum(1).max()) <= 30, "the others are beaten by the images on which they lose"


def test_equals_are_judged_to_the_end() -> None:
    losses = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 0]]).double()
    worths, _ = run(losses, losses)
    assert worths[:2] == [Worth(-2.0), Worth(-2.0)]
    assert worths[2].value == -3.0


def test_nothing_is_run_to_the_end_that_cannot_reach_what_is_known() -> None:
    losses = torch.ones(3, 100, dtype=torch.float64)
    worths, runs = run(losses, losses, best=-5.0, goal=5.0)
    assert not any(worth.exact for worth in worths)
    assert int(runs.sum(1).max()) <= 16


@pytest.mark.parametrize("images", [1, 7])
def test_one_runner_alone_comes_to_the_end(images: int) -> None:
    worths, runs = run(torch.ones(1, images, dtype=torch.float64), torch.zeros(1, images, dtype=torch.float64))
    assert worths == [Worth(-float(images))]
    assert runs.sum() == images


@pytest.mark.parametrize("lost", [math.inf, math.nan])
def test_what_is_worth_no_finite_number_is_settled_too(lost: float) -> None:
    """Whoever asked for the race names the candidate then."""
    worths, _ = run(torch.full((2, 20), lost, dtype=torch.float64), torch.zeros(2, 20, dtype=torch.float64))
    assert all(worth.exact and not math.isfinite(worth.value) for worth in worths)
