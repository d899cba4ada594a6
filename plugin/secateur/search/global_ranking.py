"""LeGR: one ranking of all channels, whose scale and offset in each group are found by evolution.

Scores of different groups cannot be compared as they are. Each group g gets a scale and an offset,

    s_hat = scale_g * s + offset_g

all channels are ranked by s_hat together, and the lowest go until the budget is met. Which scales and offsets are good
is tried out: a regularised evolution keeps a population of them, the best of a random sample is mutated in some groups,
the child is judged by what its network is worth, and the oldest member leaves.

.. [Chin2020] T.-W. Chin, R. Ding, C. Zhang, D. Marculescu. Towards efficient model compression via learned global
   ranking. CVPR 2020.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from secateur.counts import check_counts
from secateur.errors import ConfigError
from secateur.protocols import Evaluate
from secateur.records import ChannelGroup, PruningPlan, Reduction, ScoreTable
from secateur.search.judging import Candidate, check_repeats, judge, settings_of
from secateur.search.problem import Problem, state_problem
from secateur.search.selection import Variant, next_allowed
from secateur.search.spending import Budgets, Costs

MUTATED, COOLED = 0.1, 1.25  # share of the groups that change; a generation is 1 - g / (1.25 G) as bold as the first
Widths = dict[str, int]


@dataclass(frozen=True)
class _Member:
    """Scale and offset by group, and what their network is worth."""

    scale: Tensor
    offset: Tensor
    worth: float


def global_ranking_plan(
    groups: Mapping[str, ChannelGroup],
    scores: ScoreTable,
    cost: Costs,
    budget: Budgets,
    evaluate: Evaluate,
    *,
    generations: int = 400,
    population: int = 64,
    sample: int = 16,
    sigma: float = 1.0,
    round_to: int = 8,
    min_keep: int = 1,
    reduction: Reduction = "sum",
    variant: Variant = "low",
    seed: int = 0,
    on_generation: Callable[[int, float], None] | None = None,
) -> PruningPlan:
    """Return the plan of the best global ranking that evolution finds [Chin2020]_.

    Formula: the first member is scale 1 and offset 0, the plain ranking. A mutation draws a tenth of the groups, at
    least one, multiplies their scale by exp(N(0, s)) and adds N(0, s * std of the group's scores) to their offset, with
    s = sigma * (1 - g / (1.25 * generations)) in generation g. The first `population` members are mutations of the
    first; each later one mutates the best of `sample` drawn members and replaces the oldest.

    Args:
        groups: the channel groups by name.
        scores: (C,) for at least one producer of a group, larger = keep; published are squared norms of filters.
        cost: what the budget is counted in, non-decreasing in every width; or several such, whose budgets are all met.
        budget: "50%", "60.5M" or the largest cost as a number; for several costs a mapping from their names to that.
        evaluate: the channels that are kept -> what the network is worth, larger = better; no training in between.
        generations: networks that are judged, after the first.
        population, sample: how many rankings live, and of how many the parent is the best.
        sigma: how bold the first mutations are.
        round_to, min_keep: see `allowed_widths`; widths are rounded up.
        reduction: how the scores of a group's producers combine.
        variant, seed: which channels go, see `select`; the seed also draws the mutations.
        on_generation: called after each with its number, from 0, and what the best network so far is worth.

    Raises:
        ConfigError: a setting out of range.
        NetworkError, ScoreError, BudgetError: as `uniform_plan`.
        EvaluationError: the evaluation raised or gave no finite number.

    Warns:
        SecateurWarning: groups have no scores, or the evaluation is not deterministic.

    Cost: `generations` + 1 evaluations, and one of the first to see whether it repeats; widths that were judged before
        are not judged again.

    Example:
        >>> from secateur.records import Member
        >>> class Channels:
        ...     name, unit = "channels", "channels"
        ...     def __call__(self, widths):
        ...         return float(widths.get("a", 4) + widths.get("b", 4))
        >>> own = tuple((c,) for c in range(4))
        >>> groups = {n: ChannelGroup(n, 4, (Member(n, "producer", own),)) for n in "ab"}
        >>> scores = ScoreTable({"a": torch.arange(1.0, 5.0), "b": torch.arange(5.0, 9.0)})
        >>> def evaluate(kept):  # "a" is what counts
        ...     return float(len(kept.get("a", own)))
        >>> plan = global_ranking_plan(groups, scores, Channels(), 5.0, evaluate, generations=200, round_to=1)
        >>> plan.widths, plan.settings["plain"], plan.settings["worth"]
        ({'a': 4, 'b': 1}, 1.0, 4.0)

    Deviations: judged without the few training steps that the paper allows (its published scripts take none); the
    budget is met from below; a width is never below `min_keep`.
    """
    check_counts(population=population, sample=sample)
    check_counts(least=0, generations=generations)
    if sample > population or not isinstance(sigma, Real) or not sigma > 0:
        raise ConfigError(
            f"sample must be at most population, and sigma above 0; found {sample}, {population} and {sigma!r}"
        )
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
    ranking, random = _Ranking(problem), torch.Generator().manual_seed(int(seed))
    known: dict[tuple[int, ...], float] = {}

    def judged(scale: Tensor, offset: Tensor, generation: int) -> _Member:
        widths = ranking.widths(scale, offset)
        place = tuple(widths.values())
        if place not in known:
            candidate = Candidate(problem.cut(widths), f"the candidate of generation {generation}")
            known[place] = judge(evaluate, [candidate], where=f"in generation {generation}")[0].value
            if not generation:
                check_repeats(evaluate, candidate, known[place])
        return _Member(scale, offset, known[place])

    count = len(problem.widths)
    plain = best = judged(torch.ones(count), torch.zeros(count), 0)
    members = [plain]
    for generation in range(generations + 1):
        if generation:
            parent = plain if generation < population else max(_drawn(members, sample, random), key=lambda m: m.worth)
            boldness = sigma * (1 - generation / (COOLED * generations))
            members.append(judged(*ranking.mutated(parent, boldness, random), generation))
            members = members[-population:]
            best = max(best, members[-1], key=lambda m: m.worth)
        if on_generation is not None:
            on_generation(generation, best.worth)
    settings = {
        "search": "global_ranking",
        "generations": generations,
        "population": population,
        "sample": sample,
        "sigma": sigma,
        "plain": plain.worth,
        "worth": best.worth,
        "seed": seed,
    }
    return problem.plan(ranking.widths(best.scale, best.offset), settings | settings_of(evaluate))


def _drawn(members: list[_Member], sample: int, random: torch.Generator) -> list[_Member]:
    return [members[i] for i in torch.randperm(len(members), generator=random)[:sample].tolist()]


class _Ranking:
    """The scores of all groups, and the widths that a ranking of them leaves."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._scores = [problem.scores[name].double() for name in problem.widths]
        self._spread = torch.tensor([float(s.std(correction=0)) for s in self._scores])

    def mutated(self, parent: _Member, boldness: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return scale and offset of a child."""
        count = len(self._scores)
        chosen = torch.randperm(count, generator=random)[: max(1, round(MUTATED * count))]
        factor, shift = (boldness * torch.randn(count, generator=random) for _ in range(2))
        scale, offset = parent.scale.clone(), parent.offset.clone()
        scale[chosen] *= factor[chosen].exp()
        offset[chosen] += shift[chosen] * self._spread[chosen]
        return scale, offset

    def widths(self, scale: Tensor, offset: Tensor) -> Widths:
        """Return the widths once the lowest channels have gone, as few as the budgets allow."""
        moved = [torch.sort(a * s + b).values for s, a, b in zip(self._scores, scale, offset, strict=True)]
        pool = torch.sort(torch.cat(moved)).values

        def left(gone: int) -> Widths:
            # equal channels go together
            above = [
                len(s) - int(torch.searchsorted(s, pool[gone - 1], side="right")) if gone else len(s) for s in moved
            ]
            pairs = zip(self._problem.widths.items(), above, strict=True)
            return {name: next_allowed(found, allowed) for (name, allowed), found in pairs}

        return left(bisect.bisect_left(range(len(pool)), True, key=lambda gone: self._problem.met(left(gone))))
