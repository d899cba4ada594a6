"""NNI's masks of a decision: kept channels become zeros and ones for each layer that writes the others."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.channel_graph.masks import zero_outputs
from secateur.channel_graph.outputs import TOLERANCE
from secateur.channel_graph.tracing import copy_of
from secateur.channel_graph.verify import difference, mixes_channels
from secateur.errors import SecateurWarning
from secateur.protocols import Kept
from secateur.records import ChannelGroup
from secateur_nni.host import PruningSetting

Masks = Mapping[str, Mapping[str, Tensor | None]]
"""NNI's: layer -> "weight" or "bias" -> ones and zeros of the shape of that tensor; None where there is no tensor."""


def masks_of(
    groups: Mapping[str, ChannelGroup], kept: Kept, target_spaces: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Tensor]]:
    """Return the masks that leave of each group the channels `kept`, for the targets of a pruner.

    Each is one number an output channel, (C, 1, ..., 1) or (C,), as NNI's `generate_masks` gives them.

    Args:
        groups: channel groups by name.
        kept: group name -> channels that stay; groups that are absent keep all.
        target_spaces: the pruner's, layer -> target name -> target space.
    """
    gone: dict[str, set[int]] = {}
    for name, channels in kept.items():
        removed = sorted(set(range(groups[name].width)) - set(channels))
        for member in groups[name].members:
            if member.role != "consumer":
                gone.setdefault(member.layer, set()).update(member.positions(removed))
    masks: dict[str, dict[str, Tensor]] = {}
    for layer, spaces in target_spaces.items():
        for target, space in spaces.items():
            if space.target is not None:
                mask = torch.ones(len(space.target), device=space.target.device)
                mask[sorted(gone.get(layer, ()))] = 0.0
                shape = (-1, *[1] * (space.target.ndim - 1))
                masks.setdefault(layer, {})[target] = mask.reshape(shape)
    return masks


def warn_where_zeros_end(
    model: nn.Module, groups: Mapping[str, ChannelGroup], inputs: Any, *, stacklevel: int = 4
) -> None:
    """Warn of groups whose masked channels are not zero where they are read: there masked is not what removed is.

    A convolution and the batch norm behind it can be masked; an activation that turns zero into something else, such as
    a sigmoid, or a batch norm without weights, makes a constant of it that removal drops. Tried on the example inputs.

    Args:
        model: the network, not wrapped.
        groups: those that are masked.
        inputs: (N, ...), or a tuple of the network's arguments.
        stacklevel: of the warning: how far above this function its user is.

    Warns:
        SecateurWarning: with the names of these groups.

    Cost: two forward passes and two copies of the network; as much for each group where something is found.

    Example:
        >>> from secateur.channel_graph import channel_groups
        >>> net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 2, 3)), torch.rand(2, 1, 8, 8)
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warn_where_zeros_end(net, channel_groups(net, x), x)
        >>> str(told[0].message)[:31]
        'masked is not what removed is: '
    """
    trial = {n: tuple(sorted({*range(g.width // 2, g.width), *map(max, g.parts)})) for n, g in groups.items()}
    trial = {name: kept for name, kept in trial.items() if not mixes_channels(model, groups[name])}
    if _written_zero(model, groups, trial, inputs) <= TOLERANCE:
        return
    found = [n for n, kept in trial.items() if not _written_zero(model, groups, {n: kept}, inputs) <= TOLERANCE]
    if found:
        warnings.warn(
            f"masked is not what removed is: what lies behind {', '.join(found)} turns zero into something else, so "
            "that the network computes other values while it is masked than once apply_masks has removed the channels",
            SecateurWarning,
            stacklevel=stacklevel,
        )


def _written_zero(
    model: nn.Module, groups: Mapping[str, ChannelGroup], kept: Mapping[str, Sequence[int]], inputs: Any
) -> float:
    """Return how far the network that writes zeros is from one without these channels."""
    silent = copy_of(model)
    for name, channels in kept.items():
        gone = sorted(set(range(groups[name].width)) - set(channels))
        for member in groups[name].members:
            if member.role != "consumer" and member.axis is None:
                module = silent.get_submodule(member.layer)
                if type(module).__name__ in PruningSetting.registry:
                    zero_outputs(module, member.positions(gone), name=member.layer)
    return difference(model, groups, kept, inputs, pruned=silent)
