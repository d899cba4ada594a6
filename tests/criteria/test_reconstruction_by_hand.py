"""The order in which channels go, where it is known beforehand; where it stops; and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from readings_for_tests import CASES, Reader, blocks
from secateur.criteria import GROUP_CRITERIA, Reconstruction, known_criterion
from secateur.criteria.adapting import Reading
from secateur.criteria.reconstruction import elimination
from secateur.errors import ConfigError, ScoreError


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 2, 2], [1, 2, 3, 4], []])
def test_an_order_that_is_none_is_refused(order: list[int]) -> None:
    with pytest.raises(ScoreError, match="the order must name each of 4 channels once"):
        elimination([CASES["blocks"][0].reading()], order=order)


def test_once_all_is_gone_the_error_is_that_of_answering_zero() -> None:
    readings = [r.reading() for r in CASES["two readers"]]
    _, errors = elimination(readings)
    assert errors[-1] == pytest.approx(sum(reading.TT for reading in readings))


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
