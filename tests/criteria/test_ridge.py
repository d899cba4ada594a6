"""The ridge regression behind DI: two forms, one answer; any targets; bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.criteria import ridge
from secateur.errors import ConfigError, DataError

Answer = Callable[..., Tensor]
ANSWERS: list[Answer] = [ridge.explained_variation, ridge.mask_derivatives, ridge.removal_losses]
shapes = st.tuples(st.integers(2, 9), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))


def problem(seed: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).relu(), torch.randn(shape[0], 5, generator=generator)


@given(seed=st.integers(0, 10**6), shape=shapes, rho=st.sampled_from([1e-3, 0.1, 10.0]))
@settings(max_examples=40, deadline=None)
def test_primal_and_dual_agree(seed: int, shape: tuple[int, int, int, int], rho: float) -> None:
    maps, targets = problem(seed, shape)
    whole = float(ridge.explained_variation(maps, targets, rho=rho))
    for answer in ANSWERS:
        primal = answer(maps, targets, rho=rho, form="primal")
        dual = answer(maps, targets, rho=rho, form="dual")
        assert float((primal - dual).abs().max()) <= 1e-9 * max(whole, 1e-12)


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_smaller_form_is_chosen(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("the other form was expected")

    with monkeypatch.context() as patch:
        patch.setattr(ridge, "_dual", refuse)
        answer(*problem(0, (8, 2, 2, 2)), rho=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(ridge, "_primal", refuse)
        answer(*problem(0, (7, 2, 2, 2)), rho=0.1)


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_matrix_of_features_by_features(answer: Answer) -> None:
    maps, targets = problem(1, (3, 4, 160, 160))  # D x D would take 84 GB
    assert bool((answer(maps, targets, rho=0.1) >= 0).all())


@pytest.mark.parametrize("shape", [(9, 5, 2, 3), (5, 5, 3, 3), (40, 5, 2, 2)])
def test_chunks_do_not_change_the_answer(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    maps, targets = problem(2, shape)
    whole = [answer(maps, targets, rho=0.1) for answer in ANSWERS]
    for chunk in (1, 2 * shape[0] * shape[2] * shape[3]):
        monkeypatch.setattr(ridge, "CHUNK", chunk)
        for answer, expected in zip(ANSWERS, whole, strict=True):
            torch.testing.assert_close(answer(maps, targets, rho=0.1), expected, rtol=1e-10, atol=1e-12)


def test_the_explained_part_and_the_rest_make_the_whole() -> None:
    maps, targets = problem(3, (30, 4, 1, 2))
    X, Y = maps.flatten(1).double(), targets.double()
    X, Y = X - X.mean(0), Y - Y.mean(0)
    F = torch.linalg.inv(X.T @ X + 2.0 * torch.eye(8)) @ X.T @ Y
    rest = (Y - X @ F).square().sum() + 2.0 * F.square().sum()
    torch.testing.assert_close(ridge.explained_variation(maps, targets, rho=2.0), Y.square().sum() - rest)


def test_constants_added_to_maps_or_targets_change_nothing() -> None:
    maps, targets = problem(4, (6, 3, 2, 2))
    for answer in ANSWERS:
        moved = answer(maps.double() + 3.0, targets.double() - 1e4, rho=1e-6)
        torch.testing.assert_close(moved, answer(maps, targets, rho=1e-6), rtol=1e-7, atol=1e-12)


def test_total_variation_is_the_trace() -> None:
    maps, _ = problem(5, (6, 3, 2, 2))
    centred = maps.double() - maps.double().mean(0)
    assert ridge.total_variation(maps) == pytest.approx(float(centred.square().sum()))


@pytest.mark.parametrize("rho", [0.0, -0.1, float("inf"), float("nan")])
def test_rho_must_be_positive(rho: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        ridge.mask_derivatives(*problem(6, (6, 3, 2, 2)), rho=rho)


def test_unknown_forms_and_unfit_targets_are_refused() -> None:
    maps, targets = problem(7, (6, 3, 2, 2))
    unknown: Any = "both"
    with pytest.raises(ConfigError, match="auto, primal, dual"):
        ridge.mask_derivatives(maps, targets, rho=0.1, form=unknown)
    for unfit in (targets[:5], targets[:, 0], targets[:, :0], targets / 0):
        with pytest.raises(DataError, match="6 images"):
            ridge.mask_derivatives(maps, unfit, rho=0.1)
