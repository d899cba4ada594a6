"""Proof that removal did what the masks say: both networks, the same inputs, the same outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur.channel_graph.masks import masked
from secateur.channel_graph.outputs import TOLERANCE, distance, outputs_of, outputs_or_none, tensors_of
from secateur.channel_graph.surgery import apply_plan, check_fits
from secateur.channel_graph.unmixed import NORMALISATIONS
from secateur.errors import NetworkError, VerificationError
from secateur.modes import own_copies
from secateur.records import ChannelGroup, PruningPlan

MIXES_CHANNELS = (*NORMALISATIONS, nn.MultiheadAttention)


@dataclass(frozen=True)
class Verification:
    """What the comparison found.

    Attributes:
        largest_difference: of the outputs, each relative to its own largest number.
        tolerance: what is allowed.
        unchecked: groups that cannot be checked, with the reason; they took no part.
    """

    largest_difference: float
    tolerance: float
    unchecked: Mapping[str, str]


def verify_pruning(
    model: nn.Module, pruned: nn.Module, plan: PruningPlan, inputs: Any, *, tolerance: float = TOLERANCE
) -> Verification:
    """Check that `pruned` computes what `model` computes with the removed channels masked.

    Formula: max_k max |f_pruned(x)_k - f_masked(x)_k| / max |f_masked(x)_k| <= tolerance over the network's outputs k,
    in eval mode, without gradients. One that is smaller than 1e-3 of the largest is compared with these: further down
    float32 rounds away what it is made of.

    The weights that both share must be the same: verify right after `apply_plan`, before batch norm is recalibrated or
    anything is trained. Groups that pass through a normalisation over channels (layer norm, group norm) change its
    statistics when they shrink, and attention then divides by another sqrt(head_dim); they cannot be checked and are
    left dense on both sides of the comparison. `pruned` itself is then compared with a second surgery by the whole
    plan. Networks in half precision are compared by copies in float32, unless they insist on it.

    Args:
        inputs: one batch, preferably of real data: a tensor or a tuple of the network's arguments.

    Raises:
        VerificationError: the outputs differ; the message names the groups that differ when pruned alone.
        NetworkError: the network itself gives other outputs each time, or outputs that are not finite.
        PlanError: the plan is another network's.

    Cost: two forward passes, and where they differ two more for each group.

    Example:
        >>> from secateur.channel_graph import channel_groups
        >>> net, images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(2, 3, 8, 8)
        >>> groups = channel_groups(net, images)
        >>> plan = PruningPlan(tuple(groups.values()), {"0": (1, 2)}, "macs", 1.0, 0.5, 0.5)
        >>> verify_pruning(net, apply_plan(net, plan), plan, images).largest_difference < 1e-5
        True
    """
    check_fits(model, plan)
    unchecked = {g.name: reason for g in plan.groups if plan.removed(g.name) and (reason := mixes_channels(model, g))}
    checked = {name: channels for name, channels in plan.kept.items() if name not in unchecked}
    groups = {group.name: group for group in plan.groups}
    if unchecked and not distance(apply_plan(model, plan), pruned, inputs) <= tolerance:
        raise VerificationError("the pruned network does not compute what the plan's surgery on this network gives")
    found = difference(model, groups, checked, inputs, pruned=None if unchecked else pruned)
    if not found <= tolerance:
        check_repeats(model, inputs)
        alone = {
            name: difference(model, groups, {name: channels}, inputs)
            for name, channels in checked.items()
            if plan.removed(name)
        }
        blame = ", ".join(f"{name} ({off:.1e})" for name, off in alone.items() if not off <= tolerance)
        raise VerificationError(
            f"the pruned network differs from the masked one by {found:.1e} of an output's largest number "
            f"(allowed: {tolerance:.0e}); groups that differ when pruned alone: {blame or 'none'}"
        )
    return Verification(found, tolerance, unchecked)


def check_repeats(model: nn.Module, inputs: Any) -> None:
    """Refuse a network with which nothing can be compared.

    Raises:
        NetworkError: on the same inputs, in eval mode, it gives other outputs each time, or NaN or infinity; or what
            `check_leaves` raises.

    Example:
        >>> check_repeats(nn.Dropout(), torch.ones(3))  # which does nothing in eval mode
        >>> check_repeats(nn.ELU(float("inf")), -torch.ones(3))
        Traceback (most recent call last):
        ...
        secateur.errors.NetworkError: the network's outputs on the example inputs are NaN or infinite
    """
    check_leaves(model, inputs)
    apart = distance(model, model, inputs)
    if not math.isfinite(apart):
        raise NetworkError("the network's outputs on the example inputs are NaN or infinite")
    if apart > TOLERANCE:
        raise NetworkError(
            f"the network gives other outputs each time on the same inputs (they differ by {apart:.0e}), also in eval "
            "mode: make what is random in its forward, such as dropout or noise, depend on self.training"
        )


def check_leaves(model: nn.Module, inputs: Any) -> None:
    """Refuse a network that changes the inputs which it is given: what runs next would see others.

    Cost: a forward pass, on a copy of the inputs.

    Raises:
        NetworkError: it does, other than by what does nothing the second time, such as a ReLU in place.

    Example:
        >>> check_leaves(nn.ReLU(inplace=True), torch.ones(3))
        >>> check_leaves(nn.ELU(inplace=True), -torch.ones(3))
        Traceback (most recent call last):
        ...
        secateur.errors.NetworkError: the network changes its own inputs in place, so that each run sees others: \
let it work on a copy, by inplace=False in the normalisation in front or by x = x.clone()
    """
    given = own_copies(model, inputs)
    outputs_of(model, given)
    pairs = zip(tensors_of(given), tensors_of(inputs), strict=True)
    if not all(torch.allclose(left, before, rtol=0, atol=0, equal_nan=True) for left, before in pairs):
        raise NetworkError(
            "the network changes its own inputs in place, so that each run sees others: let it work on a copy, by "
            "inplace=False in the normalisation in front or by x = x.clone()"
        )


def mixes_channels(model: nn.Module, group: ChannelGroup) -> str:
    """Return why a group cannot be checked by masking, or the empty string."""
    for member in group.members:
        if member.axis is None and isinstance(module := model.get_submodule(member.layer), MIXES_CHANNELS):
            attention = isinstance(module, nn.MultiheadAttention)
            does = "divides by the root of the channels of a head" if attention else "normalises over channels"
            return f"cannot be checked: {member.layer} ({type(module).__name__}) {does}"
    return ""


def attends(model: nn.Module, group: ChannelGroup) -> bool:
    """Return whether the channels of a group are those of an attention layer, whose inputs cannot be masked."""
    layers = [model.get_submodule(member.layer) for member in group.members if member.axis is None]
    return any(isinstance(layer, nn.MultiheadAttention) for layer in layers)


def difference(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    inputs: Any,
    *,
    pruned: nn.Module | None = None,
    unmixed: bool = False,
) -> float:
    """Return the largest difference of the outputs, masked against removed, as `verify_pruning` measures it.

    Infinite where the pruned network cannot run at all. `pruned` is made here unless it is given. With `unmixed`
    normalisations over channels keep these apart, see `Unmixed`.
    """
    if pruned is None:
        pruned = _without(model, groups, kept)
    if pruned is None:
        return float("inf")
    with masked(model, groups, kept):
        return distance(model, pruned, inputs, unmixed=unmixed)


def runs(model: nn.Module, groups: Mapping[str, ChannelGroup], kept: Mapping[str, Sequence[int]], inputs: Any) -> bool:
    """Return whether the network still runs with only the channels `kept`, whatever it computes then."""
    pruned = _without(model, groups, kept)
    return pruned is not None and outputs_or_none(pruned, inputs) is not None


def _without(
    model: nn.Module, groups: Mapping[str, ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> nn.Module | None:
    """Return the network with only the channels `kept`, None where Torch-Pruning cannot cut it so."""
    decision = {name: tuple(channels) for name, channels in kept.items()}
    plan = PruningPlan(tuple(groups.values()), decision, "none", 0.0, 0.0, 0.0)
    try:
        return apply_plan(model, plan)
    except Exception:  # a user's layer that is cut or copied may raise anything
        return None
