"""What every search starts from and ends with: scored groups, costs and their budgets; then a plan."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, get_args

from torch import Tensor

from secateur.counts import check_counts
from secateur.errors import ConfigError, NetworkError, PlanError, ScoreError, SecateurWarning
from secateur.plain_data import plain
from secateur.records import ChannelGroup, PruningPlan, Reduction, ScoreTable, Spent
from secateur.search.selection import Variant, allowed_widths, select, ties_at_cut
from secateur.search.spending import Budgets, Costs, Spending, Widths, check_reach, state_spendings

Limits = Mapping[str, tuple[int, int]]
"""Group -> the least and the most channels that it keeps."""


@dataclass(frozen=True)
class Problem:
    """Widths to choose, so that every budget is met.

    Attributes:
        groups: the channel groups by name.
        scores: group -> score of each channel, (width,), float64; groups without scores stay as they are.
        spendings: the costs, each with its budget; the plan is counted in the first.
        widths: group that has scores -> the widths it may have, ascending; the last is its full width, unless limits
            ask for less.
        reduction: how the scores of a group's producers combine.
        variant, seed: which channels go, see `select`; the seed counts for the variant "random" alone.
        settings: what the plan records whatever the search.
        left: group -> the channels that may still be kept, ascending; absent groups have all.
        ties: group of `left` -> the ties by which those were chosen.
        order: group -> the scores that its error curve was made in the order of, by which ties are counted.
    """

    groups: Mapping[str, ChannelGroup]
    scores: Mapping[str, Tensor]
    spendings: tuple[Spending, ...]
    widths: Mapping[str, tuple[int, ...]]
    reduction: Reduction
    variant: Variant
    seed: int
    settings: Mapping[str, Any]
    left: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ties: Mapping[str, int] = field(default_factory=dict)
    order: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def dense(self) -> dict[str, int]:
        """The full width of each group that may be cut, or the most that its limits allow."""
        return {name: allowed[-1] for name, allowed in self.widths.items()}

    @property
    def narrowest(self) -> dict[str, int]:
        """The smallest width of each group that may be cut."""
        return {name: allowed[0] for name, allowed in self.widths.items()}

    def unmet(self, widths: Widths) -> tuple[Spending, ...]:
        """Return the costs that are above their budgets."""
        return tuple(spending for spending in self.spendings if not spending.met(widths))

    def met(self, widths: Widths) -> bool:
        """Whether every budget is met."""
        return all(spending.met(widths) for spending in self.spendings)

    def kept(self, widths: Widths) -> dict[str, tuple[int, ...]]:
        """Return the `widths[g]` channels of each group g that stay, ascending: by the variant "low" the best."""
        return {name: self._stay(name, width) for name, width in widths.items()}

    def cut(self, widths: Widths) -> dict[str, tuple[int, ...]]:
        """Return what `kept` does, of the groups alone that lose channels: a candidate to evaluate."""
        return self.kept({name: width for name, width in widths.items() if width < self.groups[name].width})

    def rescored(self, widths: Widths, scores: ScoreTable) -> Problem:
        """Return the problem that goes on from `widths` by other scores: what has gone stays gone.

        Raises:
            ScoreError: a group that had scores has none, or they do not fit it.
        """
        combined = {name: self.groups[name].combine(scores, reduction=self.reduction) for name in self.scores}
        return replace(self, scores=combined, left=self.kept(widths), ties=self._ties(widths))

    def starting(self, start: PruningPlan) -> Problem:
        """Return the problem that goes on from a plan: what it removes stays gone, of groups without scores too.

        A group that keeps what its own scores would is as the search itself would have left it, ties included.
        """
        own = {
            name
            for name in self.scores
            if len(self.groups[name].parts) <= len(start[name]) and start[name] == self._stay(name, len(start[name]))
        }
        return replace(self, left={name: start[name] for name in self.groups if name not in own}, ties=start.ties)

    def spent(self, widths: Widths) -> dict[str, Spent]:
        """Return what is spent of each budget at these widths, by the name of the cost, in their order."""
        return {each.cost.name: Spent(each.dense, each.of(widths), each.largest) for each in self.spendings}

    def costs(self, widths: Widths) -> tuple[float, dict[str, float]]:
        """Return what the network costs at these widths, in the first cost and in the others by name."""
        first, *others = self.spendings
        return first.of(widths), {each.cost.name: each.of(widths) for each in others}

    def plan(self, widths: Widths, settings: Mapping[str, Any]) -> PruningPlan:
        """Return the plan that keeps at these widths what the variant keeps."""
        spent = self.spent(widths)
        cost, first = next(iter(spent.items()))
        del spent[cost]
        return PruningPlan(
            groups=tuple(self.groups.values()),
            kept=self.kept(widths),
            cost=cost,
            cost_before=first.before,
            cost_after=first.after,
            budget=first.budget,
            ties={name: count for name, count in self._ties(widths).items() if count},
            settings=plain({**self.settings, **settings}),
            further=spent,
        )

    def _left(self, name: str) -> list[int]:
        return list(self.left.get(name, range(self.groups[name].width)))

    def _stay(self, name: str, width: int) -> tuple[int, ...]:
        left = self._left(name)
        if width == len(left):  # also of a group without scores
            return tuple(left)
        chosen = select(
            self.scores[name][left],
            width,
            variant=self.variant,
            seed=zlib.crc32(name.encode(), self.seed),
            parts=self._parts(name),
        )
        return tuple(left[c] for c in chosen)

    def _parts(self, name: str) -> list[set[int]]:
        """Return the group's parts as places among the channels that are left."""
        left = self._left(name)
        return [{place for place, c in enumerate(left) if c in part} for part in self.groups[name].parts]

    def _ties(self, widths: Widths) -> dict[str, int]:
        """Return the ties at the last cut of each group."""
        found = {}
        for name, width in widths.items():
            left = self._left(name)
            if width < len(left):
                decides = self.order.get(name, self.scores[name])
                found[name] = ties_at_cut(decides[left], width, variant=self.variant, parts=self._parts(name))
            else:
                found[name] = self.ties.get(name, 0)
        return found


def state_problem(
    groups: Mapping[str, ChannelGroup],
    scores: ScoreTable,
    cost: Costs,
    budget: Budgets,
    *,
    round_to: int,
    min_keep: int,
    limits: Limits | None = None,
    reduction: Reduction,
    variant: Variant = "low",
    seed: int = 0,
    start: PruningPlan | None = None,
    order: ScoreTable | None = None,
) -> Problem:
    """Check everything that can be checked before a search, and return the problem.

    Args:
        start: the plan that the search goes on from, if it does.
        order: the scores whose order the scores, error curves, were made in; None where they decide by themselves.

    Raises:
        NetworkError: there is no group to prune.
        ScoreError: no group has scores, or scores do not fit their group.
        ConfigError: `round_to` or `min_keep` below 1, an unknown variant, a negative seed, costs of one name, a cost
            that is no finite number, or limits of an unknown group or that no allowed width meets.
        BudgetError: a budget is malformed, missing, of no cost, or below what the narrowest widths cost; or all are
            already met.
        PlanError: the start is a plan of other groups, or keeps fewer channels of one than its limits.
    """
    settings = plan_settings(
        scores, round_to=round_to, min_keep=min_keep, reduction=reduction, variant=variant, seed=seed
    )
    if not groups:
        raise NetworkError("the network has no channel group to prune")
    scored = _with_scores(groups, scores)
    combined = {name: group.combine(scores, reduction=reduction) for name, group in scored.items()}
    widths = {
        name: allowed_widths(group.width, min_keep=max(min_keep, len(group.parts)), round_to=group.step(round_to))
        for name, group in scored.items()
    }
    if limits is not None:
        widths = _within(limits, widths, groups)
    spendings = state_spendings(cost, budget, {name: group.width for name, group in groups.items()})
    known = {} if order is None else _known(scored, order)
    ordered = {name: group.combine(order or {}) for name, group in known.items()}
    problem = Problem(groups, combined, spendings, widths, reduction, variant, seed, settings, order=ordered)
    lowest = problem.narrowest
    if start is not None:
        _check_start(groups, start, limits or {})
        lowest = {name: min(width, lowest.get(name, width)) for name, width in start.widths.items()}
    rules = f"min_keep={min_keep} and round_to={round_to}"
    check_reach(spendings, lowest, rules if limits is None else f"{rules} and the limits of each group")
    return problem


def plan_settings(
    scores: ScoreTable, *, round_to: int, min_keep: int, reduction: Reduction, variant: Variant, seed: int
) -> dict[str, Any]:
    """Return what a plan records of how its channels are chosen.

    Raises:
        ConfigError: `round_to` or `min_keep` below 1, an unknown variant or a negative seed.
    """
    check_counts(round_to=round_to, min_keep=min_keep)
    check_counts(least=0, seed=seed)
    if variant not in get_args(Variant):
        raise ConfigError(f"unknown variant {variant!r}; allowed: {', '.join(get_args(Variant))}")
    return {
        "round_to": round_to,
        "min_keep": min_keep,
        "reduction": reduction,
        "variant": variant,
        "scores": dict(scores.settings),
    } | ({"seed": seed} if variant == "random" else {})


def _check_start(groups: Mapping[str, ChannelGroup], start: PruningPlan, limits: Limits) -> None:
    other = {group.name: group for group in start.groups}
    odd = [name for name in {**groups, **other} if groups.get(name) != other.get(name)]
    if odd:
        raise PlanError(f"the start must be a plan of the same groups; it differs in {', '.join(odd[:5])}")
    for name, limit in limits.items():
        if (found := len(start[name])) < (least := _pair(name, limit)[0]):
            raise PlanError(f"the start keeps {found} channels of the group {name!r}, which must keep {least}")


def _with_scores(groups: Mapping[str, ChannelGroup], scores: ScoreTable) -> dict[str, ChannelGroup]:
    """Return the groups that can be decided about; say which cannot."""
    scored = _known(groups, scores)
    if not scored:
        raise ScoreError(f"none of the {len(scores)} scored layers produces the channels of a group that can be pruned")
    left = [name for name in groups if name not in scored]
    if left:
        warnings.warn(
            f"{len(left)} of {len(groups)} groups stay as they are, since none of their layers has scores: "
            + ", ".join(left),
            SecateurWarning,
            stacklevel=4,
        )
    return scored


def _known(groups: Mapping[str, ChannelGroup], scores: ScoreTable) -> dict[str, ChannelGroup]:
    """Return the groups that a table has scores of."""
    return {name: group for name, group in groups.items() if any(m.layer in scores for m in group.producers)}


def _within(
    limits: Limits, widths: Mapping[str, tuple[int, ...]], groups: Mapping[str, ChannelGroup]
) -> dict[str, tuple[int, ...]]:
    """Return the widths that meet the limits of their group."""
    if unknown := [name for name in limits if name not in groups]:
        raise ConfigError(f"limits are given for {', '.join(unknown)}, which is no channel group; known: {[*groups]}")
    within = dict(widths)
    for name, allowed in widths.items():
        least, most = _pair(name, limits.get(name, (allowed[0], allowed[-1])))
        within[name] = tuple(width for width in allowed if least <= width <= most)
        if not within[name]:
            raise ConfigError(
                f"the group {name!r} is to keep {least} to {most} of its {groups[name].width} channels, but the widths "
                f"that are allowed are {', '.join(map(str, allowed))}"
            )
    return within


def _pair(name: str, limits: Any) -> tuple[float, float]:
    """Return the limits of a group if they are the least and the most channels that it keeps."""
    pair = tuple(limits) if isinstance(limits, Iterable) else ()
    if len(pair) != 2 or not all(isinstance(limit, Real) for limit in pair):
        raise ConfigError(
            f"the limits of the group {name!r} are {limits!r}; they must be two numbers, the least and the most "
            "channels that it keeps"
        )
    return pair[0], pair[1]
