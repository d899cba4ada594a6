"""The layers and channel groups of a network as they are once some of their channels have gone."""

from __future__ import annotations

import bisect
import copy
from collections import defaultdict
from collections.abc import Mapping

from torch import nn

from secateur.channel_graph.hosts import cut
from secateur.protocols import Kept
from secateur.records import ChannelGroup, Member

Side = tuple[str, bool, int | None]
"""A layer, whether it is its inputs that are meant, and the axis of a parameter that stands alone."""


def removals(groups: Mapping[str, ChannelGroup], kept: Kept) -> dict[Side, set[int]]:
    """Return which positions of each side of each layer go when only the channels `kept` stay.

    Args:
        groups: of the dense network.
        kept: group -> its channels that stay; absent groups keep all.

    Example:
        >>> group = ChannelGroup("a", 2, (Member("b", "consumer", ((0, 1), (2, 3))),))
        >>> removals({"a": group}, {"a": (1,)})
        {('b', True, None): {0, 1}}
    """
    gone: dict[Side, set[int]] = defaultdict(set)
    for name, channels in kept.items():
        dropped = sorted({*range(groups[name].width)} - {*channels})
        for member in groups[name].members:
            if member.role != "masked":
                gone[_side(member)].update(member.positions(dropped))
    return {side: positions for side, positions in gone.items() if positions}


def narrowed(groups: Mapping[str, ChannelGroup], kept: Kept) -> dict[str, ChannelGroup]:
    """Return the groups of the network that `apply_plan` leaves when only the channels `kept` stay.

    Channel k of a group is the k-th that it kept, and owns the positions that its own have moved to.

    Args:
        groups: of the dense network, all of them: a layer may carry channels of several.
        kept: group -> its channels that stay, ascending; absent groups keep all.

    Example:
        >>> own = ((0,), (1,), (2,))
        >>> group = ChannelGroup("a", 3, (Member("a", "producer", own), Member("b", "consumer", own)))
        >>> narrow = narrowed({"a": group}, {"a": (0, 2)})["a"]
        >>> narrow.width, narrow.members[1].indices
        (2, ((0,), (1,)))
    """
    gone = {side: sorted(positions) for side, positions in removals(groups, kept).items()}

    def moved(member: Member, channel: int) -> tuple[int, ...]:
        before = gone.get(_side(member), [])
        return tuple(position - bisect.bisect_left(before, position) for position in member.indices[channel])

    def narrow(group: ChannelGroup) -> ChannelGroup:
        stay = kept.get(group.name, range(group.width))
        members = (Member(m.layer, m.role, tuple(moved(m, c) for c in stay), m.axis) for m in group.members)
        return ChannelGroup(group.name, len(stay), tuple(members))

    return {name: narrow(group) for name, group in groups.items()}


def cut_layer(module: nn.Module, name: str, gone: Mapping[Side, set[int]]) -> nn.Module:
    """Return a copy of one layer without its positions in `gone`, as `apply_plan` would cut it.

    Example:
        >>> cut_layer(nn.Linear(3, 2), "head", {("head", True, None): {0, 2}}).weight.shape
        torch.Size([2, 1])
    """
    small = copy.deepcopy(module)
    for inputs in (False, True):
        if positions := gone.get((name, inputs, None)):
            cut(small, positions, inputs=inputs)
    return small


def _side(member: Member) -> Side:
    return member.layer, member.role == "consumer", member.axis
