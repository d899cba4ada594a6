"""The change of the weights is that of a least-squares problem with the ridge as extra rows, however it is held."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import references_recovery as naive
from secateur.errors import ConfigError, DataError
from secateur.regression import Layout, NormalEquations, Rows, Solution, regression

WIDE = 2**24


@st.composite
def problems(draw: Any) -> tuple[Tensor, Tensor, float, bool]:
    """U (G, n, D), E (G, n, O), a ridge, and whether there is an intercept; with dead inputs and offsets."""
    blocks, rows, unknowns, outputs = (draw(st.integers(1, high)) for high in (3, 12, 6, 3))
    random = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    U = torch.randn(blocks, rows + 1, unknowns, generator=random) + draw(st.sampled_from([0.0, 5.0]))
    if draw(st.booleans()):
        U[:, :, 0] = 0.0
    if draw(st.booleans()):
        U[0] = 0.0
    E = torch.randn(blocks, rows + 1, outputs, generator=random) + draw(st.sampled_from([0.0, 3.0]))
    return U, E, draw(st.sampled_from([1e-6, 1e-2, 10.0])), draw(st.booleans())


def filled(kind: type[Any], U: Tensor, E: Tensor, sizes: list[int] | None = None) -> Any:
    layout = Layout(U.shape[0], U.shape[2], E.shape[2])
    held = kind(layout) if kind is NormalEquations else kind(layout, memory=WIDE)
    whole = max(1, U.shape[1])
    for u, e in zip(U.split(sizes or whole, 1), E.split(sizes or whole, 1), strict=True):
        held.add(u, e)
    return held


def same(found: Solution, expected: Solution) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@given(problems(), st.sampled_from([NormalEquations, Rows]))
@settings(max_examples=80)
def test_both_solve_the_least_squares_problem(problem: tuple[Tensor, Tensor, float, bool], kind: type[Any]) -> None:
    U, E, ridge, intercept = problem
    found = filled(kind, U, E).solve(ridge=ridge, intercept=intercept)
    for g in range(len(U)):
        change, shift = naive.ridge_change(U[g], E[g], ridge, intercept=intercept)
        torch.testing.assert_close(found.weight[g], change, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found.intercept[g], shift, rtol=1e-6, atol=1e-7)
        before = naive.squared_error(U[g], E[g], torch.zeros_like(change), torch.zeros_like(shift))
        after = naive.squared_error(U[g], E[g], change, shift)
        torch.testing.assert_close(found.before[g], torch.tensor(before).double(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found.after[g], torch.tensor(after).double(), rtol=1e-6, atol=1e-6)
    assert bool((found.after <= found.before).all())


@pytest.mark.parametrize(("rows", "unknowns"), [(128, 512), (130, 515), (127, 512), (128, 511)])
def test_products_of_many_columns_are_those_of_all_pairs(rows: int, unknowns: int) -> None:
    """Above so many columns half of the products are copies of the other half."""
    U = torch.randn(2, 2 * rows, unknowns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = filled(NormalEquations, U, U[:, :, :1], [rows, rows])
    torch.testing.assert_close(found.UU, torch.einsum("gnd,gne->gde", U, U), rtol=1e-12, atol=1e-9)


@given(problems(), st.data())
@settings(max_examples=40)
def test_any_split_gives_the_same(problem: tuple[Tensor, Tensor, float, bool], data: st.DataObject) -> None:
    U, E, ridge, intercept = problem
    sizes, left = [], U.shape[1]
    while left:
        sizes.append(data.draw(st.integers(1, left)))
        left -= sizes[-1]
    for kind in (NormalEquations, Rows):
        same(
            filled(kind, U, E, sizes).solve(ridge=ridge, intercept=intercept),
            filled(kind, U, E).solve(ridge=ridge, intercept=intercept),
        )


@given(problems(), st.data())
@settings(max_examples=40)
def test_equations_of_shares_join_to_those_of_all(
    problem: tuple[Tensor, Tensor, float, bool], data: st.DataObject
) -> None:
    U, E, ridge, intercept = problem
    here = data.draw(st.integers(0, U.shape[1]))
    shares = [filled(NormalEquations, U[:, part], E[:, part]) for part in (slice(here), slice(here, None))]
    before = [share.UU.clone() for share in shares]
    joined = shares[0].joined(shares[1])
    assert joined.rows == U.shape[1]
    same(
        joined.solve(ridge=ridge, intercept=intercept),
        filled(NormalEquations, U, E).solve(ridge=ridge, intercept=intercept),
    )
    assert all(torch.equal(share.UU, UU) for share, UU in zip(shares, before, strict=True))


def test_rows_are_added_up_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    U, E = torch.randn(2, 50, 4), torch.randn(2, 50, 3)
    whole = filled(NormalEquations, U, E).solve(ridge=1e-2)
    monkeypatch.setattr("secateur.regression.equations.CHUNK", 30)
    same(filled(NormalEquations, U, E).solve(ridge=1e-2), whole)


@given(problems(), st.integers(0, 99))
@settings(max_examples=40)
def test_shifting_is_what_other_errors_would_have_given(problem: tuple[Tensor, Tensor, float, bool], seed: int) -> None:
    """Of two rows the smallest ridge leaves the weights to rounding, which their predictions do not see."""
    U, E, ridge, intercept = problem
    change = torch.randn(len(U), U.shape[2], E.shape[2], generator=torch.Generator().manual_seed(seed)).double()
    found = filled(NormalEquations, U, E).shifted(change).solve(ridge=ridge, intercept=intercept)
    expected = filled(NormalEquations, U, E.double() + U.double() @ change).solve(ridge=ridge, intercept=intercept)
    one, other = (U.double() @ own.weight + own.intercept[:, None] for own in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    if ridge > 1e-6 or U.shape[1] > 2:
        same(found, expected)


@given(problems(), st.data())
@settings(max_examples=40)
def test_taking_is_what_fewer_inputs_would_have_given(
    problem: tuple[Tensor, Tensor, float, bool], data: st.DataObject
) -> None:
    U, E, ridge, intercept = problem
    count = data.draw(st.integers(1, U.shape[2]))
    columns = torch.stack([torch.randperm(U.shape[2])[:count] for _ in U])
    fewer = torch.stack([block[:, own] for block, own in zip(U, columns, strict=True)])
    same(
        filled(NormalEquations, U, E).taking(columns).solve(ridge=ridge, intercept=intercept),
        filled(NormalEquations, fewer, E).solve(ridge=ridge, intercept=intercept),
    )


@pytest.mark.parametrize("kind", [NormalEquations, Rows])
@pytest.mark.parametrize("intercept", [True, False])
def test_no_error_means_no_change_to_the_last_bit(kind: type[Any], intercept: bool) -> None:
    found = filled(kind, torch.randn(3, 20, 4), torch.zeros(3, 20, 2)).solve(ridge=1e-2, intercept=intercept)
    assert all(not bool(part.any()) for part in found)


@pytest.mark.parametrize("kind", [NormalEquations, Rows])
def test_an_output_without_error_is_not_changed_by_its_neighbours(kind: type[Any]) -> None:
    E = torch.randn(1, 20, 3)
    E[:, :, 1] = 0.0
    found = filled(kind, torch.randn(1, 20, 4), E).solve(ridge=1e-2)
    assert not bool(found.weight[:, :, 1].any())
    assert not bool(found.intercept[:, 1].any())


@pytest.mark.parametrize("kind", [NormalEquations, Rows])
def test_inputs_that_are_always_zero_keep_their_weights(kind: type[Any]) -> None:
    U = torch.randn(1, 20, 4)
    U[:, :, 2] = 0.0
    found = filled(kind, U, torch.randn(1, 20, 3)).solve(ridge=1e-2, intercept=False)
    assert not bool(found.weight[:, 2].any())


@pytest.mark.parametrize("kind", [NormalEquations, Rows])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_inputs_that_are_always_the_same_say_no_more_than_the_intercept(kind: type[Any], count: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    U, E = torch.randn(2, 397, 3, generator=random), torch.randn(2, 397, 2, generator=random) + 2
    U[0, :, :count] = 7 * torch.rand(count, generator=random)  # rounding leaves something of it about its mean
    found = filled(kind, U, E).solve(ridge=1e-2)
    assert not bool(found.weight[0, :count].any())
    if count == 3:
        torch.testing.assert_close(found.intercept[0], E[0].double().mean(0))
    U[0, :, :count] = 0.0
    same(found, filled(kind, U, E).solve(ridge=1e-2))


@pytest.mark.parametrize("kind", [NormalEquations, Rows])
def test_a_ridge_that_float64_cannot_see_is_refused(kind: type[Any]) -> None:
    column = torch.rand(1, 20, 1)
    held = filled(kind, column.expand(-1, -1, 8), torch.randn(1, 20, 1))
    with pytest.raises(ConfigError, match="ridge is too small"):
        held.solve(ridge=1e-40, intercept=False)


@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 9), st.integers(500, 100_000))
@settings(max_examples=40)
def test_rows_keep_to_their_memory(blocks: int, unknowns: int, outputs: int, memory: int) -> None:
    layout = Layout(blocks, unknowns, outputs)
    try:
        rows = Rows(layout, memory=memory)
    except DataError:
        assert 8 * blocks * (2 * 2 * (unknowns + outputs) + 3 * 4) > memory  # two rows do not fit
        return
    n = rows.room
    assert 8 * blocks * (2 * n * (unknowns + outputs) + 3 * n * n) <= memory
    U, E = torch.randn(blocks, n + 3, unknowns), torch.randn(blocks, n + 3, outputs)
    for u, e in zip(U.split(2, 1), E.split(2, 1), strict=True):
        rows.add(u, e)
    assert rows.rows == n
    same(rows.solve(ridge=1e-2), filled(Rows, U[:, :n], E[:, :n]).solve(ridge=1e-2))


def test_rows_are_taken_where_the_equations_do_not_fit() -> None:
    layout, cpu = Layout(1, 1000, 10), torch.device("cpu")
    needed = NormalEquations.bytes_for(layout)
    assert isinstance(regression(layout, device=cpu, memory=needed), NormalEquations)
    assert isinstance(regression(layout, device=cpu, memory=needed - 1), Rows)
    with pytest.raises(DataError, match=r"1,000.*allow more memory"):
        regression(layout, device=cpu, memory=1000)
