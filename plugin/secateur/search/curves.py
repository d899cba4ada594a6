"""Widths from error curves: no evaluation, no labels.

Where a group's scores are the error that is made once a channel and all that are worth less have gone
(`secateur.criteria.Reconstruction`), sorting them gives the group's error curve e_g(k) for k kept channels. The widths
that spend a budget best then minimise

    sum_g e_g(k_g)      subject to      cost(k) <= budget.

For a price p of a unit of cost, sum_g e_g(k_g) + p cost(k) falls apart into one small problem a group if the cost is a
sum over groups; the smallest price that meets the budget is found by bisection. What it leaves over is spent on the
groups where it takes most error away for its cost.

The Lagrange multiplier for a budget of discrete choices is Everett's [Everett1963]; curves of a layer's error for an
allocation are used by [Frantar2022] for a network's time.

References:
    [Everett1963] H. Everett, Generalized Lagrange Multiplier Method for Solving Problems of Optimum Allocation of
        Resources, Operations Research 11, 1963.
    [Frantar2022] E. Frantar and D. Alistarh, SPDY: Accurate Pruning with Speedup Guarantees, ICML 2022.
"""

from __future__ import annotations

from collections.abc import Mapping

from secateur.records import ChannelGroup, PruningPlan, ScoreTable
from secateur.search.problem import Problem, state_problem
from secateur.search.spending import Budgets, Costs, load

SWEEPS = 20  # over the groups, for a cost that is no sum over them
HALVINGS = 40  # of the interval of prices
HIGHEST = 1e30  # a price at which no error counts


def curve_plan(
    groups: Mapping[str, ChannelGroup],
    scores: ScoreTable,
    cost: Costs,
    budget: Budgets,
    *,
    round_to: int = 1,
    min_keep: int = 1,
) -> PruningPlan:
    """Return the plan whose summed error is least among those that the budget allows, by the groups' error curves.

    For a cost that is a sum over groups the widths are those of the smallest price that meets the budget, and no widths
    of the same cost have a lower error; the rest of the budget is spent greedily. Where the costs of groups multiply,
    as those of two layers in a row do, the groups take turns at a given price until none moves: a local optimum.

    Args:
        groups: the channel groups by name.
        scores: errors that can be compared across groups, as `reconstruction_scores(..., relative=True)` gives them.
        cost: non-decreasing in every width; or several such, whose budgets are all met.
        budget: "50%", "60.5M" or the largest cost as a number, see `parse_budget`; for several costs a mapping from
            their names to that.
        round_to, min_keep: see `allowed_widths`.

    Raises:
        as `uniform_plan`.

    Cost: some hundred thousand evaluations of `cost` at most, seconds for a network of fifty groups.

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
        >>> plan = curve_plan(groups, curves, Sum(), 4)
        >>> plan.widths, plan["b"]
        ({'a': 1, 'b': 3}, (0, 1, 2))
    """
    problem = state_problem(
        groups, scores, cost, budget, round_to=round_to, min_keep=min_keep, reduction="sum", variant="low"
    )
    errors = {name: _curve(values.tolist(), problem.widths[name]) for name, values in problem.scores.items()}
    widths, price = _at_the_lowest_price(problem, errors)
    error = sum(errors[name][width] for name, width in widths.items())
    widths = _spend_the_rest(problem, errors, widths)
    left = sum(errors[name][width] for name, width in widths.items())
    return problem.plan(widths, {"search": "curves", "price": price, "error": left, "error_at_price": error})


def _curve(scores: list[float], widths: tuple[int, ...]) -> dict[int, float]:
    """Return the error at each allowed width: the score of the last channel that goes, 0 where none does."""
    ordered = sorted(scores)
    return {width: ordered[len(scores) - width - 1] if width < len(scores) else 0.0 for width in widths}


def _at_the_lowest_price(problem: Problem, errors: Mapping[str, Mapping[int, float]]) -> tuple[dict[str, int], float]:
    """Return the widths at the smallest price that meets the budget, and the price."""
    widths, narrowest = problem.dense, problem.narrowest
    low, high = 0.0, 1.0
    found = _at(problem, errors, high, widths)
    while not problem.met(found):
        low, high = high, 4 * high
        found = _at(problem, errors, high, widths) if high < HIGHEST else narrowest
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        tried = _at(problem, errors, middle, widths)
        if problem.met(tried):
            high, found = middle, tried
        else:
            low = middle
    return found, high


def _at(
    problem: Problem, errors: Mapping[str, Mapping[int, float]], price: float, start: Mapping[str, int]
) -> dict[str, int]:
    """Return the widths at which no group would rather have another, at a price for the share of the dense cost."""
    widths, counted = dict(start), problem.unmet(problem.dense)
    for _ in range(SWEEPS):
        before = dict(widths)
        for name, curve in errors.items():
            paid = {
                width: (error + price * load(counted, {**widths, name: width}) / counted[0].dense, width)
                for width, error in curve.items()
            }
            widths[name] = min(paid, key=lambda width: paid[width])
        if widths == before:
            break
    return widths


def _spend_the_rest(
    problem: Problem, errors: Mapping[str, Mapping[int, float]], widths: Mapping[str, int]
) -> dict[str, int]:
    """Widen, one group at a time, where it takes most error away for its cost, while the budget allows."""
    widths, counted = dict(widths), problem.unmet(problem.dense)
    while True:
        spent = load(counted, widths)
        best: tuple[float, str, int] | None = None
        for name, curve in errors.items():
            for width in curve:
                gained = curve[widths[name]] - curve[width]
                if width <= widths[name] or gained <= 0:
                    continue
                more = load(counted, {**widths, name: width}) - spent
                if problem.met({**widths, name: width}):
                    rate = gained / max(more, 1e-300)
                    if best is None or rate > best[0]:
                        best = rate, name, width
        if best is None:
            return widths
        widths[best[1]] = best[2]
