"""Budgets as people write them, costs as people read them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import BudgetError
from secateur.search import format_cost, parse_budget

DENSE = 125.49e6


@pytest.mark.parametrize(
    ("budget", "largest"),
    [
        ("50%", 62.745e6),
        (" 12.5 % ", 15.68625e6),
        ("60.5M", 60.5e6),
        ("60.5m", 60.5e6),
        ("800K", 800e3),
        ("0.1G", 100e6),
        (".1G", 100e6),
        (60_500_000, 60.5e6),
        (60.5e6, 60.5e6),
        (101, 101),
    ],
)
def test_shares_of_the_dense_cost_and_absolute_costs(budget: str | float, largest: float) -> None:
    assert parse_budget(budget, DENSE) == pytest.approx(largest, rel=1e-15)


@pytest.mark.parametrize("number", [np.int64(60_500_000), np.float32(60.5e6), Fraction(60_500_000)])
def test_numbers_of_other_kinds_are_numbers(number: Any) -> None:
    assert (found := parse_budget(number, DENSE)) == 60.5e6
    assert type(found) is float


def test_a_small_number_is_a_cost_where_costs_are_small() -> None:
    assert parse_budget(50, 5000) == 50
    assert parse_budget(8.0, 12.5) == 8.0
    assert parse_budget(0.2, 12.5) == 0.2
    assert parse_budget(8.0, 2000.0, unit="ms") == 8.0  # of a time that is known to be one


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("50", r'50 is ambiguous; write "50%" .* or "50M"'),
        (50, r'50 is ambiguous; write "50%" .* or "50M"'),
        (0.5, r'0.5 is ambiguous; write "50%" .* or "0.5M"'),
        ("0.5", r'0.5 is ambiguous; write "50%"'),
        (1, "1 is ambiguous"),
        ("60500000", "ambiguous"),
        ("150%", "above 0% and below 100%"),
        ("0%", "above 0% and below 100%"),
        ("-50%", "above 0% and below 100%"),
        ("100%", r"already met: the dense network costs 125.49M"),
        ("2.0G", "'2.0G' is already met"),
        (DENSE, "already met"),
        ("-5M", "must be positive"),
        ("0M", "must be positive"),
        (-3.0, "must be positive"),
        (0, "must be positive"),
        ("flops", r"'flops' is malformed; allowed: .*50%.*60.5M"),
        ("50 percent", "malformed"),
        ("5T", "malformed"),
        ("1e6M", "malformed"),
        ("", "malformed"),
        ("%", "malformed"),
        ("nan", "malformed"),
        ("inf", "malformed"),
        (float("nan"), "malformed"),
        (float("inf"), "malformed"),
        (10**400, "malformed"),
        (100, r'100 is ambiguous; write "100%"'),
        (True, "malformed"),
        (None, "malformed"),
        ([50], "malformed"),
    ],
)
def test_everything_else_is_refused_with_what_is_allowed(budget: str | float, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        parse_budget(budget, DENSE)


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (0, "0"),
        (0.01132, "0.0113"),  # of a small network in milliseconds: as far as two such can be told apart
        (-0.25, "-0.25"),
        (12.5, "12.50"),
        (999, "999"),
        (999.999, "1.00K"),
        (1000, "1.00K"),
        (999_999, "1.00M"),
        (1_814_073_344, "1.81G"),
    ],
)
def test_costs_are_written_with_a_suffix(cost: float, text: str) -> None:
    assert format_cost(cost) == text
    assert format_cost(cost, "MACs") == f"{text} MACs"


@given(st.integers(1_000, 10**12))
def test_what_is_written_is_read_back_to_half_a_percent(cost: int) -> None:
    assert parse_budget(format_cost(cost), 1e13) == pytest.approx(cost, rel=0.005)
