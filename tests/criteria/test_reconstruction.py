"""The order in which channels go and the error that is left: against regressions solved again at every step."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.criteria import GROUP_CRITERIA, Reconstruction, adapting, known_criterion
from secateur.criteria.adapting import Reading, RowReading
from secateur.criteria.reconstruction import elimination
from secateur.criteria.ridge import removal_losses
from secateur.errors import ConfigError, ScoreError

Owned = tuple[tuple[int, ...], ...]


class Reader(NamedTuple):
    """Rows U (n, D), outputs T (n, O), and the columns of each channel."""

    U: Tensor
    T: Tensor
    owned: Owned

    def reading(self) -> Reading:
        return Reading(self.U.T @ self.U, self.U.T @ self.T, float(self.T.square().sum()), self.owned)

    def by_rows(self) -> RowReading:
        return RowReading(self.U, self.T, self.owned)

    def held(self, kind: str) -> Reading | RowReading:
        return self.reading() if kind == "products" else self.by_rows()


def naive_error(U: Tensor, T: Tensor, columns: list[int], r: float) -> float:
    """min over W of |U W - T|^2 + r |W|^2, with W zero outside of `columns`: solved, then summed number by number."""
    u = U[:, columns]
    W = torch.linalg.solve(u.T @ u + r * torch.eye(len(columns), dtype=U.dtype), u.T @ T)
    error = 0.0
    for row, target in zip(u, T, strict=True):
        for o in range(T.shape[1]):
            guess = sum(float(row[d]) * float(W[d, o]) for d in range(len(columns)))
            error += (guess - float(target[o])) ** 2
    return error + r * sum(float(w) ** 2 for w in W.flatten())


def naive_elimination(readers: Sequence[Reader], ridge: float) -> tuple[list[int], list[float]]:
    """Solve every regression without every channel that is left, and let the cheapest go."""
    alive = list(range(len(readers[0].owned)))
    order, errors = [], []
    while alive:
        totals = []
        for candidate in alive:
            total = 0.0
            for U, T, owned in readers:
                gone = {d for c, columns in enumerate(owned) if c not in alive or c == candidate for d in columns}
                left = [d for d in range(U.shape[1]) if d not in gone]
                r = ridge * sum(float(x) ** 2 for x in U.flatten()) / U.shape[1]
                total += naive_error(U, T, left, r)
            totals.append(total)
        best = min(range(len(alive)), key=totals.__getitem__)
        order.append(alive.pop(best))
        errors.append(totals[best])
    return order, errors


def reader(seed: int, n: int, D: int, O: int, owned: Owned) -> Reader:  # noqa: E741  # the number of outputs
    generator = torch.Generator().manual_seed(seed)
    U = torch.randn(n, D, generator=generator, dtype=torch.float64) @ torch.randn(D, D, generator=generator).double()
    return Reader(U, torch.randn(n, O, generator=generator, dtype=torch.float64), owned)


def blocks(channels: int, size: int, first: int = 0) -> Owned:
    return tuple(tuple(range(first + c * size, first + (c + 1) * size)) for c in range(channels))


CASES = {
    "single columns": [reader(0, 20, 5, 2, blocks(5, 1))],
    "blocks": [reader(1, 30, 8, 3, blocks(4, 2))],
    "interleaved blocks": [reader(2, 30, 8, 3, tuple((c, c + 4) for c in range(4)))],
    "two readers": [reader(3, 20, 4, 2, blocks(4, 1)), reader(4, 25, 8, 1, blocks(4, 2))],
    "not read everywhere": [
        reader(5, 20, 3, 2, ((0,), (), (2,), (1,))),
        reader(6, 20, 4, 2, ((), (0, 1), (), (2, 3))),
    ],
    "read by none": [reader(12, 20, 2, 2, ((0,), (), (1,)))],
    "columns of others": [reader(7, 20, 7, 2, blocks(2, 2, first=1))],
    "fewer rows than columns": [reader(8, 4, 6, 2, blocks(3, 2))],
    "many outputs": [reader(13, 30, 8, 9, blocks(4, 2))],
    "seven channels": [reader(9, 40, 7, 2, blocks(7, 1))],
}


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


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 2, 2], [1, 2, 3, 4], []])
def test_an_order_that_is_none_is_refused(order: list[int]) -> None:
    with pytest.raises(ScoreError, match="the order must name each of 4 channels once"):
        elimination([CASES["blocks"][0].reading()], order=order)


def test_once_all_is_gone_the_error_is_that_of_answering_zero() -> None:
    readings = [r.reading() for r in CASES["two readers"]]
    _, errors = elimination(readings)
    assert errors[-1] == pytest.approx(sum(reading.TT for reading in readings))


@given(
    seed=st.integers(0, 10**6),
    channels=st.integers(1, 6),
    size=st.integers(1, 3),
    n=st.integers(1, 30),
    ridge=st.sampled_from([1e-4, 1e-2, 1.0]),
)
@settings(max_examples=50, deadline=None)
def test_errors_never_fall_and_every_channel_goes_once(
    seed: int, channels: int, size: int, n: int, ridge: float
) -> None:
    readings = [reader(seed + i, n, channels * size, 2, blocks(channels, size)).reading() for i in (0, 1)]
    order, errors = elimination(readings, ridge=ridge)
    assert sorted(order) == list(range(channels))
    assert all(a <= b for a, b in itertools.pairwise(errors))
    assert errors[-1] == pytest.approx(sum(reading.TT for reading in readings))


@given(seed=st.integers(0, 10**6), turn=st.permutations(range(5)))
@settings(max_examples=20, deadline=None)
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


def test_dead_channels_go_first_and_cost_nothing() -> None:
    U, T, owned = copy.deepcopy(CASES["blocks"][0])
    U[:, [2, 3, 6, 7]] = 0
    order, errors = elimination([Reader(U, T, owned).reading()])
    assert order[:2] == [1, 3]
    assert errors[0] == errors[1] < errors[2]


@pytest.mark.parametrize("kind", ["products", "rows"])
def test_readers_of_nothing_but_zeros_do_not_mind(kind: str) -> None:
    U, T, owned = CASES["blocks"][0]
    order, errors = elimination([Reader(0 * U, T, owned).held(kind)])
    assert order == [0, 1, 2, 3]
    assert errors == [pytest.approx(float(T.square().sum()))] * 4


def test_channels_that_no_reader_reads_go_first_and_cost_nothing() -> None:
    U, T, _ = CASES["blocks"][0]
    order, errors = elimination([Reader(U, T, ((0,), (), (1,), ())).reading(), Reader(U, T, ((),) * 4).reading()])
    assert order[:2] == [1, 3]
    assert errors[0] == errors[1] < errors[2]


def test_of_equal_losses_the_lower_index_goes_first() -> None:
    reading = Reading(torch.eye(4).double(), torch.ones(4, 1).double(), 5.0, blocks(4, 1))
    assert elimination([reading])[0] == [0, 1, 2, 3]


def test_of_two_equal_channels_one_goes_for_next_to_nothing_and_then_the_other_counts() -> None:
    U, _, _ = CASES["single columns"][0]
    U = U.clone()
    U[:, 3] = U[:, 1]
    T = 5 * U[:, [1]] + 0.5 * U[:, [0]] + 0.5 * U[:, [2]] + 0.5 * U[:, [4]]
    order, errors = elimination([Reader(U, T, blocks(5, 1)).reading()], ridge=1e-8)
    assert order[0] in (1, 3)
    assert order[-1] in (1, 3)
    assert errors[0] < 1e-6 * errors[-1]


@pytest.mark.parametrize("keep", [0, 1, 3, 5])
def test_it_stops_where_asked(keep: int) -> None:
    whole = elimination([CASES["single columns"][0].reading()])
    for asked in (None, whole[0]):
        order, errors = elimination([CASES["single columns"][0].reading()], keep=keep, order=asked)
        assert (order, errors) == (whole[0][: 5 - keep], pytest.approx(whole[1][: 5 - keep]))


def test_the_last_channel_of_a_part_stays_and_dearer_ones_go() -> None:
    reading = Reading(torch.eye(5).double(), torch.arange(1.0, 6.0).double()[:, None], 55.0, blocks(5, 1))
    order, errors = elimination([reading], ridge=1e-9, keep=2, parts=[{0, 1}, {2, 4}])
    assert order == [0, 2, 3]
    assert errors == pytest.approx([1.0, 1.0 + 9.0, 1.0 + 9.0 + 16.0])
    with pytest.raises(ScoreError, match="cannot keep 1 channels, of which 2 parts need one each"):
        elimination([reading], keep=1, parts=[{0, 1}, {2, 4}])


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
@settings(max_examples=50, deadline=None)
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


def test_bad_readings_are_refused() -> None:
    U, T, _ = CASES["blocks"][0]
    uneven, even = (Reader(U, T, owned).reading() for owned in (((0,), (1, 2)), ((0,), (1,))))
    for readings in ([uneven], [even, uneven]):
        with pytest.raises(ScoreError, match="different numbers of a reader's inputs"):
            elimination(readings)
    with pytest.raises(ScoreError, match="all of the same channels"):
        elimination([Reader(U, T, blocks(4, 2)).reading(), Reader(U, T, blocks(2, 2)).reading()])
    with pytest.raises(ScoreError, match="at least one"):
        elimination([])
    for ridge in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="must be a positive number"):
            elimination([Reader(U, T, blocks(4, 2)).reading()], ridge=ridge)
    ones = torch.ones(30, 8, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"ridge 1e-18 is too small"):
        elimination([Reader(ones, T, blocks(4, 2)).reading()], ridge=1e-18)


# --- the criterion ----------------------------------------------------------------------------------------------------


def test_the_score_of_a_channel_is_the_error_once_it_is_gone() -> None:
    readings = [r.reading() for r in CASES["two readers"]]
    order, errors = elimination(readings, ridge=0.1)
    scores = Reconstruction(ridge=0.1)(readings)
    assert scores.dtype == torch.float64
    assert [scores[c].item() for c in order] == errors


def test_it_is_known_by_its_name() -> None:
    assert GROUP_CRITERIA["reconstruction"] is Reconstruction
    assert known_criterion("reconstruction", labels=0.5) == Reconstruction(labels=0.5)
    with pytest.raises(ConfigError, match="did you mean 'ridge'"):
        known_criterion("reconstruction", rigde=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"rows": 0}, "rows is 0"),
        ({"memory": 0}, "memory is 0"),
        ({"ridge": 0.0}, "ridge is 0.0"),
        ({"labels": -1.0}, "labels is -1.0"),
        ({"labels": float("inf")}, "labels is inf"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Reconstruction(**options)
