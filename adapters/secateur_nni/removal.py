"""Removing what NNI's masks mask, by Torch-Pruning instead of NNI's ModelSpeedup.

ModelSpeedup traces networks by code that fails on current torch (nni/common/concrete_trace_utils/concrete_tracer.py,
line 958) unless it is given a graph, edits in place, leaves replaced layers in training mode, and where layers that
fall together are masked differently it removes less than was asked for, in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from secateur.channel_graph import apply_plan, channel_groups, verify_pruning
from secateur.channel_graph.streams import is_depthwise
from secateur.cost import MacsCost
from secateur.errors import PlanError
from secateur.records import ChannelGroup, ChannelGroups, Member, PruningPlan
from secateur_nni.completion import TIED_TO_OTHERS, untied
from secateur_nni.masks import Masks
from secateur_nni.wrapping import check_unwrapped


def apply_masks(model: nn.Module, masks: Masks, example_inputs: Any) -> nn.Module:
    """Return a copy of `model` without the channels that are masked; `model` itself is left as it is.

    The masks may be those of any NNI pruner. The result is verified: on the example inputs it computes what `model`
    computes once nothing reads the masked channels.

    Args:
        model: the network after `unwrap_model()`; its weights are dense.
        masks: what `compress()` returned.
        example_inputs: a tensor or a tuple of the network's arguments.

    Raises:
        NetworkError: the network is wrapped, or cannot be traced.
        PlanError: as `plan_of_masks`.
        VerificationError: the pruned network computes something else.

    Cost: a trace and two copies of the network, and some forward passes on the example.

    Example:
        >>> import torch
        >>> from secateur_nni import HRankPruner
        >>> net, x = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.rand(8, 1, 8, 8)
        >>> pruner = HRankPruner(net, [{"op_names": ["0"], "sparse_ratio": 0.5}], batches=[x])
        >>> _, masks = pruner.compress()
        >>> pruner.unwrap_model()
        >>> apply_masks(net, masks, x)[2]
        Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    plan = plan_of_masks(model, masks, example_inputs)
    pruned = apply_plan(model, plan)
    verify_pruning(model, pruned, plan, example_inputs)
    return pruned


def plan_of_masks(
    model: nn.Module, masks: Masks, example_inputs: Any, *, groups: ChannelGroups | None = None
) -> PruningPlan:
    """Return the plan that removes the channels which are masked, for `secateur.apply_plan`, `compensate` and others.

    Which channels go is read from the masks of convolutions and linear layers; where none of a group's has a mask, from
    those of the batch norms behind them. A bias goes with its weight.

    Args:
        model, masks, example_inputs: see `apply_masks`.
        groups: the groups that may lose channels; None for all that `channel_groups` finds.

    Raises:
        NetworkError: the network is wrapped, or cannot be traced.
        PlanError: the masks are of another network, mask parts of channels or all channels of a layer, mask different
            channels in layers that fall together, channels that cannot be removed, or what is not the weight of a layer
            where they leave its weight.

    Cost: a trace and some forward passes on the example.

    Example:
        >>> import torch
        >>> net, x = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3)), torch.rand(2, 1, 8, 8)
        >>> mask = torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 3, 3)
        >>> plan_of_masks(net, {"0": {"weight": mask, "bias": None}}, x)["0"]
        (0, 2)
    """
    check_unwrapped(model)
    masks = _by_first_name(model, masks)
    masked = {
        layer: _masked_rows(model, layer, targets["weight"]) for layer, targets in masks.items() if "weight" in targets
    }
    for layer, targets in masks.items():
        _check_beside(layer, targets, masked.get(layer, frozenset()))
    if groups is None:
        groups = channel_groups(model, example_inputs)
    gone = {name: _masked_channels(model, group, masked) for name, group in groups.items()}
    _check_nothing_left(groups, gone, masked)
    kept = {name: tuple(c for c in range(groups[name].width) if c not in lost) for name, lost in gone.items() if lost}
    cost = MacsCost(model, example_inputs, groups)
    after = cost({name: len(channels) for name, channels in kept.items()})
    return PruningPlan(
        tuple(groups.values()), kept, cost.name, cost({}), after, after, settings={"search": "NNI masks"}
    )


def _by_first_name(model: nn.Module, masks: Masks) -> Masks:
    """Return the masks of layers that the network holds under several names, of which NNI takes any, by the first."""
    first = {id(module): name for name, module in model.named_modules()}
    names = {name: first[id(module)] for name, module in model.named_modules(remove_duplicate=False)}
    return {names.get(layer, layer): targets for layer, targets in masks.items()}


def _masked_rows(model: nn.Module, layer: str, mask: Tensor | None) -> frozenset[int]:
    """Return the outputs of a layer whose weights are masked as a whole."""
    module = dict(model.named_modules()).get(layer)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        raise PlanError(f"the masks name {layer!r}, which is no layer with weights of this network")
    if mask is None:
        return frozenset()
    if mask.shape != weight.shape:
        raise PlanError(f"the mask of {layer!r} has the shape {tuple(mask.shape)}, its weight {tuple(weight.shape)}")
    rows = (mask != 0).flatten(1) if mask.ndim > 1 else (mask != 0)[:, None]
    if bool((rows.any(1) != rows.all(1)).any()):
        raise PlanError(f"the mask of {layer!r} masks parts of channels; only whole channels can be removed")
    return frozenset((~rows.any(1)).nonzero().flatten().tolist())


def _check_beside(layer: str, targets: Mapping[str, Tensor | None], rows: frozenset[int]) -> None:
    """Refuse masks of biases, inputs or outputs that removing the rows of the weight does not come to."""
    for target, mask in targets.items():
        if target == "weight" or mask is None:
            continue
        covered = rows if target == "bias" else frozenset()
        if not covered.issuperset((mask == 0).nonzero()[:, 0].tolist()):
            raise PlanError(
                f"the mask of {layer!r} masks its {target!r} where it leaves its weight, and a channel is removed with "
                "all that it has; allowed: masks of 'weight', and of 'bias' for channels whose weight is masked"
            )


def _masked_channels(model: nn.Module, group: ChannelGroup, masked: dict[str, frozenset[int]]) -> set[int]:
    """Return the channels of a group that all of its layers mask, each of them those that it has a part in."""
    writers = [m for m in group.producers if m.layer in masked]
    if writers:
        writers = [m for m in group.producers if m.layer in masked or not is_depthwise(model.get_submodule(m.layer))]
    members = writers + [m for m in group.members if m.role == "carrier" and m.layer in masked]
    found = [(member, _channels(group, member, masked.get(member.layer, frozenset()))) for member in members]
    lost = set().union(*(channels for _, channels in found))
    odd = [member.layer for member, channels in found if channels != {c for c in lost if member.indices[c]}]
    if odd:
        layers = ", ".join(member.layer for member in members)
        can = "FeatureMapPruner masks" if untied(model, group) else "complete_config_list ties"
        raise PlanError(
            f"layers that fall together are masked at different channels ({layers}; {odd[0]} masks fewer): "
            f"removal would not leave what the masks leave; {can} such layers alike"
        )
    if len(lost) == group.width:
        raise PlanError(f"the masks leave no channel of {group.name!r}; one must stay")
    return lost


def _channels(group: ChannelGroup, member: Member, rows: Iterable[int]) -> set[int]:
    """Return the channels of a group whose positions in a layer are among some rows."""
    among = set(rows)
    lost = {c for c, owned in enumerate(member.indices) if among.intersection(owned)}
    if any(not among.issuperset(member.indices[c]) for c in lost):
        raise PlanError(
            f"the mask of {member.layer!r} masks a part of the positions of a channel of {group.name!r}; all must go"
        )
    return lost


def _check_nothing_left(groups: ChannelGroups, gone: dict[str, set[int]], masked: dict[str, frozenset[int]]) -> None:
    """Refuse masks of channels that no group removes."""
    removed: dict[str, set[int]] = {}
    for name, lost in gone.items():
        for member in groups[name].members:
            if member.role != "consumer":
                removed.setdefault(member.layer, set()).update(member.positions(sorted(lost)))
    left = [layer for layer, rows in masked.items() if not rows <= removed.get(layer, set())]
    if left:
        reasons = "; ".join(f"{layer}: {groups.skipped.get(layer, TIED_TO_OTHERS)}" for layer in left)
        raise PlanError(f"masked channels cannot be removed ({reasons})")
