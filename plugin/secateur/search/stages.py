"""Stages and roles: where in a network a channel group stands, so that groups of two networks can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from secateur.errors import NetworkError
from secateur.records import ChannelGroup


@dataclass(frozen=True, order=True)
class Stage:
    """Where a group stands: in which stage, from 1, and whether it is inside its blocks or their residual stream.

    Example:
        >>> str(Stage(2, "inner"))
        '2 inner'
    """

    number: int
    role: Literal["inner", "stream"]

    def __str__(self) -> str:
        return f"{self.number} {self.role}"


class Layer(Protocol):
    """What is asked of a layer, as `secateur.cost.LayerRecord` has it: places of its output, groups, outputs."""

    @property
    def positions(self) -> float: ...
    @property
    def groups(self) -> int: ...
    @property
    def outputs(self) -> int: ...


def stages_of(groups: Mapping[str, ChannelGroup], layers: Mapping[str, Layer]) -> dict[str, Stage]:
    """Return the stage and the role of each group, by the sizes of the maps it lives in.

    A group is the residual *stream* if several layers write its channels (depthwise convolutions only hand them on) or
    if it is masked, and *inner* otherwise. Its size is the number of positions at which it is written; a stream's the
    smallest one, since a stem may write it before a pool. Inner channels that are read at fewer positions than they are
    written at (by a convolution with a stride, behind a pool) belong to where they are read: their size is the largest
    at which a layer reads them. The groups of one size are a stage, and stages are numbered from the largest size down:
    two networks correspond stage by stage, also where their images differ in size.

    Args:
        groups: the channel groups by name.
        layers: by name, from one forward pass: `MacsCost(...).layers`, or what `record_layers` returns.

    Raises:
        NetworkError: no layer that writes a group has run.

    Example:
        >>> import torch
        >>> from secateur import channel_groups, MacsCost
        >>> from secateur.networks.cifar_resnet import CifarResNet
        >>> net, images = CifarResNet(14), torch.zeros(1, 3, 32, 32)
        >>> groups = channel_groups(net, images)
        >>> stages = stages_of(groups, MacsCost(net, images, groups).layers)
        >>> [str(stages[name]) for name in ("conv1", "layer1.0.conv1", "layer2.0.conv2", "layer3.1.conv1")]
        ['1 stream', '1 inner', '2 stream', '3 inner']
    """
    found = {name: _size_and_role(group, layers) for name, group in groups.items()}
    sizes = sorted({size for size, _ in found.values()}, reverse=True)
    return {name: Stage(1 + sizes.index(size), role) for name, (size, role) in found.items()}


def _size_and_role(group: ChannelGroup, layers: Mapping[str, Layer]) -> tuple[float, Literal["inner", "stream"]]:
    written = [layers[member.layer] for member in group.producers if member.layer in layers]
    written = [layer for layer in written if not 1 < layer.groups == layer.outputs] or written
    if not written:
        raise NetworkError(f"none of the layers that write the group {group.name!r} has run: its stage is not known")
    size = min(layer.positions for layer in written)
    if len(written) > 1 or group.masked:
        return size, "stream"
    read = [layers[m.layer].positions for m in group.members if m.role == "consumer" and m.layer in layers]
    return min([size, max(read)] if read else [size]), "inner"
