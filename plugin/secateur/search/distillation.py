"""Structure distillation: the widths of a deep network from those that a search found for a shallow one.

A search that evaluates is quick in a shallow network and slow in a deep one of the same family. What it finds out, how
much each stage can spare inside its blocks and in its stream, carries over:

    r_s = mean over the layers of (stage, role) s in the shallow network of the share of their channels that is removed
    keep_g = keep_count(W_g, min(1, factor * r_s(g)))

with the smallest factor, one for all groups, that meets the budget.

References:
    [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
        arXiv 2005.13796, 2020.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping

from secateur.errors import PlanError
from secateur.records import ChannelGroup, PruningPlan, Reduction, ScoreTable
from secateur.search.problem import state_problem
from secateur.search.selection import Variant, keep_count, next_allowed
from secateur.search.spending import Budgets, Costs, check_reach
from secateur.search.stages import Stage


def distilled_plan(
    groups: Mapping[str, ChannelGroup],
    scores: ScoreTable,
    cost: Costs,
    budget: Budgets,
    *,
    teacher: PruningPlan,
    stages: Mapping[str, Stage],
    teacher_stages: Mapping[str, Stage],
    round_to: int = 8,
    min_keep: int = 1,
    reduction: Reduction = "sum",
    variant: Variant = "low",
    seed: int = 0,
) -> PruningPlan:
    """Return the plan that removes from each stage the share that `teacher` removes there, scaled to the budget.

    The shares are those of the module: each layer that produces channels counts once, so that a stream counts as often
    as layers write it. Where the teacher has no layer of a group's role in its stage, the share is the mean over all
    layers of that stage. The scores say which channels stay.

    Args:
        groups: the channel groups by name.
        scores: (C,) for at least one producer of a group, larger = keep; groups without scores stay as they are, with
            a SecateurWarning that names them.
        cost: non-decreasing in every width; or several such, whose budgets are all met.
        budget: "50%", "60.5M" or the largest cost as a number, see `parse_budget`; for several costs a mapping from
            their names to that.
        teacher: the plan of the shallow network, by whichever search.
        stages: the stage and role of each group, by `stages_of` or by hand.
        teacher_stages: of each of the teacher's groups.
        round_to, min_keep: see `allowed_widths`; with 1 every width is allowed.
        reduction: how the scores of a group's producers combine.
        variant: which channels go, see `select`: "low" is the method, the others are its ablations.
        seed: draws the channels of the variant "random", each group's its own.

    Raises:
        NetworkError, ScoreError, ConfigError: as `uniform_plan`.
        PlanError: the teacher removes nothing, a group has no stage, or a stage of one network is missing in the other.
        BudgetError: a budget is malformed, already met, or out of reach; the lowest cost that can be reached of each is
            named, where the stages from which the teacher removes nothing stay as they are.

    Cost: O(log(sum of widths)) evaluations of `cost`.

    Deviations: [Hou2020] applies the shares as they are, and only where roles match; it leaves open what to do with a
    bottleneck's two inner layers, which here have the share of the basic block's one, and with a cost that misses the
    budget.

    Example:
        >>> import torch
        >>> from secateur.records import Member
        >>> class Sum:
        ...     name, unit = "channels", "channels"
        ...     def __call__(self, widths):
        ...         return float(sum(widths.get(name, 8) for name in "abcd"))
        >>> own = tuple((c,) for c in range(8))
        >>> groups = {name: ChannelGroup(name, 8, (Member(name, "producer", own),)) for name in "abcd"}
        >>> shallow = PruningPlan((groups["a"], groups["c"]), {"a": (0, 1), "c": (0, 1, 2, 3, 4)}, "macs", 2, 1, 1)
        >>> early, late = Stage(1, "inner"), Stage(2, "inner")
        >>> plan = distilled_plan(
        ...     groups, ScoreTable({name: torch.arange(8.0) for name in "abcd"}), Sum(), "75%",
        ...     teacher=shallow, round_to=1, stages={"a": early, "b": early, "c": late, "d": late},
        ...     teacher_stages={"a": early, "c": late},
        ... )
        >>> plan.settings["ratios"], plan.widths
        ({'1 inner': 0.75, '2 inner': 0.375}, {'a': 5, 'b': 5, 'c': 7, 'd': 7})
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
    stages = _check_stages(problem.widths, stages, whose="the network")
    ratios = _ratios(teacher, _check_stages(teacher.widths, teacher_stages, whose="the teacher"), stages.values())

    def widths(factor: float) -> dict[str, int]:
        return {
            name: next_allowed(keep_count(allowed[-1], min(1.0, factor * ratios[stages[name]])), allowed)
            for name, allowed in problem.widths.items()
        }

    steps = {(ratios[stages[name]], allowed[-1]) for name, allowed in problem.widths.items() if ratios[stages[name]]}
    factors = sorted({removed / width / ratio for ratio, width in steps for removed in range(width + 1)} | {0.0})
    check_reach(
        problem.spendings, widths(factors[-1]), f"the teacher's ratios, min_keep={min_keep}, round_to={round_to}"
    )
    factor = factors[bisect.bisect_left(factors, True, key=lambda factor: problem.met(widths(factor)))]
    settings = {"search": "distillation", "factor": factor, "teacher": teacher.fingerprint}
    told = {str(stage): ratio for stage, ratio in sorted(ratios.items())}
    return problem.plan(widths(factor), settings | {"ratios": told, "teacher_settings": dict(teacher.settings)})


def _check_stages(names: Iterable[str], stages: Mapping[str, Stage], *, whose: str) -> dict[str, Stage]:
    """Return the stages of these groups; each must have one."""
    lacking = [name for name in names if name not in stages]
    if lacking:
        raise PlanError(f"no stage is given for {', '.join(lacking)}; each group of {whose} needs one, see `stages_of`")
    return {name: stages[name] for name in names}


def _ratios(teacher: PruningPlan, given: Mapping[str, Stage], wanted: Iterable[Stage]) -> dict[Stage, float]:
    """Return the mean removed share of each (stage, role) that is wanted, of its whole stage where the role is new."""
    if not any(teacher.removed(name) for name in given):
        raise PlanError("the teacher removes no channel: there is no structure to distil")
    by_role: dict[Stage, list[float]] = {}
    by_number: dict[int, list[float]] = {}
    for group in teacher.groups:
        shares = [len(teacher.removed(group.name)) / group.width] * len(group.producers)
        by_role.setdefault(given[group.name], []).extend(shares)
        by_number.setdefault(given[group.name].number, []).extend(shares)
    wanted = set(wanted)
    numbers = sorted({stage.number for stage in wanted})
    if numbers != sorted(by_number):
        raise PlanError(
            f"the network has the stages {numbers}, the teacher {sorted(by_number)}; they must be the same: "
            "give the stages by hand where `stages_of` does not make them so"
        )
    found = {stage: by_role.get(stage, by_number[stage.number]) for stage in wanted}
    return {stage: sum(shares) / len(shares) for stage, shares in found.items()}
