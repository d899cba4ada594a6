"""Widths from error curves: no evaluation, no labels.

Where a group's scores are the error that is made once a channel and all that are worth less have gone
(`secateur.criteria.Reconstruction`), sorting them gives the group's error curve e_g(k) for k kept channels. The widths
that spend a budget best then minimise

    sum_g e_g(k_g)      subject to      cost(k) <= budget.

For a price p of a unit of cost, sum_g e_g(k_g) + p cost(k) falls apart into one small problem a group if the cost is a
sum over groups; the smallest price that meets the budget is found by bisection. Several budgets have a price each: all
the same, as shares of what the dense network costs, or one of them alone is priced until all are met.

What a price leaves over is spent, and groups are narrowed to widen others (`secateur.search.exchange`), since no price
leads to some of the best choices. That is done from several starts, and the best is taken: the widths at the smallest
price and at some times it, and uniform widths, so that the plan never has a larger error than these.

The Lagrange multiplier for a budget of discrete choices is Everett's [Everett1963]; curves of a layer's error for an
allocation are used by [Frantar2022] for a network's time.

References:
    [Everett1963] H. Everett, Generalized Lagrange Multiplier Method for Solving Problems of Optimum Allocation of
        Resources, Operations Research 11, 1963.
    [Frantar2022] E. Frantar and D. Alistarh, SPDY: Accurate Pruning with Speedup Guarantees, ICML 2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from secateur.errors import ScoreError
from secateur.records import ChannelGroup, PruningPlan, ScoreTable
from secateur.search.exchange import Bill, Curves, improved, total
from secateur.search.problem import Problem, state_problem
from secateur.search.spending import Budgets, Costs
from secateur.search.uniform import uniform_widths

RECONSTRUCTION = "reconstruction"  # whose scores are errors
SWEEPS = 20  # over the groups, for a cost that is no sum over them
HALVINGS = 40  # of the interval of prices
HIGHEST = 1e30  # a price at which no error counts
TIMES = (1, 1.3, 2, 4)  # the lowest price, at which other widths are tried


def curve_plan(
    groups: Mapping[str, ChannelGroup],
    scores: ScoreTable,
    cost: Costs,
    budget: Budgets,
    *,
    round_to: int = 8,
    min_keep: int = 1,
    order: ScoreTable | None = None,
) -> PruningPlan:
    """Return the plan whose summed error is least among those that the budget allows, by the groups' error curves.

    For a cost that is a sum over groups no widths of the same cost have a lower error than those at the smallest price
    that meets the budget, and what is left only lowers it. Where the costs of groups multiply, as those of two layers
    in a row do, the groups take turns at a given price until none moves. Either way the plan is a local optimum: no
    group can be widened, and no two groups exchange width, at a lower error. The error is never above that of uniform
    widths.

    Args:
        groups: the channel groups by name.
        scores: errors that can be compared across groups, as `reconstruction_scores(..., relative=True)` gives them;
            your own without a criterion in their settings.
        cost: non-decreasing in every width; or several such, whose budgets are all met.
        budget: "50%", "60.5M" or the largest cost as a number, see `parse_budget`; for several costs a mapping from
            their names to that.
        round_to, min_keep: see `allowed_widths`; with 1 every width is allowed.
        order: the scores that the curves were made in the order of, `reconstruction_scores(..., order=...)`: channels
            that tie by them are told apart by their place alone, which the curves do not show and `plan.ties` counts.

    Raises:
        as `uniform_plan`; and ScoreError where the scores are by another criterion than reconstruction, or the error
            at an allowed width is below 0.

    Cost: evaluations of `cost` for each pair of groups, and for each width of a group beside each choice of widths of
    the groups that its cost depends on: thousands where costs are sums, some hundred thousand for layers in a row;
    seconds for a network of fifty groups.

    Deviations: [Frantar2022] searches over the weights of the errors, which are given here.

    Example:
        >>> import torch
        >>> from secateur.records import Member
        >>> class Sum:
        ...     name, unit = "channels", "channels"
        ...     def __call__(self, widths):
        ...         return float(widths.get("a", 3) + widths.get("b", 3))
        >>> own = ((0,), (1,), (2,))
        >>> groups = {name: ChannelGroup(name, 3, (Member(name, "producer", own),)) for name in "ab"}
        >>> curves = ScoreTable({"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([5.0, 60.0, 9.0])})
        >>> plan = curve_plan(groups, curves, Sum(), 4, round_to=1)
        >>> plan.widths, plan["b"]
        ({'a': 1, 'b': 3}, (0, 1, 2))
    """
    _check_criterion(scores)
    problem = state_problem(
        *(groups, scores, cost, budget), round_to=round_to, min_keep=min_keep, reduction="sum", order=order
    )
    errors = {name: _curve(values.tolist(), problem.widths[name]) for name, values in problem.scores.items()}
    _check_errors(errors)
    bill = Bill(problem)
    uniform, _ = uniform_widths(problem)
    starts, at_price = [uniform], math.inf
    prices: list[float] = []
    for weights in _weights(len(bill.spendings)):
        lowest = _lowest_price(problem, bill, errors, weights)
        for times in TIMES:
            found = _at(bill, errors, [times * lowest * weight for weight in weights], problem.dense)
            if not problem.met(found):  # no price is high enough, as where only several groups together lower a cost
                found = problem.narrowest
            if found not in starts:
                starts.append(found)
            if times == 1 and total(errors, found) < at_price:
                prices, at_price = [lowest * weight for weight in weights], total(errors, found)
    best = min((improved(problem, bill, errors, start) for start in starts), key=lambda widths: total(errors, widths))
    settings = {
        "search": "curves",
        "prices": dict(zip((spending.cost.name for spending in bill.spendings), prices, strict=True)),
        "error": total(errors, best),
        "error_at_price": at_price,
    }
    return problem.plan(best, settings)


def _curve(scores: list[float], widths: tuple[int, ...]) -> dict[int, float]:
    """Return the error at each allowed width: the score of the last channel that goes, 0 where none does."""
    ordered = sorted(scores)
    return {width: ordered[len(scores) - width - 1] if width < len(scores) else 0.0 for width in widths}


def _check_criterion(scores: ScoreTable) -> None:
    """Refuse scores by another criterion: where none is below 0 they would pass for errors."""
    criterion = scores.settings.get("criterion", RECONSTRUCTION)
    if criterion != RECONSTRUCTION:
        raise ScoreError(
            f"these are scores by {criterion}, and no error curves; `reconstruction_scores(model, groups, loader, "
            "order=scores)` makes the curves of channels in their order"
        )


def _check_errors(errors: Curves) -> None:
    """Refuse scores that are no errors: below 0 the search would gain by cutting, and might never end."""
    for name, curve in errors.items():
        if (lowest := min(curve.values())) < 0:
            raise ScoreError(
                f"the scores of the group {name!r} are no error curve: they fall to {lowest:g}, and an error is at "
                "least 0; `reconstruction_scores` makes curves"
            )


def _weights(count: int) -> list[tuple[float, ...]]:
    """Return the ways in which the budgets share a price: all alike, and each alone."""
    alone = [tuple(float(idx == one) for idx in range(count)) for one in range(count)]
    return alone if count == 1 else [(1.0,) * count, *alone]


def _lowest_price(problem: Problem, bill: Bill, errors: Curves, weights: Sequence[float]) -> float:
    """Return the smallest price that meets the budgets, if each cost has so many times it."""

    def met(price: float) -> bool:
        return problem.met(_at(bill, errors, [price * weight for weight in weights], problem.dense))

    low, high = 0.0, 1.0
    while not met(high) and high < HIGHEST:
        low, high = high, 4 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if met(middle) else (middle, high)
    return high


def _at(bill: Bill, errors: Curves, prices: Sequence[float], start: Mapping[str, int]) -> dict[str, int]:
    """Return the widths at which no group would rather have another, at a price for the dense network's cost each.

    Where two widths come to the same, the cheaper is taken, or the wider of two as cheap.
    """
    widths = dict(start)
    for _ in range(SWEEPS):
        before = dict(widths)
        for name, curve in errors.items():
            paid = {}
            for width, costs in bill(name, widths).items():
                due = sum(
                    price * cost / spending.dense
                    for price, cost, spending in zip(prices, costs, bill.spendings, strict=True)
                )
                paid[width] = curve[width] + due, due, -width
            widths[name] = min(paid, key=lambda width: paid[width])
        if widths == before:
            break
    return widths
