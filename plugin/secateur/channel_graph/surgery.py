"""Remove channels for good: the pruning plan applied to a copy of the network, layer by layer, by Torch-Pruning.

References:
    [Lin2020] M. Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.channel_graph.hosts import channels_of, cut
from secateur.channel_graph.masks import zero_outputs
from secateur.channel_graph.narrowing import removals
from secateur.channel_map import ChannelMap
from secateur.errors import NetworkError, PlanError
from secateur.modes import check_bare
from secateur.records import ChannelGroup, Member, PruningPlan, Role


@torch.inference_mode(False)
def apply_plan(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """Return a copy of `model` without the channels that `plan` removes; `model` itself is left as it is.

    The plan knows every layer dimension that its channels pass through, so nothing is traced again. Each of them is cut
    by Torch-Pruning's own pruning function for the layer's type. Kept weights, biases and batch statistics are copied
    exactly; channels of masked groups stay, as zeros. Parameters of the copy are new objects: an optimizer must be made
    after this call. The copy keeps the training mode and `requires_grad` of the original, not the channels_last memory
    layout.

    Args:
        model: the dense network that the plan was made for.
        plan: what to keep; groups without an entry keep everything.

    Raises:
        PlanError: the plan names a layer that the network does not have, an axis that a parameter does not have, or
            channels beyond the layer's size.

    Cost: one copy of the network, and one copy of each tensor that shrinks.

    Example:
        >>> from secateur.channel_graph import channel_groups
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> groups = channel_groups(net, torch.randn(2, 3, 8, 8))
        >>> plan = PruningPlan(tuple(groups.values()), {"0": (1, 2)}, "macs", 1.0, 0.5, 0.5)
        >>> pruned = apply_plan(net, plan)
        >>> [tuple(p.shape) for p in pruned.parameters() if p.ndim == 4]
        [(2, 3, 3, 3), (4, 2, 3, 3)]
    """
    check_fits(model, plan)
    pruned = copy.deepcopy(model)
    for (layer, inputs, axis), positions in removals({g.name: g for g in plan.groups}, plan.kept).items():
        if axis is None:
            cut(pruned.get_submodule(layer), positions, inputs=inputs)
        else:
            _cut_parameter(pruned, layer, positions, axis=axis)
    zero_masked(pruned, plan)
    trainable = {name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)}
    for name, parameter in pruned.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(trainable[name])
    return pruned


def zero_masked(model: nn.Module, plan: PruningPlan) -> None:
    """Set to zero, in place, the channels that `plan` masks: those that go and cannot be removed.

    `apply_plan` does so once. Training gives such channels values again, so they are to be set to zero after each step
    of it, as the code of [Lin2020] does.

    Args:
        model: the dense network or the pruned one.
        plan: of its groups those that are masked count.

    Raises:
        PlanError: the network does not have such a layer, or not so many channels.

    Cost: proportional to the weights that become zero.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3))
        >>> group = ChannelGroup("0", 3, (Member("0", "masked", ((0,), (1,), (2,))),))
        >>> zero_masked(net, PruningPlan((group,), {"0": (1,)}, "macs", 6, 6, 6))
        >>> net(torch.ones(2)).count_nonzero().item()
        1
    """
    masked = [group for group in plan.groups if group.name in plan.masked]
    _check_members(model, masked)
    for group in masked:
        for member in group.members:
            positions = member.positions(plan.removed(group.name))
            zero_outputs(model.get_submodule(member.layer), positions, name=member.layer)


def check_fits(model: nn.Module, plan: PruningPlan) -> None:
    """Raise PlanError unless `model` has every layer that the plan speaks of, with as many channels."""
    _check_members(model, plan.groups)


def _check_members(model: nn.Module, groups: Iterable[ChannelGroup]) -> None:
    for member, size, needed in unfit_members(model, groups):
        if size is None:
            raise PlanError(f"the plan prunes {member.layer!r}, which this network does not have: it is another's plan")
        raise PlanError(
            f"the plan was made for a {member.layer!r} with at least {needed} channels on its {member.role} side; "
            f"this network's has {size}: it is another network's plan, or was applied already"
        )


def check_groups(model: nn.Module, groups: Mapping[str, ChannelGroup]) -> None:
    """Refuse channel groups that name layers, or positions in them, that the network does not have.

    Raises:
        NetworkError: the groups are those of another network.

    Example:
        >>> group = ChannelGroup("a", 1, (Member("a", "producer", ((0,),)),))
        >>> check_groups(nn.Sequential(nn.Linear(2, 2)), {"a": group})
        Traceback (most recent call last):
        secateur.errors.NetworkError: the groups are those of another network: it has no layer 'a'
    """
    for member, size, needed in unfit_members(model, groups.values()):
        if size is None:
            raise NetworkError(f"the groups are those of another network: it has no layer {member.layer!r}")
        raise NetworkError(
            f"the groups are those of another network: {member.layer!r} has {size} channels on its {member.role} "
            f"side, and they name its channel {needed - 1}"
        )


def unfit_members(model: nn.Module, groups: Iterable[ChannelGroup]) -> list[tuple[Member, int | None, int]]:
    """Return what groups name that `model` does not have: the member, its size there, and the size that it needs.

    Layers that do not exist come first; their size is None.

    Raises:
        PlanError: as `layer_size`.
        NetworkError: as `check_bare`.

    Example:
        >>> own = ((0,), (5,))
        >>> group = ChannelGroup("0", 2, (Member("0", "producer", own), Member("1", "consumer", own)))
        >>> found = unfit_members(nn.Sequential(nn.Linear(1, 2)), [group])
        >>> [(member.layer, size, needed) for member, size, needed in found]
        [('1', None, 6), ('0', 2, 6)]
    """
    check_bare(model)
    sizes = [(member, layer_size(model, member)) for group in groups for member in group.members]
    needed = [(m, size, 1 + max((p for owned in m.indices for p in owned), default=-1)) for m, size in sizes]
    unfit = [(member, size, least) for member, size, least in needed if size is None or least > size]
    return sorted(unfit, key=lambda found: found[1] is not None)


def layer_size(model: nn.Module, member: Member) -> int | None:
    """Return how many positions the member's dimension has in `model`, None where the layer does not exist.

    Raises:
        PlanError: the member's axis is none of the parameter's.
    """
    try:
        if member.axis is not None:
            shape = model.get_parameter(member.layer).shape
            if not 0 <= member.axis < len(shape):
                raise PlanError(
                    f"the plan cuts axis {member.axis} of {member.layer!r}, which has shape {tuple(shape)}: it is "
                    "another network's plan"
                )
            return shape[member.axis]
        module = model.get_submodule(member.layer)
    except AttributeError:
        return None
    return channels_of(module, inputs=member.role == "consumer")


def trouble_with(module: nn.Module, role: Role) -> str:
    """Return what a layer is that cannot be cut or masked in this role, or the empty string.

    Example:
        >>> trouble_with(nn.LSTM(8, 5), "consumer"), trouble_with(nn.Linear(8, 5), "consumer")
        ('of type LSTM, whose inputs cannot be masked', '')
    """
    if isinstance(module, _ConvTransposeNd) and module.groups > 1:
        depthwise = module.in_channels == module.groups == module.out_channels
        if not depthwise:  # Torch-Pruning takes the weight for (C_in, C_out), which it is in one group alone
            return f"a transposed convolution of {module.groups} groups, which Torch-Pruning cannot cut"
    if role == "consumer" and not isinstance(module, (_ConvNd, nn.Linear, ChannelMap, nn.MultiheadAttention)):
        return f"of type {type(module).__name__}, whose inputs cannot be masked"
    return ""


def _cut_parameter(model: nn.Module, name: str, positions: set[int], *, axis: int) -> None:
    parent, _, attribute = name.rpartition(".")
    old = model.get_parameter(name)
    keep = [p for p in range(old.shape[axis]) if p not in positions]
    index = torch.tensor(keep, device=old.device)
    setattr(model.get_submodule(parent), attribute, nn.Parameter(old.detach().index_select(axis, index)))
