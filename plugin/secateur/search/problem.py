"""What every search starts from and ends with: scored groups, a cost, a budget; then a plan."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from secateur.errors import BudgetError, ConfigError, NetworkError, ScoreError, SecateurWarning
from secateur.protocols import CostModel
from secateur.records import ChannelGroup, PruningPlan, Reduction, ScoreTable
from secateur.search.budget import format_cost, parse_budget
from secateur.search.selection import Variant, allowed_widths, select, ties_at_cut


@dataclass(frozen=True)
class Problem:
    """Widths to choose: `cost` must come down from `dense_cost` to `largest_cost`.

    Attributes:
        groups: the channel groups by name.
        scores: group -> score of each channel, (width,), float64; groups without scores stay as they are.
        widths: group that has scores -> the widths it may be cut to, ascending, its full width last.
        variant, seed: which channels go, see `select`; the seed counts for the variant "random" alone.
        settings: what the plan records whatever the search.
    """

    groups: Mapping[str, ChannelGroup]
    scores: Mapping[str, Tensor]
    cost: CostModel
    dense_cost: float
    largest_cost: float
    widths: Mapping[str, tuple[int, ...]]
    variant: Variant
    seed: int
    settings: Mapping[str, Any]

    def kept(self, widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Return the `widths[g]` channels of each group g that stay, ascending: by the variant "low" the best."""
        return {
            name: select(self.scores[name], width, variant=self.variant, seed=zlib.crc32(name.encode(), self.seed))
            for name, width in widths.items()
        }

    def plan(self, widths: Mapping[str, int], settings: Mapping[str, Any]) -> PruningPlan:
        """Return the plan that keeps at these widths what the variant keeps."""
        ties = {name: ties_at_cut(self.scores[name], width, variant=self.variant) for name, width in widths.items()}
        return PruningPlan(
            groups=tuple(self.groups.values()),
            kept=self.kept(widths),
            cost=self.cost.name,
            cost_before=self.dense_cost,
            cost_after=self.cost(widths),
            budget=self.largest_cost,
            ties={name: count for name, count in ties.items() if count},
            settings={**self.settings, **settings},
        )


def state_problem(
    groups: Mapping[str, ChannelGroup],
    scores: ScoreTable,
    cost: CostModel,
    budget: str | float,
    *,
    round_to: int,
    min_keep: int,
    reduction: Reduction,
    variant: Variant = "low",
    seed: int = 0,
) -> Problem:
    """Check everything that can be checked before a search, and return the problem.

    Raises:
        NetworkError: there is no group to prune.
        ScoreError: no group has scores, or scores do not fit their group.
        ConfigError: `round_to` or `min_keep` below 1, an unknown variant, or a negative seed.
        BudgetError: the budget is malformed, already met, or below what the narrowest widths cost.
    """
    if variant not in get_args(Variant):
        raise ConfigError(f"unknown variant {variant!r}; allowed: {', '.join(get_args(Variant))}")
    if seed < 0:
        raise ConfigError(f"the seed is {seed}; it must be at least 0")
    if not groups:
        raise NetworkError("the network has no channel group to prune")
    scored = _with_scores(groups, scores)
    combined = {name: group.combine(scores, reduction=reduction) for name, group in scored.items()}
    widths = {name: allowed_widths(g.width, min_keep=min_keep, round_to=round_to) for name, g in scored.items()}
    dense = cost({name: group.width for name, group in groups.items()})
    largest = parse_budget(budget, dense)
    lowest = cost({name: allowed[0] for name, allowed in widths.items()})
    if lowest > largest:
        raise BudgetError(
            f"the budget {budget!r} allows {format_cost(largest, cost.unit)}, but the lowest cost that can be reached "
            f"is {format_cost(lowest, cost.unit)} ({100 * lowest / dense:.1f}% of the dense network) with "
            f"min_keep={min_keep} and round_to={round_to}"
        )
    settings = {
        "round_to": round_to,
        "min_keep": min_keep,
        "reduction": reduction,
        "variant": variant,
        "scores": dict(scores.settings),
    }
    if variant == "random":
        settings["seed"] = seed
    return Problem(groups, combined, cost, dense, largest, widths, variant, seed, settings)


def _with_scores(groups: Mapping[str, ChannelGroup], scores: ScoreTable) -> dict[str, ChannelGroup]:
    """Return the groups that can be decided about; say which cannot."""
    scored = {name: g for name, g in groups.items() if any(member.layer in scores for member in g.producers)}
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
