"""Uniform widths: one removed share for all groups.

References:
    [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
        arXiv 2005.13796, 2020.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping

from secateur.records import ChannelGroup, PruningPlan, Reduction, ScoreTable
from secateur.search.problem import Problem, state_problem
from secateur.search.selection import Variant, keep_count, next_allowed
from secateur.search.spending import Budgets, Costs


def uniform_plan(
    groups: Mapping[str, ChannelGroup],
    scores: ScoreTable,
    cost: Costs,
    budget: Budgets,
    *,
    round_to: int = 8,
    min_keep: int = 1,
    reduction: Reduction = "sum",
    variant: Variant = "low",
    seed: int = 0,
) -> PruningPlan:
    """Return the plan that removes the same share of every group, as small a share as the budget allows.

    Group g keeps `keep_count(W_g, rate)` channels, up to the next allowed width. Only the rates j / W_g change any
    width, so the smallest rate whose cost is at most the budget is found exactly, by bisection over them. The budget is
    met from below: what the common rate leaves over is left, no group gets a channel back.

    Args:
        groups: the channel groups by name.
        scores: (C,) for at least one producer of a group, larger = keep; groups without scores stay as they are, with
            a SecateurWarning that names them.
        cost: non-decreasing in every width; or several such, whose budgets are all met.
        budget: "50%", "60.5M" or the largest cost as a number, see `parse_budget`; for several costs a mapping from
            their names to that.
        round_to, min_keep: see `allowed_widths`; with 1 every width is allowed.
        reduction: how the scores of a group's producers combine.
        variant: which channels go, see `select`: "low" is the method, the others are its ablations.
        seed: draws the channels of the variant "random", each group's its own.

    Raises:
        NetworkError: there is no group to prune.
        ScoreError: no group has scores, or scores do not fit their group.
        ConfigError: `round_to` or `min_keep` below 1, an unknown variant, or a negative seed.
        BudgetError: a budget is malformed, already met, or out of reach; the lowest cost that can be reached of each is
            named.

    Cost: O(log(sum of widths)) evaluations of `cost`.

    Deviations: [Hou2020] states a share and reports the cost; here the cost is stated and the share found.

    Example:
        >>> import torch
        >>> from secateur.records import Member
        >>> class Quadratic:
        ...     name, unit = "square", "squares"
        ...     def __call__(self, widths):
        ...         return float(widths.get("conv", 4) ** 2)
        >>> group = ChannelGroup("conv", 4, (Member("conv", "producer", ((0,), (1,), (2,), (3,))),))
        >>> scores = ScoreTable({"conv": torch.tensor([4.0, 1.0, 3.0, 2.0])})
        >>> plan = uniform_plan({"conv": group}, scores, Quadratic(), "60%", round_to=1)
        >>> plan["conv"], plan.cost_after, plan.settings["rate"]
        ((0, 2, 3), 9.0, 0.25)
    """
    problem = state_problem(
        groups,
        scores,
        cost,
        budget,
        round_to=round_to,
        min_keep=min_keep,
        reduction=reduction,
        variant=variant,
        seed=seed,
    )

    widths, rate = uniform_widths(problem)
    return problem.plan(widths, {"search": "uniform", "rate": rate})


def uniform_widths(problem: Problem) -> tuple[dict[str, int], float]:
    """Return the widths of the smallest share that meets every budget when it is removed everywhere, and the share."""

    def widths(rate: float) -> dict[str, int]:
        return {name: next_allowed(keep_count(allowed[-1], rate), allowed) for name, allowed in problem.widths.items()}

    rates = sorted({removed / width for width in problem.dense.values() for removed in range(width + 1)})
    rate = rates[bisect.bisect_left(rates, True, key=lambda rate: problem.met(widths(rate)))]
    return widths(rate), rate
