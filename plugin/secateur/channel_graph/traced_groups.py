"""The groups of Torch-Pruning's dependency graph, as records."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch_pruning as tp
from torch import nn
from torch.nn.modules.conv import _ConvNd

from secateur.channel_graph.host_graph import HostGraph
from secateur.records import ChannelGroup, Member, Role

PRODUCERS = (_ConvNd, nn.Linear)


def groups_of(
    graph: HostGraph, model: nn.Module, *, failed: dict[str, str] | None = None
) -> Iterator[tuple[Any, ChannelGroup]]:
    """Yield every group of Torch-Pruning's graph of `model`, beside its record in the network's order.

    `failed` gets the layers at whose channels Torch-Pruning fails, with the reason; they have no group.
    """
    order = {name: rank for rank, (name, _) in enumerate(model.named_modules())}
    seen: set[nn.Module] = set()
    for module in [node for node in graph.module2node if isinstance(node, PRODUCERS)]:
        if module in seen:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                group = _group_at(graph, module)
        except Exception as error:  # it follows channels by index, and trips in many ways
            lost = {module} | (graph.met - seen if isinstance(error, RecursionError) else set())
            seen |= lost
            if failed is not None:
                names = [graph._module2name[layer] for layer in lost if isinstance(layer, PRODUCERS)]
                reason = f"Torch-Pruning cannot follow its channels ({type(error).__name__}: {error})"
                failed |= dict.fromkeys(sorted(names, key=order.__getitem__), reason)
            continue
        seen.update(dep.target.module for dep, _ in group.items if graph.is_out_channel_pruning_fn(dep.handler))
        yield group, _in_network_order(record_group(group), order)


def _group_at(graph: Any, module: nn.Module) -> Any:
    """Return the group of a layer's outputs, rooted at a layer that has each of its channels once.

    Behind an unflatten, or where a chunk is multiplied by another, several outputs of the layer are one channel. Asked
    from there Torch-Pruning follows each alone, and keeps the first.
    """
    cut = graph.get_pruner_of_module(module).prune_out_channels
    for dep, idxs in graph.get_pruning_group(module, cut, [0]).items:
        if len(idxs) == 1 and isinstance(dep.target.module, PRODUCERS):
            group = _whole(graph, dep.target.module, dep.handler)
            own = [idxs for dep, idxs in group.items if dep.target.module is module and dep.handler == cut]
            if own and len(set(own[0])) == graph.get_out_channels(module):
                return group
    return _whole(graph, module, cut)


def _whole(graph: Any, layer: Any, cut: Any) -> Any:
    """Return the group of all channels that a pruning function cuts of a layer."""
    pruner = graph.get_pruner_of_module(layer)
    size = pruner.get_out_channels(layer) if graph.is_out_channel_pruning_fn(cut) else pruner.get_in_channels(layer)
    return graph.get_pruning_group(layer, cut, list(range(size)))


def groups_behind_splits(
    graph: HostGraph, model: nn.Module, record: ChannelGroup
) -> Iterator[tuple[Any, ChannelGroup]]:
    """Yield what a group may be where it is split into equal parts: the channels that lie alike in them are one.

    A chunk divides what is left, so each part must lose as many channels. From which of the group's layers all parts
    can be followed is not known; the groups of all are yielded, beside their records.

    Args:
        graph: of `model`.
        record: a group of it.
    """
    order = {name: rank for rank, (name, _) in enumerate(model.named_modules())}
    for member in record.producers:
        layer = model.get_submodule(member.layer)
        try:
            group = _whole(graph, layer, graph.get_pruner_of_module(layer).prune_out_channels)
        except Exception:  # as in `groups_of`
            continue
        blocks = [blocks_of(item.dep.target.module) for item in group.items]
        for parts in sorted(graph.equal_parts_in(group)):
            count = math.lcm(parts, *blocks)
            if len(group[0].idxs) % count == 0:
                yield group, _in_network_order(record_group(group, blocks=count), order)


def unmet(graph: Any) -> list[str]:
    """Return the convolutions and linear layers that the trace has not met, but for those inside of a layer it has."""
    met = {graph._module2name.get(module) for module in graph.module2node}

    def inside(name: str) -> bool:
        return any(known == name or (known and name.startswith(f"{known}.")) for known in met)

    return [name for module, name in graph._module2name.items() if isinstance(module, PRODUCERS) and not inside(name)]


def layers_sharing_weights(model: nn.Module) -> dict[str, list[str]]:
    """Return for each module with parameters that others own as well the names of all of these, in their order."""
    owners: dict[nn.Parameter, dict[str, None]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, {})[name] = None
    return {name: [*names] for names in owners.values() if len(names) > 1 for name in names}


def record_group(group: tp.dependency.Group, *, blocks: int | None = None) -> ChannelGroup:
    """Return a Torch-Pruning group, whole or partial, as a record.

    Channel k of the record is the k-th index of the group's root, `group[0].idxs[k]`; where a grouped convolution, a
    group norm or attention of G blocks is involved, it is the k-th offset within every block. `blocks` sets G by hand.
    """
    graph: Any = group._DG
    count = max(blocks_of(item.dep.target.module) for item in group.items) if blocks is None else blocks
    width = max(1, len(group[0].idxs) // count)
    channel_of = {root: k % width for k, root in enumerate(group[0].idxs)}
    members = []
    for item in group.items:
        name, axis = _locate(graph, item.dep.target)
        if name is None or getattr(item.dep.target.module, "num_parameters", 0) == 1:  # one slope for all channels
            continue
        owned: list[list[int]] = [[] for _ in range(width)]
        for position, root in zip(item.idxs, item.root_idxs, strict=True):
            owned[channel_of[root]].append(int(position))
        members.append(Member(name, _role(graph, item.dep), tuple(tuple(sorted(p)) for p in owned), axis))
    root_name, _ = _locate(graph, group[0].dep.target)
    return ChannelGroup(str(root_name), width, tuple(members))


def reaches_outputs(group: tp.dependency.Group) -> bool:
    """Return whether the channels of a Torch-Pruning group are among the network's outputs."""
    graph: Any = group._DG
    return any(
        graph.is_out_channel_pruning_fn(dep.handler)
        and (not dep.target.outputs or dep.target.type == tp.ops.OPTYPE.OUTPUT)
        for dep, _ in group.items
    )


def blocks_of(module: Any) -> int:
    """Return into how many blocks a layer divides its channels, 1 where it does not, or each is one (depthwise).

    Example:
        >>> [blocks_of(layer) for layer in (nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, groups=4), nn.Linear(8, 8))]
        [2, 4, 1]
        >>> blocks_of(nn.MultiheadAttention(8, 2))  # its heads
        2
    """
    if isinstance(module, nn.MultiheadAttention):
        return int(module.num_heads)
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    return module.groups if isinstance(module, _ConvNd) and module.groups < module.out_channels else 1


def _locate(graph: Any, node: Any) -> tuple[str | None, int | None]:
    """Return the name of the layer or lone parameter at a node, and the parameter's axis; None for mere operations."""
    if isinstance(node.module, nn.Parameter):
        return graph._param_to_name.get(node.module), node.pruning_dim
    return graph._module2name.get(node.module), None


def _role(graph: Any, dep: Any) -> Role:
    if not graph.is_out_channel_pruning_fn(dep.handler):
        return "consumer"
    return "producer" if isinstance(dep.target.module, PRODUCERS) else "carrier"


def _in_network_order(group: ChannelGroup, order: Mapping[str, int]) -> ChannelGroup:
    """Return the group with its members in the network's order, named after the first that makes all its channels."""
    members = sorted(group.members, key=lambda member: order.get(member.layer, len(order)))
    whole = [member.layer for member in members if member.role == "producer" and all(member.indices)]
    return ChannelGroup(whole[0] if whole else group.name, group.width, tuple(members))
