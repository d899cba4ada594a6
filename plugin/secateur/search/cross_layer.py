"""Cross-layer ranking: how many filters each layer keeps, from one ranking of all weights.

Plain magnitude pruning ranks the weights of all layers in one list and takes the share of small ones in a layer for the
share of filters to remove. Late, large layers, whose weights are small, then almost vanish. Cross-layer ranking divides
the weights of a unit l by a power of what the unit costs before they are ranked:

    w_hat = |w| / cost_l^exponent
    threshold = the n-th largest w_hat of all units,  n = floor(total * (1 - share))
    keep_l = floor( C_l * share of the unit's w_hat that are not below the threshold ),  at least 1

The exponent turns the ranking: with 0 it is plain magnitude, with more the dear units (cost above 1) lose and the cheap
ones gain. Published are 0.5 for VGG-16, 10 for ResNet-56 and 5 for ResNet-110, where a unit is the first convolution of
a block and costs what the block does.

Deviations from the published code:

* *At least one filter stays* in each unit; published units can be emptied.
* *Costs are computed*, not printed constants; with the stem added to the first, as theirs, they agree with those to
  all of their five digits.
* *Integer arithmetic*: keep_l is exact where C_l times a share of weights is a whole number.

.. [Lin2022] M. Lin, L. Cao, Y. Zhang, L. Shao, C.-W. Lin, R. Ji. Pruning networks with cross-layer ranking and
   k-reciprocal nearest filters. arXiv:2202.07190, 2022.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import ConfigError, ScoreError
from secateur.records import ChannelGroup, PruningPlan, Reduction, ScoreTable
from secateur.search.problem import state_problem
from secateur.search.selection import Variant, next_allowed
from secateur.search.spending import Budgets, Costs

LARGEST = 500.0  # logarithm of the power of a cost by which float64 divides every float32


def convolution_cost(inputs: int, outputs: int, *, kernel: int, positions: int, bias: bool = False) -> float:
    """Return what a convolution and the batch norm and activation behind it cost: O P (K I + 4 + [bias]).

    Args:
        inputs, outputs: channels I and O.
        kernel: elements K of the kernel for one pair of channels, 9 for 3 x 3.
        positions: pixels P of the output, H * W.
        bias: whether the convolution has one.

    Four operations an output, for batch norm and activation, are the accounting of [Lin2022]_. A unit's cost is the sum
    over its convolutions; only ratios of units count.

    Example:
        >>> stem = convolution_cost(3, 16, kernel=9, positions=32 * 32)
        >>> block = 2 * convolution_cost(16, 16, kernel=9, positions=32 * 32)
        >>> round(block / (stem + block), 5)            # published for ResNet-56: 0.9052
        0.9052
    """
    return float(outputs * positions * (kernel * inputs + 4 + int(bias)))


def cross_layer_widths(
    weights: Mapping[str, Tensor], costs: Mapping[str, float], *, share: float, exponent: float = 1.0
) -> dict[str, int]:
    """Return how many filters each unit keeps, 1..C, by the cross-layer ranking of [Lin2022]_.

    Args:
        weights: unit -> weights (C, ...), floating, one row a filter.
        costs: unit -> its cost, > 0, in any unit of measurement: they are divided by the first unit's.
        share: how much of all weights ranks below the threshold, 0..1.
        exponent: power of the cost, >= 0.

    Raises:
        ConfigError: a share outside 0..1, an exponent that is negative, too large or no number, or a cost that is not
            positive.
        ScoreError: no unit, units without a cost, or weights that are empty or not finite.

    Cost: one sort of all weights, O(n log n); memory a few times that of the weights in float64.

    Deviations: see the module.

    Example:
        >>> weights = {"a": torch.tensor([[4.0], [3.0]]), "b": torch.tensor([[2.0], [1.0]])}
        >>> cross_layer_widths(weights, {"a": 1.0, "b": 1.0}, share=0.5)
        {'a': 2, 'b': 1}
        >>> cross_layer_widths(weights, {"a": 8.0, "b": 1.0}, share=0.5)
        {'a': 1, 'b': 2}
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share is {share}; a share of weights must lie in 0..1")
    ranking = _rank(weights, costs, exponent)
    return ranking.widths(math.floor(len(ranking.pool) * (1 - share) + 1e-9))


def cross_layer_plan(
    groups: Mapping[str, ChannelGroup],
    scores: ScoreTable,
    cost: Costs,
    budget: Budgets,
    *,
    weights: Mapping[str, Tensor],
    unit_costs: Mapping[str, float],
    exponent: float = 1.0,
    round_to: int = 1,
    min_keep: int = 1,
    reduction: Reduction = "sum",
    variant: Variant = "low",
    seed: int = 0,
) -> PruningPlan:
    """Return the plan whose widths come from the cross-layer ranking, at the smallest share that meets the budget.

    The widths are those of `cross_layer_widths`, up to the next of `allowed_widths`; the scores say which channels
    stay. With the scores of reciprocal nearest filters it is CLR-RNF [Lin2022]_.

    Args:
        groups: the channel groups by name; each is a unit.
        scores: (C,) for at least one producer of a group, larger = keep; groups without scores stay as they are, with
            a SecateurWarning that names them.
        cost: what the budget is counted in, non-decreasing in every width; or several such, whose budgets are all met.
        budget: "50%", "60.5M" or the largest cost as a number, see `parse_budget`; for several costs a mapping from
            their names to that.
        weights: group -> weights (W, ...) of the layer that produces it, or of several side by side.
        unit_costs: group -> the cost that its weights are divided by, > 0; see `convolution_cost`.
        exponent: power of the unit cost, >= 0.
        round_to, min_keep: see `allowed_widths`.
        reduction: how the scores of a group's producers combine.
        variant, seed: which channels go, see `select`.

    Raises:
        NetworkError: there is no group to prune.
        ScoreError: scores or weights are missing or do not fit their group.
        ConfigError: a setting out of range.
        BudgetError: a budget is malformed, already met, or out of reach; the lowest cost that can be reached of each is
            named.

    Cost: one sort of all weights, then O(log(weights)) evaluations of `cost`.

    Deviations: [Lin2022]_ states the share and reports the cost; here the cost is stated and the share found.

    Example:
        >>> from secateur.records import Member
        >>> class Channels:
        ...     name, unit = "channels", "channels"
        ...     def __call__(self, widths):
        ...         return float(widths.get("a", 2) + widths.get("b", 2))
        >>> groups = {n: ChannelGroup(n, 2, (Member(n, "producer", ((0,), (1,))),)) for n in "ab"}
        >>> weights = {"a": torch.tensor([[4.0], [3.0]]), "b": torch.tensor([[2.0], [1.0]])}
        >>> scores = ScoreTable({name: weight.sum(1) for name, weight in weights.items()})
        >>> plan = cross_layer_plan(groups, scores, Channels(), "75%", weights=weights, unit_costs={"a": 1.0, "b": 1.0})
        >>> dict(plan.kept), plan.settings["share"]
        ({'a': (0, 1), 'b': (0,)}, 0.25)
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
    for name, allowed in problem.widths.items():
        if name not in weights or weights[name].shape[:1] != (allowed[-1],):
            found = f"of the shape {tuple(weights[name].shape)}" if name in weights else "missing"
            raise ScoreError(f"the weights of the group {name!r} are {found}; it has {allowed[-1]} channels, one a row")
    ranking = _rank({name: weights[name] for name in problem.widths}, unit_costs, exponent)

    def widths(keep: int) -> dict[str, int]:
        found = ranking.widths(keep)
        return {name: next_allowed(found[name], allowed) for name, allowed in problem.widths.items()}

    total = len(ranking.pool)
    above = bisect.bisect_left(range(total + 1), True, key=lambda keep: not problem.met(widths(keep)))
    chosen = {"search": "cross_layer", "share": 1 - (above - 1) / total, "exponent": exponent}
    return problem.plan(widths(above - 1), chosen | {"unit_costs": {name: unit_costs[name] for name in problem.widths}})


@dataclass(frozen=True)
class _Ranking:
    """The weighed magnitudes of each unit, ascending, and of all units; `filters`: unit -> C."""

    units: Mapping[str, Tensor]
    pool: Tensor
    filters: Mapping[str, int]

    def widths(self, keep: int) -> dict[str, int]:
        """Return how many filters each unit keeps when `keep` of all weights are not below the threshold."""
        threshold = self.pool[len(self.pool) - keep] if keep else torch.tensor(torch.inf, dtype=self.pool.dtype)
        above = {unit: len(values) - int(torch.searchsorted(values, threshold)) for unit, values in self.units.items()}
        return {unit: max(1, self.filters[unit] * above[unit] // len(self.units[unit])) for unit in self.units}


def _rank(weights: Mapping[str, Tensor], costs: Mapping[str, float], exponent: float) -> _Ranking:
    weighed = _weighed(weights, costs, exponent)
    units = {unit: torch.sort(values).values for unit, values in weighed.items()}
    filters = {unit: len(weight) for unit, weight in weights.items()}
    return _Ranking(units, torch.sort(torch.cat(list(units.values()))).values, filters)


def _weighed(weights: Mapping[str, Tensor], costs: Mapping[str, float], exponent: float) -> dict[str, Tensor]:
    """Return |w| / (cost / cost of the first unit)^exponent, flat, float64, by unit."""
    if not (math.isfinite(exponent) and exponent >= 0):
        raise ConfigError(f"the exponent is {exponent}; it must be a number of at least 0")
    if not weights:
        raise ScoreError("there is no unit to rank: the weights are empty")
    lacking = [unit for unit in weights if unit not in costs]
    if lacking:
        raise ScoreError(f"no cost is given for {', '.join(lacking)}; every unit needs one")
    for unit in weights:
        if not (math.isfinite(costs[unit]) and costs[unit] > 0):
            raise ConfigError(f"the cost of {unit!r} is {costs[unit]}; it must be a positive number")
        if weights[unit].ndim == 0 or not weights[unit].numel() or not bool(torch.isfinite(weights[unit]).all()):
            raise ScoreError(
                f"the weights of {unit!r}, of the shape {tuple(weights[unit].shape)}, must be finite numbers (C, ...)"
            )
    first = costs[next(iter(weights))]
    for unit in weights:
        if exponent * abs(math.log(costs[unit] / first)) > LARGEST:
            raise ConfigError(
                f"the exponent {exponent} is too large for the cost of {unit!r}, {costs[unit] / first:g} of the first "
                "unit's: no number holds the power"
            )
    return {
        unit: weight.detach().to("cpu", torch.float64).flatten().abs() / (costs[unit] / first) ** exponent
        for unit, weight in weights.items()
    }
