"""Pruning plans: which channels are kept, what that costs, and how it was decided."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from secateur.errors import PlanError
from secateur.index_maps import MOST, count_positions, group_width, whole
from secateur.plain_data import own_number, plain
from secateur.records.groups import ChannelGroup

FORMAT = 1


@dataclass(frozen=True)
class Spent:
    """What a network costs before and after, and the largest cost allowed, in the unit of that cost."""

    before: float
    after: float
    budget: float


@dataclass(frozen=True)
class PruningPlan:
    """The decision: which channels of each group are kept, what that costs, and how it was decided.

    Attributes:
        groups: the channel groups of the dense network.
        kept: group name -> kept channels, ascending; groups that are absent keep all.
        cost: what the budget was counted in, e.g. "macs".
        cost_before, cost_after: of the dense and of the pruned network, in the unit of `cost`.
        budget: the largest cost allowed, in the same unit.
        ties: group name -> how many channels share the score at the cut, so that their order decided; only groups
            where some of them are kept and some removed.
        settings: how scores and widths were found (criterion, tap, search, round_to, ...).
        further: name of another cost that has a budget of its own -> what is spent of it.

    Raises:
        PlanError: a cost or a group that is named twice, or kept channels that are not ascending, out of range or none
            at all, or of an unknown group; or a layer is left without any.
    """

    groups: tuple[ChannelGroup, ...]
    kept: Mapping[str, tuple[int, ...]]
    cost: str
    cost_before: float
    cost_after: float
    budget: float
    ties: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    further: Mapping[str, Spent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cost in self.further:
            raise PlanError(f"the plan has two budgets for the cost {self.cost!r}; a cost has one")
        groups = {group.name: group for group in self.groups}
        widths = {name: group.width for name, group in groups.items()}
        if len(widths) < len(self.groups):
            raise PlanError("the plan has two groups of one name")
        for name, channels in self.kept.items():
            if name not in widths:
                raise PlanError(f"the plan keeps channels of {name!r}, which is not one of its groups")
            if not channels:
                raise PlanError(f"the plan keeps no channel of {name!r}; at least one must stay")
            if any(b <= a for a, b in itertools.pairwise(channels)):
                raise PlanError(f"the kept channels of {name!r} must be ascending and different")
            if channels[0] < 0 or channels[-1] >= widths[name]:
                raise PlanError(
                    f"the kept channels of {name!r} must lie in 0..{widths[name] - 1}; found "
                    f"{channels[0]}..{channels[-1]}"
                )
            _check_layers(groups[name], channels)

    def __getitem__(self, name: str) -> tuple[int, ...]:
        """Return the kept channels of a group."""
        for group in self.groups:
            if group.name == name:
                return self.kept.get(name, tuple(range(group.width)))
        raise KeyError(name)

    @property
    def widths(self) -> dict[str, int]:
        """Group name -> how many channels are kept."""
        return {group.name: len(self[group.name]) for group in self.groups}

    def removed(self, name: str) -> tuple[int, ...]:
        """Return the channels of a group that the plan removes, ascending."""
        group = next(g for g in self.groups if g.name == name)
        keep = set(self[name])
        return tuple(c for c in range(group.width) if c not in keep)

    @property
    def masked(self) -> dict[str, tuple[int, ...]]:
        """Masked group name -> the channels that the plan sets to zero and leaves in the network; only where any go."""
        return {g.name: gone for g in self.groups if g.masked and (gone := self.removed(g.name))}

    @property
    def spent(self) -> dict[str, Spent]:
        """Name of each cost that has a budget -> what is spent of it."""
        return {self.cost: Spent(self.cost_before, self.cost_after, self.budget), **self.further}

    @property
    def fingerprint(self) -> str:
        """A short hash of the decision itself: groups and kept channels."""
        data = {"groups": [g.to_json() for g in self.groups], "kept": {n: list(self[n]) for n in self.widths}}
        return hashlib.sha256(json.dumps(data, sort_keys=True, default=own_number).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads back to an equal plan."""
        further = {"further": {name: asdict(spent) for name, spent in self.further.items()}} if self.further else {}
        data = {
            "format": FORMAT,
            "cost": {
                "name": self.cost,
                "before": self.cost_before,
                "after": self.cost_after,
                "budget": self.budget,
            },
            **further,
            "settings": self.settings,
            "ties": self.ties,
            "groups": [g.to_json() for g in self.groups],
            "kept": {name: list(channels) for name, channels in self.kept.items()},
        }
        return {key: plain(value) for key, value in data.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PruningPlan:
        """Return the plan that `to_json` wrote. Raises PlanError for anything else."""
        try:
            if data["format"] != FORMAT:
                raise PlanError(f"the plan has format {data['format']!r}; this version reads format {FORMAT}")
            _check_size(data["groups"])
            cost = data["cost"]
            return cls(
                groups=tuple(ChannelGroup.from_json(g) for g in data["groups"]),
                kept={str(n): tuple(map(whole, channels)) for n, channels in data["kept"].items()},
                cost=str(cost["name"]),
                cost_before=_amount(cost["before"]),
                cost_after=_amount(cost["after"]),
                budget=_amount(cost["budget"]),
                ties={str(n): whole(k) for n, k in data["ties"].items()},
                settings=dict(data["settings"]),
                further={
                    str(name): Spent(**{key: _amount(spent[key]) for key in ("before", "after", "budget")})
                    for name, spent in data.get("further", {}).items()
                },
            )
        except PlanError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"not a pruning plan of secateur: {type(error).__name__} {error}") from error


def _check_size(groups: Any) -> None:
    """Refuse groups as they were read from JSON, a few numbers each, that would fill the memory if written out."""
    positions = sum(
        count_positions(member["indices"], group_width(group["width"]))
        for group in groups
        for member in group["members"]
    )
    if positions > MOST:
        raise PlanError(f"the layers of the plan have {positions} positions; no network has so many")


def _check_layers(group: ChannelGroup, channels: Sequence[int]) -> None:
    """Refuse kept channels of a group of which none passes through one of its layers: that layer would be empty."""
    for member in group.members:
        if member.role != "masked" and any(member.indices) and not any(member.indices[c] for c in channels):
            own = [c for c, positions in enumerate(member.indices) if positions]
            raise PlanError(
                f"the plan leaves the layer {member.layer!r} no channel; of those of {group.name!r} that pass through "
                f"it, {reprlib.repr(own)}, at least one must stay"
            )


def _amount(value: Any) -> float:
    """Return a cost or a budget as it was read from JSON, which in Python may say NaN, infinity and 10^400."""
    try:
        amount = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    except OverflowError:
        amount = math.inf
    if not 0 <= amount < math.inf:
        raise PlanError(f"{reprlib.repr(value)} stands where a cost should: a finite number of at least 0")
    return amount
