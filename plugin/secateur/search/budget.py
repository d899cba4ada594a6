"""Budgets as people write them, and costs as people read them."""

from __future__ import annotations

import math
import re
import reprlib
from numbers import Real

from secateur.errors import BudgetError

SUFFIXES = {"K": 1e3, "M": 1e6, "G": 1e9}
TIME = "ms"
ALLOWED = 'a share of the dense cost such as "50%", or the largest cost allowed such as "60.5M" (K, M or G)'


def parse_budget(budget: str | float, dense_cost: float, *, unit: str = "") -> float:
    """Return the largest cost that `budget` allows, in the unit of `dense_cost`.

    Args:
        budget: text: "50%" of the dense cost, or "60.5M", "2.0G", "800K". A number is the largest cost itself; one
            of at most 100 that is also below 1% of the dense cost is refused, because it reads like a percentage
            (50) or a share (0.5), unless the unit says that it is a time.
        dense_cost: what the unpruned network costs.
        unit: of the cost, such as "ms".

    Raises:
        BudgetError: the budget is malformed, not positive, ambiguous, or already met by the dense network.

    Example:
        >>> parse_budget("50%", 125.49e6), parse_budget("60.5M", 125.49e6)
        (62745000.0, 60500000.0)
    """
    allowed = allowed_cost(budget, dense_cost, unit=unit)
    if allowed >= dense_cost:
        given = repr(budget) if isinstance(budget, str) else f"{budget!r} {unit}".rstrip()
        raise BudgetError(
            f"the budget {given} is already met: the dense network costs {format_cost(dense_cost, unit)}; "
            "a budget must be below that"
        )
    return allowed


def allowed_cost(budget: str | float, dense_cost: float, *, unit: str = "") -> float:
    """Return what `parse_budget` does, also for a budget that the dense network meets.

    Example:
        >>> allowed_cost("100%", 640), allowed_cost("2K", 640)
        (640.0, 2000.0)
    """
    return _from_text(budget, dense_cost) if isinstance(budget, str) else _from_number(budget, dense_cost, unit)


def format_cost(cost: float, unit: str = "") -> str:
    """Return a cost with the suffix K, M or G and at most two decimals, three digits below 1, and the unit behind it.

    Example:
        >>> format_cost(125_485_706, "MACs"), format_cost(4.09e9), format_cost(640)
        ('125.49M MACs', '4.09G', '640')
    """
    suffix = ""
    for larger in SUFFIXES:
        if round(abs(cost), 2) >= 1000:
            cost, suffix = cost / 1000, larger
    if suffix:
        number = f"{cost:.2f}"
    elif cost == round(cost):
        number = f"{cost:.0f}"
    else:
        number = f"{cost:.3g}" if abs(cost) < 1 else f"{cost:.2f}"
    return f"{number}{suffix} {unit}".rstrip()


def _from_text(budget: str, dense_cost: float) -> float:
    match = re.fullmatch(r"\s*(-?\d+(?:\.\d*)?|-?\.\d+)\s*([%KMGkmg]?)\s*", budget)
    if match is None:
        raise BudgetError(f"the budget {budget!r} is malformed; allowed: {ALLOWED}")
    number, suffix = float(match[1]), match[2].upper()
    if not suffix:
        raise BudgetError(_ambiguous(budget.strip()))
    if suffix != "%":
        return _positive(number * SUFFIXES[suffix], budget)
    if not 0 < number <= 100:
        raise BudgetError(f"the budget {budget!r} is out of range; a share must lie above 0% and below 100%")
    return number * dense_cost / 100


def _from_number(budget: float, dense_cost: float, unit: str) -> float:
    try:
        number = math.nan if isinstance(budget, bool) or not isinstance(budget, Real) else float(budget)
    except OverflowError:  # a whole number beyond every float
        number = math.inf
    if not math.isfinite(number):
        raise BudgetError(f"the budget {reprlib.repr(budget)} is malformed; allowed: {ALLOWED}, or a finite number")
    if unit != TIME and 0 < number <= 100 and number < 0.01 * dense_cost:
        raise BudgetError(_ambiguous(f"{number:g}"))
    return _positive(number, budget)


def _positive(cost: float, budget: str | float) -> float:
    if cost <= 0:
        raise BudgetError(f"the budget {budget!r} must be positive; allowed: {ALLOWED}")
    return cost


def _ambiguous(number: str) -> str:
    percent = f"{float(number) * 100:g}" if 0 < float(number) < 1 else number
    return (
        f'the budget {number} is ambiguous; write "{percent}%" for a share of the dense cost or "{number}M" for a cost'
    )
