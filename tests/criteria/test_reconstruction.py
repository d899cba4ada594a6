"""The order in which channels go and the error that is left: against regressions solved again at every step."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from readings_for_tests import CASES, Reader, blocks, reader
from references_reconstruction import naive_elimination, naive_error
from secateur.criteria import adapting
from secateur.criteria.adapting import Reading
from secateur.criteria.reconstruction import elimination
from secateur.criteria.ridge import removal_losses


@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_regression_solved_again_without_each_channel(case: str, ridge: float) -> None:
    readers = CASES[case]
    expected_order, expected = naive_elimination(readers, ridge)
    for kind in ("products", "rows"):
        order, errors = elimination([r.held(kind) for r in readers], ridge=ridge)
        assert order == expected_order
        assert errors == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_given_order_has_the_errors_of_the_regressions_on_what_it_leaves(case: str) -> None:
    readers, ridge = CASES[case], 1e-2
    order = list(range(len(readers[0].owned)))[::-1]
    expected = []
    for step in range(1, len(order) + 1):
        total = 0.0
        for U, T, owned in readers:
            left = sorted({*range(U.shape[1])} - {d for c in order[:step] for d in owned[c]})
            total += naive_error(U, T, left, ridge * float(U.square().sum()) / U.shape[1])
        expected.append(total)
    for kind in ("products", "rows"):
        gone, errors = elimination([r.held(kind) for r in readers], ridge=ridge, order=order)
        assert gone == order
        assert errors == pytest.approx(expected, rel=1e-6)


@given(
    seed=st.integers(0, 10**6),
    channels=st.integers(1, 6),
    size=st.integers(1, 3),
    n=st.integers(1, 30),
    ridge=st.sampled_from([1e-4, 1e-2, 1.0]),
)
@settings(max_examples=50)
def test_errors_never_fall_and_every_channel_goes_once(
    seed: int, channels: int, size: int, n: int, ridge: float
) -> None:
    readings = [reader(seed + i, n, channels * size, 2, blocks(channels, size)).reading() for i in (0, 1)]
    order, errors = elimination(readings, ridge=ridge)
    assert sorted(order) == list(range(channels))
    assert all(a <= b for a, b in itertools.pairwise(errors))
    assert errors[-1] == pytest.approx(sum(reading.TT for reading in readings))


@given(seed=st.integers(0, 10**6), turn=st.permutations(range(5)))
@settings(max_examples=20)
def test_renaming_the_channels_renames_the_answer(seed: int, turn: list[int]) -> None:
    U, T, owned = reader(seed, 30, 10, 2, blocks(5, 2))
    order, errors = elimination([Reader(U, T, owned).reading()])
    turned, again = elimination([Reader(U, T, tuple(owned[c] for c in turn)).reading()])
    assert [turn[c] for c in turned] == order
    assert again == pytest.approx(errors)


def test_the_units_of_rows_and_outputs_change_nothing_but_the_unit_of_the_error() -> None:
    U, T, owned = CASES["blocks"][0]
    order, errors = elimination([Reader(U, T, owned).reading()])
    scaled, others = elimination([Reader(1e3 * U, 10 * T, owned).reading()])
    assert scaled == order
    assert others == pytest.approx([100 * error for error in errors])


@pytest.mark.parametrize("pixels", [1, 4])
def test_the_first_to_go_is_the_one_that_eq_5_names(pixels: int) -> None:
    """Class indicators as targets make it discriminant information's removal loss: one function serves both."""
    maps = torch.randn(40, 6, 1, pixels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Y = torch.nn.functional.one_hot(torch.arange(40) % 3).double()
    rho = 2.5
    losses = removal_losses(maps, Y, rho=rho)
    U, T = maps.flatten(1) - maps.flatten(1).mean(0), Y - Y.mean(0)
    found = Reader(U, T, blocks(6, pixels))
    ridge = rho * U.shape[1] / float(U.square().sum())
    r, D = rho, U.shape[1]
    [first], [error] = elimination([found.reading()], ridge=ridge, keep=5)
    before = naive_error(U, T, list(range(D)), r)
    assert first == int(losses.argmin())
    assert error - before == pytest.approx(float(losses.min()))


@pytest.mark.parametrize("kind", ["products", "rows"])
@pytest.mark.parametrize("rows", [10, 60])
def test_bringing_up_to_date_late_changes_no_number(monkeypatch: pytest.MonkeyPatch, rows: int, kind: str) -> None:
    readings = [reader(10, rows, 24, 3, blocks(12, 2)).held(kind), reader(11, rows, 12, 2, blocks(12, 1)).held(kind)]
    found = {}
    for delay in (1, 8, 1000):  # once all is gone, in between, and after every removal
        monkeypatch.setattr(adapting, "DELAY", delay)
        found[delay] = elimination(readings)
    order, errors = found[8]
    for others, again in found.values():
        assert others == order
        assert again == pytest.approx(errors, rel=1e-9)


@given(
    seed=st.integers(0, 10**6),
    channels=st.integers(1, 12),
    size=st.integers(1, 3),
    n=st.integers(1, 60),
    ridge=st.sampled_from([1e-4, 1e-2, 1.0]),
)
@example(seed=125, channels=2, size=3, n=8, ridge=1e-4)  # nearly singular: U'U spans seven orders of magnitude
@settings(max_examples=50)
def test_products_and_rows_give_the_same_and_so_does_their_own_order_asked_for(
    seed: int, channels: int, size: int, n: int, ridge: float
) -> None:
    owned = blocks(channels, size, first=1)  # the first column and the last belong to others
    readers = [reader(seed + i, n, channels * size + 2, 3, owned) for i in (0, 1)]
    products, rows = [each.reading() for each in readers], [each.by_rows() for each in readers]
    order, errors = elimination(products, ridge=ridge)
    close = pytest.approx(errors, rel=1e-8, abs=1e-11 * sum(reading.TT for reading in products))
    assert elimination(rows, ridge=ridge) == (order, close)
    assert elimination(products, ridge=ridge, order=order) == (order, close)
    assert elimination([products[0], rows[1]], ridge=ridge, order=order) == (order, close)


@pytest.mark.parametrize("order", [None, [2, 0, 3, 1]])
def test_what_is_given_stays_as_it_was(order: list[int] | None) -> None:
    reading, rows = CASES["blocks"][0].reading(), CASES["fewer rows than columns"][0].by_rows()
    before = [tensor.clone() for tensor in (reading.UU, reading.UT, rows.U, rows.T)]
    elimination([reading], order=order)
    elimination([rows], order=None if order is None else [2, 0, 1])
    assert all(map(torch.equal, (reading.UU, reading.UT, rows.U, rows.T), before))


def test_float32_products_are_solved_in_float64() -> None:
    UU, UT, TT, owned = vars(CASES["blocks"][0].reading()).values()
    order, errors = elimination([Reading(UU.float(), UT.float(), TT, owned)])
    expected = elimination([Reading(UU, UT, TT, owned)])
    assert order == expected[0]
    assert errors == pytest.approx(expected[1], rel=1e-4)
