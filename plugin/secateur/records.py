"""What the rooms exchange: score tables, channel groups and pruning plans, as plain data with JSON there and back.

None of these holds a network. A score table says how much each output channel of each layer is worth, a channel group
which channels of which layers live or die together, a pruning plan which of them are kept. They are immutable, and
everything read from a file is checked before it is believed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from torch import Tensor

from secateur.errors import PlanError, ScoreError
from secateur.index_maps import Indices, pack_indices, unpack_indices

Role = Literal["producer", "carrier", "consumer"]
Reduction = Literal["sum", "mean", "max"]
FORMAT = 1


class ScoreTable(Mapping[str, Tensor]):
    """One score per output channel of each layer: layer name -> (C,), float64, larger = keep.

    `settings` says how the scores were made (criterion, tap, images, batch size, ...). They are part of the scores: two
    tables with different settings must not be compared.

    Raises:
        ScoreError: a layer's scores are not a finite vector.

    Example:
        >>> table = ScoreTable({"conv1": torch.tensor([1.0, 3.0])}, settings={"criterion": "hrank"})
        >>> table["conv1"].tolist(), table.settings["criterion"]
        ([1.0, 3.0], 'hrank')
    """

    def __init__(self, scores: Mapping[str, Tensor], *, settings: Mapping[str, Any] | None = None) -> None:
        for layer, values in scores.items():
            if values.ndim != 1 or not bool(torch.isfinite(values).all()):
                raise ScoreError(
                    f"the scores of layer {layer!r} must be a finite vector with one number per channel; "
                    f"they have shape {tuple(values.shape)} and {int((~torch.isfinite(values)).sum())} "
                    "of them are NaN or infinite"
                )
        self._scores = {layer: values.detach().to("cpu", torch.float64) for layer, values in scores.items()}
        self.settings: Mapping[str, Any] = MappingProxyType(dict(settings or {}))

    def __getitem__(self, layer: str) -> Tensor:
        return self._scores[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; float64 survives the trip exactly."""
        scores = {layer: values.tolist() for layer, values in self._scores.items()}
        return {"format": FORMAT, "settings": dict(self.settings), "scores": scores}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScoreTable:
        """Return the table that `to_json` wrote. Raises ScoreError for anything else."""
        try:
            scores = {str(k): torch.tensor(v, dtype=torch.float64) for k, v in data["scores"].items()}
            return cls(scores, settings=data["settings"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ScoreError(f"not a score table of secateur: {error}") from error


@dataclass(frozen=True)
class Member:
    """One dimension of one layer that belongs to a channel group.

    Attributes:
        layer: the module's name, or the parameter's for parameters that stand alone.
        role: "producer" (its outputs are the channels: convolution, linear), "carrier" (the channels pass through:
            batch norm, PReLU, a lone parameter) or "consumer" (its inputs are the channels).
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
        if role not in ("producer", "carrier", "consumer"):
            raise PlanError(f"layer {data['layer']!r} has the role {role!r}; allowed: producer, carrier, consumer")
        axis = None if data.get("axis") is None else int(data["axis"])
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
        return tuple(m for m in self.members if m.role == "producer")

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
        width = int(data["width"])
        return cls(str(data["name"]), width, tuple(Member.from_json(m, width) for m in data["members"]))


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
        self.skipped: Mapping[str, str] = MappingProxyType(dict(skipped or {}))

    def __getitem__(self, name: str) -> ChannelGroup:
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)


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

    Raises:
        PlanError: kept channels that are not ascending, out of range or none at all, or of an unknown group.
    """

    groups: tuple[ChannelGroup, ...]
    kept: Mapping[str, tuple[int, ...]]
    cost: str
    cost_before: float
    cost_after: float
    budget: float
    ties: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        widths = {group.name: group.width for group in self.groups}
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
    def fingerprint(self) -> str:
        """A short hash of the decision itself: groups and kept channels."""
        data = {"groups": [g.to_json() for g in self.groups], "kept": {n: list(self[n]) for n in self.widths}}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads back to an equal plan."""
        return {
            "format": FORMAT,
            "cost": {
                "name": self.cost,
                "before": self.cost_before,
                "after": self.cost_after,
                "budget": self.budget,
            },
            "settings": dict(self.settings),
            "ties": dict(self.ties),
            "groups": [g.to_json() for g in self.groups],
            "kept": {name: list(channels) for name, channels in self.kept.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PruningPlan:
        """Return the plan that `to_json` wrote. Raises PlanError for anything else."""
        try:
            if data["format"] != FORMAT:
                raise PlanError(f"the plan has format {data['format']!r}; this version reads format {FORMAT}")
            cost = data["cost"]
            return cls(
                groups=tuple(ChannelGroup.from_json(g) for g in data["groups"]),
                kept={str(n): tuple(int(c) for c in channels) for n, channels in data["kept"].items()},
                cost=str(cost["name"]),
                cost_before=float(cost["before"]),
                cost_after=float(cost["after"]),
                budget=float(cost["budget"]),
                ties={str(n): int(k) for n, k in data["ties"].items()},
                settings=dict(data["settings"]),
            )
        except PlanError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"not a pruning plan of secateur: {type(error).__name__} {error}") from error
