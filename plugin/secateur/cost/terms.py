"""Costs as closed forms in the widths: sums of products of counts.

A count says how many positions of one dimension stay. Where every channel of group g owns s_g of `total` positions,

    count(widths) = total - sum_g s_g * (W_g - widths_g),      W_g the dense width of g,

and a cost is a sum over terms of scale * product of counts / divisor. Groups that meet in one dimension (a
concatenation) add up.

Where channels of one group own different numbers of positions (a chunk sends them to different layers), the cost
depends on which of them go. Then the fewest positions that so many channels can own are subtracted: an upper bound,
exact for the dense network and non-decreasing in the widths, so that a budget met by it is met.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import nn

from secateur.cost.layers import LayerRecord
from secateur.errors import NetworkError, PlanError
from secateur.records import ChannelGroup, Role

Groups = Mapping[str, ChannelGroup]


@dataclass(frozen=True)
class Count:
    """How many positions of a dimension stay.

    Attributes:
        total: positions in the dense network.
        lost: group -> positions that go with 0, 1, 2, ... of its channels.
    """

    total: int
    lost: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, total: int, owned: Mapping[str, Iterable[int]]) -> Count:
        """Return the count for `owned`: group -> how many positions each of its channels owns."""
        return cls(total, {g: (0, *itertools.accumulate(sorted(sizes))) for g, sizes in owned.items()})

    def kept(self, removed: Mapping[str, int]) -> int:
        kept = self.total
        for group, lost in self.lost.items():
            if group in removed:
                kept -= lost[removed[group]]
        return kept


@dataclass(frozen=True)
class Term:
    """A part of a cost: scale * product of counts / divisor, in this order, so that whole numbers stay exact."""

    scale: float
    counts: tuple[Count, ...] = ()
    divisor: int = 1

    def value(self, removed: Mapping[str, int]) -> float:
        return self.scale * math.prod([count.kept(removed) for count in self.counts]) / self.divisor

    def times(self, factor: float) -> Term:
        return replace(self, scale=factor * self.scale)


class Part(Protocol):
    """What a cost is a sum of, such as a `Term`.

    Attributes:
        counts: all that its value depends on.
    """

    @property
    def counts(self) -> Sequence[Count]: ...

    def value(self, removed: Mapping[str, int]) -> float:
        """Return the part of the cost that stays when group g loses `removed[g]` channels; absent groups lose none."""
        ...


@dataclass
class TermCost:
    """A cost model that is a sum of terms.

    Attributes:
        name, unit: what is counted, and in what.
        groups: the channel groups by name.
        terms: what is summed.
    """

    name: str
    unit: str
    groups: Groups
    terms: Sequence[Part]

    def __post_init__(self) -> None:
        self._dense = [term.value({}) for term in self.terms]
        self._places: dict[str, set[int]] = {name: set() for name in self.groups}
        for place, term in enumerate(self.terms):
            for name in {name for count in term.counts for name in count.lost}:
                self._places.setdefault(name, set()).add(place)

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the cost when group g keeps `widths[g]` channels; absent groups keep all.

        Raises:
            PlanError: a width of an unknown group, or outside 0..width of its group.

        Cost: proportional to the number of terms in which the groups that lose channels occur.
        """
        for name, width in widths.items():
            if name not in self.groups:
                raise PlanError(f"no channel group is called {name!r}; the groups are: {', '.join(self.groups)}")
            dense = self.groups[name].width
            if not 0 <= width <= dense:
                raise PlanError(f"the group {name!r} cannot keep {width} channels; allowed: 0..{dense}")
        removed = {name: lost for name, width in widths.items() if (lost := self.groups[name].width - width)}
        values = list(self._dense)
        for place in set().union(*(self._places[name] for name in removed)):
            values[place] = self.terms[place].value(removed)
        return float(sum(values))


PRODUCED: tuple[Role, ...] = ("producer", "carrier")
WRITTEN: tuple[Role, ...] = (*PRODUCED, "masked")  # masked outputs are zero where they are: no layer shrinks
CARRIED: tuple[Role, ...] = ("carrier",)
CONSUMED: tuple[Role, ...] = ("consumer",)


def layer_counts(record: LayerRecord, groups: Groups, *, produced: Collection[Role] = PRODUCED) -> tuple[Count, ...]:
    """Return the counts whose product, over the number of groups that stays, gives the pairs of connected channels.

    Inputs and outputs as a rule. For a depthwise layer the outputs alone: inputs over groups stays 1, and what
    removes an input removes its outputs, whichever side names it. Outputs are those of members whose role is one of
    `produced`.
    """
    outputs = owned_positions(record.name, groups, roles=produced, total=record.outputs)
    inputs = owned_positions(record.name, groups, roles=CONSUMED, total=record.inputs)
    if not record.depthwise:
        return Count.of(record.inputs, inputs), Count.of(record.outputs, outputs)
    each = record.outputs // record.inputs
    for group, sizes in inputs.items():
        named = outputs.get(group, [0] * len(sizes))
        outputs[group] = [max(size, each * count) for size, count in zip(named, sizes, strict=True)]
    return (Count.of(record.outputs, outputs),)


def mac_terms(layers: Mapping[str, LayerRecord], groups: Groups) -> list[Term]:
    """Return the MACs of each layer, once for each of its positions."""
    return [
        Term(record.positions * record.kernel, layer_counts(record, groups), record.blocks)
        for record in layers.values()
    ]


def owned_positions(
    layer: str, groups: Groups, *, roles: Collection[Role], total: int, axis: int | None = None
) -> dict[str, list[int]]:
    """Return, for each group with one of `roles` in `layer`, how many of its `total` positions each channel owns.

    A position that a group names twice (a layer traced twice) counts once.

    Raises:
        NetworkError: a position beyond `total`.
    """
    owned = {}
    for name, group in groups.items():
        members = [m for m in group.members if m.layer == layer and m.role in roles and m.axis == axis]
        if not members:
            continue
        positions = [{p for member in members for p in member.indices[c]} for c in range(group.width)]
        last = max((p for channel in positions for p in channel), default=0)
        if last >= total:
            raise NetworkError(
                f"the group {name!r} names position {last} of layer {layer!r}, which has {total} of them: "
                "the groups are those of another network"
            )
        owned[name] = [len(channel) for channel in positions]
    return owned


def check_layers(groups: Groups, model: nn.Module) -> None:
    """Raise NetworkError if a group names a layer or a parameter that the network does not have."""
    known = {name for name, _ in [*model.named_modules(), *model.named_parameters()]}
    for name, group in groups.items():
        for member in group.members:
            if member.layer not in known:
                raise NetworkError(
                    f"the group {name!r} names the layer {member.layer!r}, which the network does not have: "
                    "the groups are those of another network"
                )
