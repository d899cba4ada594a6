"""The greedy search: step by step, cut the group whose cut the network feels least.

References:
    [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
        arXiv 2005.13796, 2020, Algorithm 1.
"""

from __future__ import annotations

import bisect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import Any

from secateur.counts import check_counts
from secateur.errors import BudgetError, ConfigError, ScoreError, SecateurWarning
from secateur.protocols import Evaluate, Kept
from secateur.records import ChannelGroup, PruningPlan, Reduction, ScoreTable
from secateur.search.judging import Candidate, check_repeats, judge, settings_of
from secateur.search.problem import Limits, Problem, state_problem
from secateur.search.selection import Variant
from secateur.search.spending import Budgets, Costs, Spending, load


@dataclass(frozen=True)
class GreedyStep:
    """One accepted cut.

    Attributes:
        step: its number, from 1.
        group: the group that was cut.
        width: how many channels the group keeps from now on.
        cost: of the network after the cut; where there are several, the first of them.
        worth: what `evaluate` gave for it.
        candidates: how many candidates were compared in this step.
        further: name of each other cost -> what the network costs after the cut.
    """

    step: int
    group: str
    width: int
    cost: float
    worth: float
    candidates: int
    further: Mapping[str, float] = field(default_factory=dict)


def greedy_plan(
    groups: Mapping[str, ChannelGroup],
    scores: ScoreTable,
    cost: Costs,
    budget: Budgets,
    evaluate: Evaluate,
    *,
    start: PruningPlan | None = None,
    delta: float = 0.005,
    round_to: int = 8,
    min_keep: int = 1,
    limits: Limits | None = None,
    reduction: Reduction = "sum",
    variant: Variant = "low",
    seed: int = 0,
    rescore: Callable[[Kept], ScoreTable] | None = None,
    rescore_every: int = 1,
    on_step: Callable[[GreedyStep], None] | None = None,
) -> PruningPlan:
    """Return the plan that Algorithm 1 of [Hou2020] finds, from the dense network or from the widths of `start`.

    While a budget is not met:

        1. each group proposes its smallest further cut that frees at least `delta` of the dense cost;
           a group that cannot free so much proposes nothing;
        2. if none can, half of `delta` has to do, or half of that, until some group can free so much;
        3. the proposal of greatest worth is accepted; among equals the one that frees more cost per channel, then
           the group that comes first.

    The budget is met from below; the last step may overshoot it by less than what that step frees. Of several budgets
    only those not met count: their costs, each as a share of the dense one, are added up. What one step removes never
    comes back. The winner of the first step is evaluated twice, so that an evaluation that is not deterministic is
    noticed.

    From a `start`, such as the error curves' plan for a larger budget, the search goes on as if it had come there
    itself: what `start` removes stays gone, and the evaluations of the steps up to there are spared. It is not promised
    that the plan is worth more than the one found from the dense network, nor than the curves' own plan for this
    budget: only `refine_plan` never ends below what it starts from.

    Args:
        groups: the channel groups by name.
        scores: (C,) for at least one producer of a group, larger = keep. Groups without scores stay as they are, with
            a SecateurWarning that names them.
        cost: non-decreasing in every width; or several such.
        budget: "50%", "60.5M" or the largest cost as a number, see `parse_budget`; for several costs a mapping from
            their names to that.
        evaluate: worth of a candidate, larger is better, from the kept channels of the groups cut so far; as
            published, the accuracy on held-out images without fine-tuning. Its `race` is used if it has one
            (`secateur.protocols.Race`), its `fresh` to judge a candidate anew where it remembers, its `settings`, plain
            data, are recorded.
        start: a plan of the same groups, by whichever search; None: all channels. Widths that `round_to` and `min_keep`
            do not allow can be left, not reached. One that meets every budget is the plan, without an evaluation.
        delta: least share of the dense cost that a step frees, above 0 and at most 1.
        round_to, min_keep: see `allowed_widths`; with 1 every width is allowed.
        reduction: how the scores of a group's producers combine.
        limits: group -> the least and the most channels that it keeps; the search begins with the most. Absent groups
            have no limits of their own; limits of an unknown group, or that no allowed width meets, are a ConfigError.
        variant: which channels go, see `select`: "low" is the method, the others are its ablations.
        seed: draws the channels of the variant "random", each group's its own.
        rescore: the scores of the network that keeps these channels, for those that it keeps; None: never anew. See
            `secateur.channel_graph.cut_scores`.
        rescore_every: after how many steps they are made anew.
        on_step: called after each step with a `GreedyStep`.

    Raises:
        NetworkError: there is no group to prune.
        ScoreError: no group has scores, or scores do not fit their group; or `rescore` failed, with the step.
        ConfigError: `delta`, `round_to`, `min_keep`, `seed` or `rescore_every` out of range, an unknown variant, costs
            of one name, or settings of the evaluation that are not plain data.
        PlanError: `start` is a plan of other groups, or keeps fewer channels of one than its limits.
        BudgetError: a budget is malformed, already met, or out of reach; said before any evaluation, with the lowest
            cost that can be reached of each.
        EvaluationError: `evaluate` raised or gave no finite number; names the group and the step.

    Warns:
        SecateurWarning: groups have no scores, the evaluation is not deterministic, or `delta` takes half of every
            group's channels at a step.

    Cost: at most ceil(share to remove / delta) steps while groups can free delta, and a step a group each time that it
    is halved; one evaluation a group in each step.

    Deviations: the published code interleaves training and recomputes scores; the printed algorithm does neither, nor
    does this unless `rescore` is given. Its step sizes are linear extrapolations; here they are exact. Step 2 is not in
    the paper, which stops short of such budgets.

    Example:
        >>> import torch
        >>> from secateur.records import Member
        >>> class Linear:
        ...     name, unit = "channels", "channels"
        ...     def __call__(self, widths):
        ...         return float(widths.get("a", 2) + widths.get("b", 2))
        >>> groups = {n: ChannelGroup(n, 2, (Member(n, "producer", ((0,), (1,))),)) for n in "ab"}
        >>> scores = ScoreTable({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([2.0, 1.0])})
        >>> worth = lambda kept: 1.0 if "b" in kept else 0.5
        >>> plan = greedy_plan(groups, scores, Linear(), "75%", worth, round_to=1)
        >>> dict(plan.kept)
        {'a': (0, 1), 'b': (0,)}
    """
    if not isinstance(delta, Real) or not 0 < delta <= 1:
        raise ConfigError(f"delta is {delta!r}; it must be a share of the dense cost above 0 and at most 1")
    check_counts(rescore_every=rescore_every)
    problem = state_problem(
        groups,
        scores,
        cost,
        budget,
        round_to=round_to,
        min_keep=min_keep,
        limits=limits,
        reduction=reduction,
        variant=variant,
        seed=seed,
        start=start,
    )
    settings: dict[str, Any] = {"search": "greedy", "delta": delta, **settings_of(evaluate)}
    widths, step, evaluations, rescored = problem.dense, 0, 0, 0
    if start is not None:
        problem = problem.starting(start)
        widths = {name: min(len(start[name]), widths.get(name, group.width)) for name, group in groups.items()}
        settings["start"] = dict(start.settings)
    while unmet := problem.unmet(widths):
        if step and rescore is not None and step % rescore_every == 0:
            problem, rescored = _rescored(problem, rescore, widths, step=step), rescored + 1
        step += 1
        cuts = _propose(problem, widths, unmet, delta)
        if step == 1 and all(cut.passed and 2 * cut.channels >= widths[cut.group] for cut in cuts):
            _warn_of(delta, min(cut.channels / widths[cut.group] for cut in cuts))
        candidates = [_candidate(problem, {**widths, cut.group: cut.width}, cut, step=step) for cut in cuts]
        worths = judge(evaluate, candidates, where=f"in step {step}")
        best = max(
            (idx for idx, worth in enumerate(worths) if worth.exact),
            key=lambda idx: (worths[idx].value, cuts[idx].freed / cuts[idx].channels),
        )
        if step == 1:
            check_repeats(evaluate, candidates[best], worths[best].value)
        widths[cuts[best].group] = cuts[best].width
        evaluations += len(cuts)
        if on_step is not None:
            on_step(_told(problem, widths, cuts[best], step, worths[best].value, len(cuts)))
    if rescore is not None:
        settings |= {"rescore_every": rescore_every, "rescored": rescored}
    return problem.plan(widths, {**settings, "steps": step, "evaluations": evaluations})


@dataclass(frozen=True)
class _Cut:
    """A proposal, and how many allowed widths it passes over."""

    group: str
    width: int
    channels: int
    freed: float
    passed: int


def _propose(problem: Problem, widths: Mapping[str, int], unmet: Sequence[Spending], delta: float) -> list[_Cut]:
    """Return the next cuts to choose from, in the order of the groups (1 and 2 of `greedy_plan`)."""
    current = load(unmet, widths)

    def freed(name: str, narrower: int) -> float:
        return current - load(unmet, {**widths, name: narrower})

    below = {name: [w for w in reversed(problem.widths.get(name, ())) if w < widths[name]] for name in widths}
    most = max((freed(name, left[-1]) for name, left in below.items() if left), default=0.0)
    if most <= 0:
        where = ", and ".join(
            f"{spending.told(spending.of(widths))}, above the budget of {spending.told(spending.largest)}"
            for spending in unmet
        )
        raise BudgetError(f"stuck at {where}: no single group can lower the cost any further")
    # the product is rounded, 0.07 * 100 > 7, and must not become nothing
    needed = max(delta * unmet[0].dense * (1 - 1e-9), math.ulp(0.0))
    while needed > most:
        needed /= 2
    cuts = []
    for name, left in below.items():
        idx = bisect.bisect_left(left, needed, key=partial(freed, name))
        if idx < len(left):
            cuts.append(_Cut(name, left[idx], widths[name] - left[idx], freed(name, left[idx]), passed=idx))
    return cuts


def _candidate(problem: Problem, widths: Mapping[str, int], cut: _Cut, *, step: int) -> Candidate:
    name = f"the candidate that cuts the group {cut.group!r} to {cut.width} channels in step {step}"
    return Candidate(problem.cut(widths), name)


def _rescored(
    problem: Problem, rescore: Callable[[Kept], ScoreTable], widths: Mapping[str, int], *, step: int
) -> Problem:
    try:
        return problem.rescored(widths, rescore(problem.cut(widths)))
    except Exception as error:
        raise ScoreError(f"scoring anew after step {step} failed: {type(error).__name__}: {error}") from error


def _told(
    problem: Problem, widths: Mapping[str, int], cut: _Cut, step: int, worth: float, candidates: int
) -> GreedyStep:
    cost, further = problem.costs(widths)
    return GreedyStep(step, cut.group, cut.width, cost, worth, candidates, further)


def _warn_of(delta: float, share: float) -> None:
    """Say that `delta` leaves little to choose."""
    warnings.warn(
        f"delta={delta} of the dense cost takes at least {share:.0%} of the channels of any group at a step, which "
        "leaves the search little to choose from: choose a smaller delta",
        SecateurWarning,
        stacklevel=3,
    )
