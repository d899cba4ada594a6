"""Channel groups: which channels of which layers live or die together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from secateur.counts import check_counts
from secateur.errors import ConfigError, PlanError, ScoreError
from secateur.index_maps import Indices, group_width, pack_indices, unpack_indices, whole
from secateur.records.parts import smallest_parts

Role = Literal["producer", "carrier", "consumer", "masked"]
Reduction = Literal["sum", "mean", "max"]


@dataclass(frozen=True)
class Member:
    """One dimension of one layer that belongs to a channel group.

    Attributes:
        layer: the module's name, or the parameter's for parameters that stand alone.
        role: "producer" (its outputs are the channels: convolution, linear), "carrier" (the channels pass through:
            batch norm, PReLU, a lone parameter), "consumer" (its inputs are the channels) or "masked" (its outputs are
            the channels, and what goes is set to zero where it is: the layer keeps its shape).
        indices: for each channel of the group, the positions it owns in this dimension. One position as a rule;
            several behind a flatten (H*W of them) or in a grouped convolution; none where only the other channels
            pass through this layer.
        axis: which axis of the tensor, for a parameter that stands alone; None for a module.
    """

    layer: str
    role: Role
    indices: Indices
    axis: int | None = None

    def positions(self, channels: Sequence[int]) -> list[int]:
        """Return the sorted positions that `channels` of the group own in this layer."""
        return sorted(p for channel in channels for p in self.indices[channel])

    def to_json(self) -> dict[str, Any]:
        axis = {} if self.axis is None else {"axis": self.axis}
        return {"layer": self.layer, "role": self.role, "indices": pack_indices(self.indices)} | axis

    @classmethod
    def from_json(cls, data: Mapping[str, Any], width: int) -> Member:
        role = data["role"]
        if role not in get_args(Role):
            raise PlanError(f"layer {data['layer']!r} has the role {role!r}; allowed: {', '.join(get_args(Role))}")
        axis = None if data.get("axis") is None else whole(data["axis"])
        return cls(str(data["layer"]), cast(Role, role), unpack_indices(data["indices"], width), axis)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of several layers that live or die together.

    Attributes:
        name: the name of the layer that produces them (the first one, where several are summed).
        width: how many channels can be decided about one by one.
        members: every layer dimension that the channels pass through.
    """

    name: str
    width: int
    members: tuple[Member, ...]

    @property
    def producers(self) -> tuple[Member, ...]:
        """The layers that make the channels; of a masked group the one that it is named after."""
        return tuple(m for m in self.members if m.role == "producer" or (self.masked and m.layer == self.name))

    @property
    def masked(self) -> bool:
        """Whether channels that go stay in the network as zeros: no layer becomes smaller."""
        return any(m.role == "masked" for m in self.members)

    @cached_property
    def parts(self) -> tuple[frozenset[int], ...]:
        """Channels of which one must stay, so that no layer is left without any: all of them, or those of some layers.

        As many channels as there are parts can always be chosen so that one of each stays.

        Example:
            >>> left, right = ((0,), (1,), (), ()), ((), (), (0,), (1,))
            >>> both = ((0,), (1,), (2,), (3,))
            >>> ChannelGroup("conv", 4, (Member("conv", "producer", both),)).parts
            (frozenset({0, 1, 2, 3}),)
            >>> halves = Member("a", "producer", left), Member("b", "producer", right)
            >>> ChannelGroup("dw", 4, (*halves, Member("dw", "producer", both))).parts
            (frozenset({0, 1}), frozenset({2, 3}))
        """
        return smallest_parts(self.width, [member.indices for member in self.members if member.role != "masked"])

    def step(self, round_to: int) -> int:
        """Return of how many of its channels the widths are multiples where those of its layers are of `round_to`.

        Formula: round_to / gcd(round_to, n), each of its channels standing for n of a layer, as in grouped
        convolutions of n groups; the fewest, where layers differ.

        Raises:
            ConfigError: `round_to` is below 1 or no whole number.

        Example:
            >>> offsets = tuple((c, c + 4, c + 8, c + 12) for c in range(4))
            >>> ChannelGroup("conv", 4, (Member("conv", "producer", offsets),)).step(8)
            2
        """
        check_counts(round_to=round_to)
        tied = min(len(owned) for member in self.members for owned in member.indices if owned)
        return round_to // math.gcd(round_to, tied)

    def combine(self, scores: Mapping[str, Tensor], *, reduction: Reduction = "sum") -> Tensor:
        """Return the score of each channel of the group, (width,), from the scores of its producers.

        Formula: `reduction` over producers of the mean over the positions that the channel owns in the producer.
        The sum is the DI paper's rule for channels that meet in a shortcut. Producers without scores are left out.

        Raises:
            ScoreError: no producer has scores, or their number does not fit the layer.
        """
        rows = []
        for member in self.producers:
            if member.layer not in scores:
                continue
            values = scores[member.layer].to("cpu", torch.float64)
            last = max(p for owned in member.indices for p in owned)
            if last >= len(values):
                raise ScoreError(
                    f"layer {member.layer!r} has {len(values)} scores but its channel {last} belongs to the "
                    f"group {self.name!r}: the scores are those of another structure"
                )
            rows.append(torch.stack([values[list(owned)].mean() for owned in member.indices]))  # NaN: owns none
        if not rows:
            raise ScoreError(
                f"no scores for the group {self.name!r}; it needs those of one of: "
                + ", ".join(m.layer for m in self.producers)
            )
        stacked = torch.stack(rows)
        if reduction == "sum":
            return stacked.nansum(0)
        if reduction == "mean":
            return stacked.nanmean(0)
        if reduction == "max":
            return stacked.nan_to_num(nan=-torch.inf).amax(0)
        raise ScoreError(f"unknown reduction {reduction!r}; allowed: sum, mean, max")

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "width": self.width, "members": [m.to_json() for m in self.members]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ChannelGroup:
        width = group_width(data["width"])
        group = cls(str(data["name"]), width, tuple(Member.from_json(m, width) for m in data["members"]))
        if not group.producers:
            raise PlanError(f"no layer produces the channels of the group {group.name!r}")
        return group


def narrowed(groups: Mapping[str, ChannelGroup], keep: Mapping[str, int]) -> dict[str, int]:
    """Return the widths of those groups that become narrower.

    Args:
        groups: the channel groups by name.
        keep: group -> how many of its channels stay.

    Raises:
        PlanError: an unknown group.
        ConfigError: a width out of range, so that a layer would have no channel, or no group becomes narrower.

    Example:
        >>> own = ((0,), (1,))
        >>> groups = {name: ChannelGroup(name, 2, (Member(name, "producer", own),)) for name in ("first", "second")}
        >>> narrowed(groups, {"first": 1, "second": 2})
        {'first': 1}
    """
    for name, width in keep.items():
        if name not in groups:
            raise PlanError(f"no channel group {name!r}; known: {', '.join(groups)}")
        full = groups[name].width
        least = min(full, len(groups[name].parts))
        if not least <= width <= full:
            raise ConfigError(
                f"the group {name!r} has {full} channels; asked to keep {width}, allowed: {least}..{full}"
            )
    narrower = {name: width for name, width in keep.items() if width < groups[name].width}
    if not narrower:
        raise ConfigError("keep leaves every group as wide as it is: nothing would go")
    return narrower


class ChannelGroups(Mapping[str, ChannelGroup]):
    """The groups of a network by name, and in `skipped` the layers that cannot be pruned, each with the reason.

    Example:
        >>> own = ((0,), (1,))
        >>> groups = ChannelGroups(
        ...     [ChannelGroup("conv1", 2, (Member("conv1", "producer", own), Member("conv2", "consumer", own)))],
        ...     skipped={"conv2": "its channels are the network's outputs"},
        ... )
        >>> list(groups), groups["conv1"].width, list(groups.skipped)
        (['conv1'], 2, ['conv2'])
    """

    def __init__(self, groups: Sequence[ChannelGroup], *, skipped: Mapping[str, str] | None = None) -> None:
        self._groups = {group.name: group for group in groups}
        self._skipped = dict(skipped or {})

    @property
    def skipped(self) -> Mapping[str, str]:
        """The layers that cannot be pruned, each with the reason; read only."""
        return MappingProxyType(self._skipped)

    def __getitem__(self, name: str) -> ChannelGroup:
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)
