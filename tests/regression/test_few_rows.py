"""Rows that are held say what their products say, however they came together."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.records import Member
from secateur.regression import FewRows, Layout, NormalEquations, Target, readings_of, row_readings_of

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


@pytest.mark.parametrize("options", [{}, {"unit": 2.5}, {"labels": 0.3}])
@pytest.mark.parametrize("bias", [True, False])
def test_a_grouped_layer_reads_the_same_in_rows_as_in_products(options: dict[str, float], *, bias: bool) -> None:
    """Behind a batch norm; each block reads some of the channels, and its last two outputs are classes."""
    layer, norm = nn.Conv1d(14, 2, 1, groups=2, bias=bias), nn.BatchNorm1d(2)
    norm.weight.data = torch.tensor([0.5, -3.0])
    norm.running_mean = None
    member = Member("", "consumer", ((0,), (8,), (3, 10), (13,)))
    few, equations = filled(FewRows, slice(None)), filled(NormalEquations, slice(None))
    assert isinstance(few, FewRows)
    assert isinstance(equations, NormalEquations)
    readings = readings_of(equations, layer, Target("layer", norm), member, **options)
    rows = row_readings_of(few, layer, Target("layer", norm), member, **options)
    assert [reading.owned for reading in readings] == [((0,), (), (3,), ()), ((), (1,), (3,), (6,))]
    for reading, held in zip(readings, rows, strict=True):
        assert held.owned == reading.owned
        torch.testing.assert_close(held.U.T @ held.U, reading.UU)
        torch.testing.assert_close(held.U.T @ held.T, reading.UT)
        assert float(held.T.square().sum()) == pytest.approx(reading.TT)
