"""Local search: from a plan that meets its budget to a better one, a swap at a time.

A search that looks at curves or scores sees the whole budget at once, but not the network; one that evaluates sees the
network, but one step at a time. Here the first proposes and the second decides: groups of the plan exchange channels,
in the order in which the scores promise most, and an exchange stands only if the network that it gives is worth more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from secateur.counts import check_counts
from secateur.errors import BudgetError, ConfigError
from secateur.protocols import Evaluate
from secateur.records import ChannelGroup, PruningPlan, Reduction, ScoreTable
from secateur.search.judging import Candidate, check_repeats, judge, settings_of
from secateur.search.problem import Problem, state_problem
from secateur.search.spending import Budgets, Costs
from secateur.search.swaps import Promise, Swap, losses_of, swaps_from, widths_key


@dataclass(frozen=True)
class RefineStep:
    """One accepted swap.

    Attributes:
        step: its number, from 1.
        widths: group -> how many channels it keeps from now on, of the one or two groups that changed; the wider first.
        cost: of the network after the swap; where there are several, the first of them.
        worth: what `evaluate` gave for it; more than at the step before.
        candidates: how many candidates were compared since the step before.
        further: name of each other cost -> what the network costs after the swap.
    """

    step: int
    widths: Mapping[str, int]
    cost: float
    worth: float
    candidates: int
    further: Mapping[str, float] = field(default_factory=dict)


def refine_plan(
    groups: Mapping[str, ChannelGroup],
    scores: ScoreTable,
    cost: Costs,
    budget: Budgets,
    evaluate: Evaluate,
    start: PruningPlan,
    *,
    promise: Promise = "curves",
    max_evaluations: int = 500,
    breadth: int = 8,
    round_to: int = 8,
    min_keep: int = 1,
    reduction: Reduction = "sum",
    order: ScoreTable | None = None,
    on_step: Callable[[RefineStep], None] | None = None,
) -> PruningPlan:
    """Return the plan that swaps lead to from `start`: worth more by `evaluate`, or `start`'s own widths.

    A swap makes one group wider and another narrower. For each pair of groups there is one:

        1. the first group goes up to its next allowed width; if that meets every budget, it is all;
        2. the second goes down until the budgets are met again;
        3. the first goes up further, as far as the second has paid for.

    Swaps are tried in the order of what the scores promise, the fall of a group's loss L when it is wider less the rise
    of the other's. A pair that was refused goes behind those that were refused less often; then pairs that promise the
    same stand in the order of the groups. `breadth` swaps at a time are compared with the plan as it is. The best of
    them is accepted if it is worth more; among equals the plan as it is, then the first. After that the swaps of the
    new widths are tried, without those that lead to widths that have been judged. The search ends when no swap is worth
    more, or after `max_evaluations`.

        L(k), "curves":  the score of the last channel that goes when k are kept: scores are error curves, whose unit
                         all groups share, see `curve_plan`
        L(k), "scores":  the sum of the scores of those that go, as a share of the group's sum of magnitudes

    At its width in `start` a group keeps the channels that it keeps there; at other widths the best by its scores.

    Args:
        groups: the channel groups by name.
        scores: (C,) for at least one producer of a group, larger = keep. Groups without scores stay as they are in
            `start`, with a SecateurWarning that names them.
        cost: non-decreasing in every width; or several such, whose budgets are all met.
        budget: "50%", "60.5M" or the largest cost as a number, see `parse_budget`; for several costs a mapping from
            their names to that.
        evaluate: worth of a candidate, larger is better, from the kept channels of the groups that lose any; on images
            that no one trains on. Its `race` is used if it has one (`secateur.protocols.Race`), its `fresh` to judge
            the start anew where it remembers, its `settings`, plain data, are recorded.
        start: a plan of the same groups that meets the budgets, by whichever search.
        promise: what the scores are.
        max_evaluations: how many candidates are judged at most, the start among them.
        breadth: how many swaps are compared at a time: with one, the first that is worth more is accepted.
        round_to, min_keep: see `allowed_widths`; a width of `start` that they do not allow can be left, not reached.
        reduction: how the scores of a group's producers combine.
        order: the scores that error curves were made in the order of, by which ties are counted, as by `curve_plan`.
        on_step: called after each accepted swap with a `RefineStep`.

    Raises:
        NetworkError, ScoreError, ConfigError: as `uniform_plan`; or `max_evaluations` or `breadth` below 1, or an
            unknown promise.
        PlanError: `start` is a plan of other groups.
        BudgetError: as `uniform_plan`; or `start` does not meet a budget.
        EvaluationError: `evaluate` raised or gave no finite number; names the swap.

    Warns:
        SecateurWarning: groups have no scores, or the evaluation is not deterministic.

    Cost: at most `max_evaluations` evaluations, and one of the start to see whether it repeats; between two accepted
    swaps, for G groups of W widths, G^2 log W evaluations of `cost`.

    Example:
        >>> import torch
        >>> from secateur.records import Member
        >>> from secateur.search import uniform_plan
        >>> class Sum:
        ...     name, unit = "channels", "channels"
        ...     def __call__(self, widths):
        ...         return float(widths.get("a", 4) + widths.get("b", 4))
        >>> own = ((0,), (1,), (2,), (3,))
        >>> groups = {name: ChannelGroup(name, 4, (Member(name, "producer", own),)) for name in "ab"}
        >>> scores = ScoreTable({"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([4.0, 3.0, 2.0, 1.0])})
        >>> start = uniform_plan(groups, scores, Sum(), "50%", round_to=1)
        >>> worth = lambda kept: len(kept.get("b", own))
        >>> plan = refine_plan(groups, scores, Sum(), "50%", worth, start, round_to=1)
        >>> start.widths, plan.widths, plan.settings["worth"]
        ({'a': 2, 'b': 2}, {'a': 1, 'b': 3}, 3.0)
    """
    if promise not in get_args(Promise):
        raise ConfigError(f"unknown promise {promise!r}; allowed: {', '.join(get_args(Promise))}")
    check_counts(max_evaluations=max_evaluations, breadth=breadth)
    problem = state_problem(
        *(groups, scores, cost, budget),
        round_to=round_to,
        min_keep=min_keep,
        reduction=reduction,
        start=start,
        order=order,
    )
    _check_budgets(problem, start)
    losses = {name: losses_of(values.tolist(), promise) for name, values in problem.scores.items()}
    settings: dict[str, Any] = {"search": "refine", "promise": promise, "breadth": breadth, **settings_of(evaluate)}

    widths, step, evaluations, since = start.widths, 0, 1, 0
    first = _candidate(problem, start, widths, "the start")
    worth = worth_at_start = judge(evaluate, [first], where="before step 1")[0].value
    check_repeats(evaluate, first, worth)
    judged, refused = {widths_key(widths)}, Counter[tuple[str, ...]]()
    batches = iter(_batches(swaps_from(problem, widths, losses, refused=refused, judged=judged), breadth))
    while evaluations < max_evaluations and (batch := next(batches, None)):
        batch = batch[: max_evaluations - evaluations]
        found = [{**widths, **swap} for swap in batch]
        candidates = [_candidate(problem, start, found[idx], _name(swap, step + 1)) for idx, swap in enumerate(batch)]
        as_it_is = _candidate(problem, start, widths, f"the plan before step {step + 1}")
        worths = judge(evaluate, [as_it_is, *candidates], where=f"in step {step + 1}", known={0: worth})
        best = max((idx for idx, each in enumerate(worths) if each.exact), key=lambda idx: worths[idx].value)
        judged.update(map(widths_key, found))
        evaluations, since = evaluations + len(batch), since + len(batch)
        if not best:
            refused.update(tuple(swap) for swap in batch)
            continue
        step, widths, worth = step + 1, found[best - 1], worths[best].value
        if on_step is not None:
            on_step(_told(problem, widths, batch[best - 1], step, worth, since))
        since = 0
        batches = iter(_batches(swaps_from(problem, widths, losses, refused=refused, judged=judged), breadth))
    settings |= {"steps": step, "evaluations": evaluations, "worth": worth, "worth_at_start": worth_at_start}
    return _plan(problem, start, widths, settings | {"start": dict(start.settings)})


def _check_budgets(problem: Problem, start: PruningPlan) -> None:
    for spending in problem.unmet(start.widths):
        raise BudgetError(
            f"the start costs {spending.told(spending.of(start.widths))}, above the budget {spending.given!r}, which "
            f"allows {spending.told(spending.largest)}; it must meet every budget"
        )


def _batches(swaps: Sequence[Swap], breadth: int) -> Iterator[Sequence[Swap]]:
    return (swaps[begin : begin + breadth] for begin in range(0, len(swaps), breadth))


def _kept(problem: Problem, start: PruningPlan, widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return what each group keeps: at its width in `start` what it keeps there, at others the best by its scores."""
    moved = {name: width for name, width in widths.items() if width != len(start[name])}
    return {name: start[name] for name in widths} | problem.kept(moved)


def _candidate(problem: Problem, start: PruningPlan, widths: Mapping[str, int], name: str) -> Candidate:
    kept = _kept(problem, start, widths)
    return Candidate({g: channels for g, channels in kept.items() if len(channels) < problem.groups[g].width}, name)


def _name(swap: Mapping[str, int], step: int) -> str:
    changes = " and ".join(f"{name!r} {width} channels" for name, width in swap.items())
    return f"the candidate that gives {changes} in step {step}"


def _told(
    problem: Problem, widths: Mapping[str, int], swap: Mapping[str, int], step: int, worth: float, candidates: int
) -> RefineStep:
    cost, further = problem.costs(widths)
    return RefineStep(step, dict(swap), cost, worth, candidates, further)


def _plan(problem: Problem, start: PruningPlan, widths: Mapping[str, int], settings: Mapping[str, Any]) -> PruningPlan:
    plan = problem.plan({name: widths[name] for name in problem.widths}, settings)
    kept = _kept(problem, start, widths)
    ties = {name: (start if kept[name] == start[name] else plan).ties.get(name, 0) for name in kept}
    spent = problem.spent(widths)
    first = spent.pop(plan.cost)
    ties = {name: count for name, count in ties.items() if count}
    return replace(plan, kept=kept, cost_after=first.after, ties=ties, further=spent)
