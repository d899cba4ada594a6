"""Costs and their budgets: one, or several that are all to be met.

While a search cuts, only the costs above their budgets count. Several of them are added up so that the dense network
costs as much in each, in the unit of the first:

    load(widths) = sum_i cost_i(widths) * dense_0 / dense_i        over the costs i whose budget is not met.

With one budget that is the cost itself, to the last bit.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secateur.errors import BudgetError, ConfigError
from secateur.protocols import CostModel
from secateur.search.budget import allowed_cost, format_cost, parse_budget

Costs = CostModel | Sequence[CostModel]
Budgets = str | float | Mapping[str, str | float]
Widths = Mapping[str, int]


@dataclass(frozen=True)
class Spending:
    """A cost and its budget.

    Attributes:
        cost: non-decreasing in every width.
        given: the budget as it was given.
        dense: what the dense network costs.
        largest: the largest cost that the budget allows.
    """

    cost: CostModel
    given: str | float
    dense: float
    largest: float

    def of(self, widths: Widths) -> float:
        """Return the cost of the network at these widths; groups that are absent keep all.

        Raises:
            ConfigError: it is no finite number of at least 0.
        """
        return counted(self.cost, widths)

    def met(self, widths: Widths) -> bool:
        return self.of(widths) <= self.largest

    def told(self, cost: float) -> str:
        """Return a cost as people read it."""
        return format_cost(cost, self.cost.unit)


def load(spendings: Sequence[Spending], widths: Widths) -> float:
    """Return what several costs come to together, in the unit of the first."""
    return sum(spending.of(widths) * (spendings[0].dense / spending.dense) for spending in spendings)


def state_spendings(cost: Costs, budget: Budgets, dense: Widths) -> tuple[Spending, ...]:
    """Return each cost with its budget, in the order of the costs.

    Args:
        cost: one cost or several, which have different names.
        budget: what `parse_budget` takes; for several costs a mapping from their names to it.
        dense: the widths of the dense network.

    Raises:
        ConfigError: no cost, what is none, two costs of one name, or a cost that is no finite number of at least 0.
        BudgetError: a budget is malformed, without a cost, or missing; or the dense network meets all of them.
    """
    costs = told_apart(cost)
    names = [each.name for each in costs]
    if not isinstance(budget, Mapping):
        if len(costs) > 1:
            raise BudgetError(
                f"there are {len(costs)} costs ({', '.join(names)}) and one budget, {budget!r}; give a mapping from "
                f"their names to budgets, such as {{{names[0]!r}: {budget!r}, ...}}"
            )
        spent = counted(costs[0], dense)
        return (Spending(costs[0], budget, spent, parse_budget(budget, spent, unit=costs[0].unit)),)
    if unknown := [name for name in budget if name not in names]:
        raise BudgetError(f"no cost is called {', '.join(map(repr, unknown))}; the costs are: {', '.join(names)}")
    if lacking := [name for name in names if name not in budget]:
        raise BudgetError(f"no budget is given for the cost {', '.join(map(repr, lacking))}; each needs one")
    spendings = tuple(_spending(each, budget[each.name], counted(each, dense)) for each in costs)
    if all(spending.largest >= spending.dense for spending in spendings):
        told = (f"{each.given!r} for {each.cost.name}, dense {each.told(each.dense)}" for each in spendings)
        raise BudgetError(f"every budget is already met by the dense network ({'; '.join(told)}); one must be below")
    return spendings


def told_apart(cost: Costs) -> tuple[CostModel, ...]:
    """Return the costs one by one. Raises ConfigError where there is none, one is no cost, or two have one name."""
    costs = tuple(cost) if isinstance(cost, Sequence) and not isinstance(cost, str) else (cost,)
    for each in costs:
        if not callable(each) or not hasattr(each, "name") or not hasattr(each, "unit"):
            raise ConfigError(
                f"{reprlib.repr(each)} stands where a cost should: a function of the widths with a name and a unit, "
                "such as secateur.MacsCost, or a list of such"
            )
    names = [each.name for each in costs]
    if not costs or len(set(names)) < len(names):
        raise ConfigError(f"costs must have different names, and there must be one; found: {', '.join(names) or None}")
    return costs


def counted(cost: CostModel, widths: Widths) -> float:
    """Return what a cost model says of these widths, as a plain number, whatever its own type.

    Raises:
        ConfigError: it is no finite number of at least 0, such as one that has run over its 32 bits.
    """
    given = cost(widths)
    try:
        spent = float(given)
    except (TypeError, ValueError, OverflowError):
        spent = math.nan
    if not 0 <= spent < math.inf:
        raise ConfigError(
            f"the cost {cost.name!r} is {reprlib.repr(given)} at the widths {dict(widths)}; it must be a finite number "
            "of at least 0"
        )
    return spent


def check_reach(spendings: Sequence[Spending], narrowest: Widths, rules: str) -> None:
    """Raise BudgetError, with the lowest cost that can be reached of each, if the narrowest widths do not meet all."""
    if all(spending.met(narrowest) for spending in spendings):
        return
    told = []
    for spending in spendings:
        lowest = spending.of(narrowest)
        share = (
            f"{100 * lowest / spending.dense:.1f}% of the dense network" if spending.dense else "the dense network's"
        )
        of = f" for {spending.cost.name}" if len(spendings) > 1 else ""
        told.append(
            f"the budget {spending.given!r}{of} allows {spending.told(spending.largest)}, "
            f"{'and' if spending.met(narrowest) else 'but'} the lowest cost that can be reached is "
            f"{spending.told(lowest)} ({share})"
        )
    stuck = all(spending.of(narrowest) == spending.dense for spending in spendings)
    none = "; no group can be cut to lower it" if stuck else ""
    raise BudgetError(f"{'; '.join(told)} with {rules}{none}")


def _spending(cost: CostModel, budget: str | float, dense: float) -> Spending:
    try:
        return Spending(cost, budget, dense, allowed_cost(budget, dense, unit=cost.unit))
    except BudgetError as error:
        raise BudgetError(f"{cost.name}: {error}") from error
