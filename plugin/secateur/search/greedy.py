"""The greedy search: step by step, cut the group whose cut the network feels least.

References:
    [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
        arXiv 2005.13796, 2020, Algorithm 1.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from secateur.errors import BudgetError, ConfigError, EvaluationError
from secateur.protocols import CostModel, Evaluate
from secateur.records import ChannelGroup, PruningPlan, Reduction, ScoreTable
from secateur.search.budget import format_cost
from secateur.search.problem import Problem, state_problem
from secateur.search.selection import Variant


@dataclass(frozen=True)
class GreedyStep:
    """One accepted cut.

    Attributes:
        step: its number, from 1.
        group: the group that was cut.
        width: how many channels the group keeps from now on.
        cost: of the network after the cut.
        worth: what `evaluate` gave for it.
        candidates: how many candidates were evaluated in this step.
    """

    step: int
    group: str
    width: int
    cost: float
    worth: float
    candidates: int


def greedy_plan(
    groups: Mapping[str, ChannelGroup],
    scores: ScoreTable,
    cost: CostModel,
    budget: str | float,
    evaluate: Evaluate,
    *,
    delta: float = 0.005,
    round_to: int = 1,
    min_keep: int = 1,
    reduction: Reduction = "sum",
    variant: Variant = "low",
    seed: int = 0,
    on_step: Callable[[GreedyStep], None] | None = None,
) -> PruningPlan:
    """Return the plan that Algorithm 1 of [Hou2020] finds.

    While the cost exceeds the budget:

        1. each group proposes its smallest further cut that frees at least `delta` of the dense cost;
           a group that cannot free so much proposes nothing;
        2. if none can, each group that still frees anything proposes its last cut, down to its smallest width, so
           that a budget that can be reached is reached;
        3. the proposal of greatest worth is accepted; among equals the one that frees more cost per channel, then
           the group that comes first.

    The budget is met from below; the last step may overshoot it by less than what that step frees.

    Args:
        groups: the channel groups by name.
        scores: (C,) for at least one producer of a group, larger = keep; not recomputed between steps. Groups without
            scores stay as they are, with a SecateurWarning that names them.
        cost: non-decreasing in every width.
        budget: "50%", "60.5M" or the largest cost as a number; see `parse_budget`.
        evaluate: worth of a candidate, larger is better, from the kept channels of the groups cut so far; as
            published, the accuracy on held-out images without fine-tuning.
        delta: least share of the dense cost that a step frees, above 0 and at most 1.
        round_to, min_keep: see `allowed_widths`.
        reduction: how the scores of a group's producers combine.
        variant: which channels go, see `select`: "low" is the method, the others are its ablations.
        seed: draws the channels of the variant "random", each group's its own.
        on_step: called after each step with a `GreedyStep`.

    Raises:
        NetworkError: there is no group to prune.
        ScoreError: no group has scores, or scores do not fit their group.
        ConfigError: `delta`, `round_to`, `min_keep` or `seed` out of range, or an unknown variant.
        BudgetError: the budget is malformed, already met, or out of reach; said before any evaluation, with the
            lowest reachable cost.
        EvaluationError: `evaluate` raised or gave no finite number; names the group and the step.

    Cost: at most ceil(share to remove / delta) steps while groups can free delta, one evaluation a group in each.

    Deviations: the published code interleaves training and recomputes scores; the printed algorithm does neither, nor
    does this. Its step sizes are linear extrapolations; here they are exact. Step 2 is not in the paper, which stops
    short of such budgets.

    Example:
        >>> import torch
        >>> from secateur.records import Member
        >>> class Linear:
        ...     name, unit = "channels", "channels"
        ...     def __call__(self, widths):
        ...         return float(widths.get("a", 2) + widths.get("b", 2))
        >>> groups = {n: ChannelGroup(n, 2, (Member(n, "producer", ((0,), (1,))),)) for n in "ab"}
        >>> scores = ScoreTable({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([2.0, 1.0])})
        >>> plan = greedy_plan(groups, scores, Linear(), "75%", lambda kept: 1.0 if "b" in kept else 0.5)
        >>> dict(plan.kept)
        {'a': (0, 1), 'b': (0,)}
    """
    if not 0 < delta <= 1:
        raise ConfigError(f"delta is {delta}; it must be a share of the dense cost above 0 and at most 1")
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
    widths = {name: allowed[-1] for name, allowed in problem.widths.items()}
    current, step, evaluations = problem.dense_cost, 0, 0
    while current > problem.largest_cost:
        step += 1
        cuts = _propose(problem, widths, current, delta)
        worths = [_value(problem, evaluate, widths, cut=cut, step=step) for cut in cuts]
        worth, cut = max(zip(worths, cuts, strict=True), key=lambda pair: (pair[0], pair[1].freed_per_channel))
        widths[cut.group] = cut.width
        current, evaluations = cut.cost, evaluations + len(cuts)
        if on_step is not None:
            on_step(GreedyStep(step, cut.group, cut.width, current, worth, len(cuts)))
    return problem.plan(widths, {"search": "greedy", "delta": delta, "steps": step, "evaluations": evaluations})


@dataclass(frozen=True)
class _Cut:
    group: str
    width: int
    cost: float
    freed_per_channel: float


def _propose(problem: Problem, widths: Mapping[str, int], current: float, delta: float) -> list[_Cut]:
    """Return the next cuts to choose from, in the order of the groups (1 and 2 of `greedy_plan`)."""
    needed = delta * problem.dense_cost * (1 - 1e-9)  # the product is rounded: 0.07 * 100 > 7
    ordinary, last = [], []
    for name, width in widths.items():

        def cost(narrower: int, name: str = name) -> float:
            return problem.cost({**widths, name: narrower})

        def cut(narrower: int, cost: Callable[[int], float] = cost, name: str = name, width: int = width) -> _Cut:
            after = cost(narrower)
            return _Cut(name, narrower, after, (current - after) / (width - narrower))

        below = [w for w in reversed(problem.widths[name]) if w < width]
        idx = bisect.bisect_left(below, needed, key=lambda narrower: current - cost(narrower))
        if idx < len(below):
            ordinary.append(cut(below[idx]))
        elif below and cost(below[-1]) < current:
            last.append(cut(below[-1]))
    if not (ordinary or last):
        raise BudgetError(
            f"stuck at {format_cost(current, problem.cost.unit)}, above the budget of "
            f"{format_cost(problem.largest_cost, problem.cost.unit)}: no single group can lower the cost any further"
        )
    return ordinary or last


def _value(problem: Problem, evaluate: Evaluate, widths: Mapping[str, int], *, cut: _Cut, step: int) -> float:
    """Return the worth of a candidate, a finite number."""
    after = {**widths, cut.group: cut.width}
    narrowed = {name: width for name, width in after.items() if width < problem.groups[name].width}
    where = f"the candidate that cuts the group {cut.group!r} to {cut.width} channels in step {step}"
    try:
        worth = float(evaluate(problem.kept(narrowed)))
    except Exception as error:
        raise EvaluationError(f"evaluating {where} failed: {type(error).__name__}: {error}") from error
    if not math.isfinite(worth):
        raise EvaluationError(f"evaluating {where} gave {worth}; it must give a finite number, larger = better")
    return worth
