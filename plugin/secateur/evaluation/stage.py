"""What all candidates of a race share: a network without the channels that none of them keeps.

Each candidate is a mask on it. What has gone is absent from the arithmetic, and what runs before the first layer that a
candidate changes is common to all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from secateur.channel_graph import apply_plan
from secateur.channel_graph.masks import masked, silence
from secateur.channel_graph.narrowing import narrowed
from secateur.channel_graph.verify import mixes_channels
from secateur.errors import PlanError
from secateur.protocols import Kept
from secateur.records import ChannelGroup, PruningPlan

Edit = tuple[Tensor, Tensor]
"""A tensor of a network, and what a candidate has in its place."""


def shared_channels(groups: Mapping[str, ChannelGroup], candidates: Sequence[Kept]) -> dict[str, tuple[int, ...]]:
    """Return which channels of each group some candidate keeps; groups of which all are kept are left out.

    Raises:
        PlanError: a candidate names an unknown group or channels that it does not have, or keeps none.

    Example:
        >>> groups = {"a": ChannelGroup("a", 3, ()), "b": ChannelGroup("b", 2, ())}
        >>> shared_channels(groups, [{"a": (0,)}, {"a": (0, 2), "b": (1,)}])
        {'a': (0, 2)}
    """
    for kept in candidates:
        for name, channels in kept.items():
            if name not in groups:
                raise PlanError(f"no channel group {name!r}; known: {', '.join(groups)}")
            if not channels or not {*channels} <= {*range(groups[name].width)}:
                raise PlanError(
                    f"the group {name!r} has the channels 0..{groups[name].width - 1}, of which at least one must "
                    f"stay; asked to keep {sorted(channels)}"
                )
    union = {
        name: tuple(sorted({c for kept in candidates for c in kept.get(name, range(group.width))}))
        for name, group in groups.items()
    }
    return {name: channels for name, channels in union.items() if len(channels) < groups[name].width}


class Stage:
    """A network with the channels `kept` alone, on which candidates that keep fewer are tried.

    Args:
        model: the dense network; copied.
        groups: its channel groups by name.
        kept: group -> channels that stay; absent groups keep all.

    Groups that pass through a normalisation over channels, and masked ones, are masked here too, not cut: without their
    channels the network would compute something else.

    Attributes:
        network: the cut network, in eval mode.
        cut: what has gone from it for good, as the channels that stay.

    Example:
        >>> import torch
        >>> from secateur.channel_graph import channel_groups
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> stage = Stage(net, channel_groups(net, torch.randn(2, 3, 8, 8)), {"0": (1, 2, 5)})
        >>> with stage.candidate({"0": (1, 5)}):
        ...     print(stage.network[2].weight.detach().abs().sum((0, 2, 3)).count_nonzero().item())
        2
        >>> stage.layers({"0": (1, 5)})
        ['2']
    """

    def __init__(self, model: nn.Module, groups: Mapping[str, ChannelGroup], kept: Kept) -> None:
        self._groups, self._kept = groups, kept
        self.cut = {name: channels for name, channels in kept.items() if _can_be_cut(model, groups[name])}
        plan = PruningPlan(tuple(groups.values()), self.cut, "none", 0.0, 0.0, 0.0)
        self.network = apply_plan(model, plan).eval()
        self._narrow = narrowed(groups, self.cut)
        self._silent = {name: channels for name, channels in kept.items() if name not in self.cut}
        silence(self.network, self._narrow, self._silent)

    def layers(self, candidate: Kept) -> list[str]:
        """Return the layers whose weights a candidate masks."""
        return [
            member.layer
            for name in self.changes(candidate)
            for member in self._groups[name].members
            if member.role in ("consumer", "masked")
        ]

    def changes(self, candidate: Kept) -> dict[str, tuple[int, ...]]:
        """Return which channels of the groups that a candidate keeps fewer of stay, as the cut network counts them."""
        found = {}
        for name, group in self._groups.items():
            all_of_it = tuple(range(group.width))
            here, stay = self._kept.get(name, all_of_it), candidate.get(name, all_of_it)
            if here != stay:
                place = {channel: idx for idx, channel in enumerate(self.cut.get(name, all_of_it))}
                found[name] = tuple(place[channel] for channel in stay)
        return found

    @contextmanager
    def candidate(self, candidate: Kept, edits: Sequence[Edit] = ()) -> Iterator[None]:
        """In the block, the network is the candidate: with its own values in some tensors, and then masked.

        What the stage masks is masked again where there are such values, which know of no mask.
        """
        mask = self.changes(candidate)
        if edits:
            mask = {name: tuple(candidate.get(name, channels)) for name, channels in self._silent.items()} | mask
        before = [target.clone() for target, _ in edits]
        try:
            for target, value in edits:
                target.copy_(value)
            with masked(self.network, self._narrow, mask):
                yield
        finally:
            for (target, _), value in zip(edits, before, strict=True):
                target.copy_(value)


def _can_be_cut(model: nn.Module, group: ChannelGroup) -> bool:
    return not mixes_channels(model, group) and all(member.role != "masked" for member in group.members)
