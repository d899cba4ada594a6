"""Rows that are held say what their products say, however they came together."""

from __future__ import annotations

import pytest
import torch

from secateur.regression import FewRows, Layout, NormalEquations

RANDOM = torch.Generator().manual_seed(0)
U = torch.randn(2, 5, 7, generator=RANDOM) + 3
U[:, :, 2] = 0.1  # constant: no variation but rounding's
E = torch.randn(2, 5, 3, generator=RANDOM)
LAYOUT = Layout(2, 7, 3)


def filled(kind: type[FewRows] | type[NormalEquations], rows: slice) -> FewRows | NormalEquations:
    held = kind(LAYOUT)
    held.add(U[:, rows], E[:, rows])
    return held


@pytest.mark.parametrize("intercept", [True, False])
def test_their_products_are_those_of_the_equations(*, intercept: bool) -> None:
    few, equations = filled(FewRows, slice(None)), filled(NormalEquations, slice(None))
    assert isinstance(few, FewRows)
    assert isinstance(equations, NormalEquations)
    rows, outputs = few.about_means(intercept=intercept)
    UU, UE, EE = equations.moments(intercept=intercept)
    torch.testing.assert_close(rows.mT @ rows, UU)
    torch.testing.assert_close(rows.mT @ outputs, UE)
    torch.testing.assert_close(outputs.square().sum(1), EE)
    assert few.rows == equations.rows == 5
    assert bool((rows[:, :, 2] == 0).all()) == intercept


@pytest.mark.parametrize("first", [0, 2, 5])
def test_those_of_several_processes_are_joined_whoever_has_none(first: int) -> None:
    one, other = filled(FewRows, slice(first)), filled(FewRows, slice(first, None))
    assert isinstance(one, FewRows)
    assert isinstance(other, FewRows)
    joined = one.to(torch.device("cpu")).joined(other)
    assert joined.rows == 5
    assert torch.equal(joined.about_means(intercept=False)[0], U.double())
    assert one.rows == first  # as it was
