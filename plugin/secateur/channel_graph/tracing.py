"""Torch-Pruning's dependency graph of a network, and its groups as records."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from secateur.channel_graph.hosts import CHANNEL_MAP_PRUNER
from secateur.channel_graph.verify import tensors_of
from secateur.channel_map import ChannelMap
from secateur.errors import NetworkError
from secateur.modes import unwrapped
from secateur.records import ChannelGroup, Member, Role

PRODUCERS = (_ConvNd, nn.Linear)
QUANTIZED = tuple(
    f"torch.ao.{part}"
    for part in (
        "nn.qat",
        "nn.quantized",
        "nn.intrinsic.qat",
        "nn.intrinsic.quantized",
        "quantization.fake_quantize",
        "quantization.observer",
    )
)


def trace(model: nn.Module, inputs: tuple[Any, ...]) -> tp.DependencyGraph:
    """Return Torch-Pruning's dependency graph of `model`, which is left in eval mode.

    Raises:
        NetworkError: the network does not run on the inputs, or cannot be traced.
    """
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(
                model,
                example_inputs=inputs,
                output_transform=lambda outputs: tensors_of(outputs) or outputs,
                customized_pruners={ChannelMap: CHANNEL_MAP_PRUNER},
                verbose=False,
            )
    except Exception as error:
        try:
            model.eval()(*inputs)
        except Exception as own:  # Torch-Pruning tells of its second try, with the arguments in a tuple
            raise NetworkError(
                f"the network does not run on the example inputs in eval mode ({type(own).__name__}: {own})"
            ) from own
        raise NetworkError(
            f"Torch-Pruning cannot trace this network ({type(error).__name__}: {error}); prune by itself a part of it "
            "in which channels are neither shuffled nor sorted, such as a backbone"
        ) from error

    largest = max((max(parameter.shape, default=1) for parameter in model.parameters()), default=1)
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            dependency.index_mapping = _Bounded(dependency.index_mapping, 2 * largest)
    return graph


class _Bounded(list[Any]):
    """How indices of one layer become those of the next, refused where they are more than any layer has.

    Between the windows of a Swin transformer Torch-Pruning goes in circles, and in each of them indices multiply.
    """

    def __init__(self, mappings: Iterable[Any], most: int) -> None:
        super().__init__(mappings)
        self._most = most

    def __iter__(self) -> Iterator[Any]:
        return (mapping if mapping is None else self._checked(mapping) for mapping in super().__iter__())

    def _checked(self, mapping: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def mapped(indices: Any) -> Any:
            found = mapping(indices)
            if len(found) > self._most:
                raise IndexError(f"it makes {len(found)} indices of {len(indices)}, more than any layer has")
            return found

        return mapped


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy; refuse networks that cannot be copied, or whose weights are computed and so cannot be cut."""
    if unwrapped(model) is not model:
        raise NetworkError(
            f"the network is wrapped in {type(model).__name__}; give the network inside, `model.module`, whose names "
            "its layers have"
        )
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise NetworkError(
                f"the weights of layer {name!r} are computed by a parametrization (such as weight norm) and cannot be "
                "cut; first call torch.nn.utils.parametrize.remove_parametrizations on it"
            )
        if isinstance(module.__dict__.get("weight"), Tensor):  # neither a parameter nor a buffer
            raise NetworkError(
                f"the weights of layer {name!r} are computed each time by a hook, as the older weight_norm and "
                "spectral_norm and torch.nn.utils.prune do, and cannot be cut; first remove it: remove_weight_norm, "
                "remove_spectral_norm or prune.remove"
            )
        if type(module).__module__.startswith(QUANTIZED):
            raise NetworkError(
                f"the network is prepared for quantization: {name!r} is a {type(module).__name__} of torch.ao, which "
                "cannot be cut; prune the network first and prepare it afterwards"
            )
    try:
        return copy.deepcopy(model)
    except Exception as error:  # what the user's modules hold may refuse in any way
        raise NetworkError(
            f"this network cannot be copied ({type(error).__name__}: {error}); its modules must hold nothing that "
            "copy.deepcopy refuses, such as locks, open files or the weights of the older weight_norm"
        ) from error


def groups_of(
    graph: tp.DependencyGraph, model: nn.Module, *, failed: dict[str, str] | None = None
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
            if failed is not None:
                name, _ = _locate(graph, graph.module2node[module])
                failed[str(name)] = f"Torch-Pruning cannot follow its channels ({type(error).__name__}: {error})"
            continue
        seen.update(dep.target.module for dep, _ in group.items if graph.is_out_channel_pruning_fn(dep.handler))
        yield group, _in_network_order(record_group(group), order)


def _group_at(graph: Any, module: nn.Module) -> Any:
    """Return the group of a layer's outputs, rooted at a layer that has each of its channels once.

    Behind an unflatten, or where a chunk is multiplied by another, several outputs of the layer are one channel. Asked
    from there Torch-Pruning follows each alone, and keeps the first.
    """

    def whole(layer: Any, cut: Any) -> Any:
        pruner = graph.get_pruner_of_module(layer)
        size = pruner.get_out_channels(layer) if graph.is_out_channel_pruning_fn(cut) else pruner.get_in_channels(layer)
        return graph.get_pruning_group(layer, cut, list(range(size)))

    cut = graph.get_pruner_of_module(module).prune_out_channels
    first = graph.get_pruning_group(module, cut, [0])
    if len(first[0].idxs) > 1:
        for dep, idxs in first.items:
            if len(idxs) == 1 and isinstance(dep.target.module, PRODUCERS):
                group = whole(dep.target.module, dep.handler)
                own = [idxs for dep, idxs in group.items if dep.target.module is module and dep.handler == cut]
                if own and len(set(own[0])) == graph.get_out_channels(module):
                    return group
    return whole(module, cut)


def unmet(graph: Any) -> list[str]:
    """Return the convolutions and linear layers that the trace has not met, but for those inside of a layer it has."""
    met = {graph._module2name.get(module) for module in graph.module2node}

    def inside(name: str) -> bool:
        return any(known == name or (known and name.startswith(f"{known}.")) for known in met)

    return [name for module, name in graph._module2name.items() if isinstance(module, PRODUCERS) and not inside(name)]


def layers_sharing_weights(model: nn.Module) -> dict[str, set[str]]:
    """Return for each module with parameters that others own as well the names of all of these."""
    owners: dict[nn.Parameter, set[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, set()).add(name)
    return {name: names for names in owners.values() if len(names) > 1 for name in names}


def record_group(group: tp.dependency.Group, *, blocks: int | None = None) -> ChannelGroup:
    """Return a Torch-Pruning group, whole or partial, as a record.

    Channel k of the record is the k-th index of the group's root, `group[0].idxs[k]`; where a grouped convolution or a
    group norm of G blocks is involved, it is the k-th offset within every block. `blocks` sets G by hand.
    """
    graph: Any = group._DG
    count = _blocks(group) if blocks is None else blocks
    width = len(group[0].idxs) // count
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


def _blocks(group: tp.dependency.Group) -> int:
    """Return into how many blocks grouped convolutions and group norms divide the channels of a group."""
    blocks = 1
    for item in group.items:
        module = item.dep.target.module
        if isinstance(module, _ConvNd) and 1 < module.groups < module.out_channels:
            blocks = max(blocks, module.groups)
        elif isinstance(module, nn.GroupNorm):
            blocks = max(blocks, module.num_groups)
    return blocks


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
