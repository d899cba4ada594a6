"""Residual streams: which layers write the same channels, and how each of them can be masked by itself.

Layers that a shortcut sums together write one stream. Its channels can be removed only in all of them at once. The code
of [Lin2020] does not do that: it sets the chosen filters of each convolution, and the same channels of the batch norm
behind it, to zero, layer by layer. The stream keeps its width, and what the shortcut carries stays.

References:
    [Lin2020] M. Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch_pruning as tp
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.channel_graph.hosts import is_frozen_norm
from secateur.channel_graph.surgery import layer_size
from secateur.channel_map import ChannelMap
from secateur.records import ChannelGroup, Member

SHIFTS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
"""Layers of which zero channels come out as others."""
OPERATIONS = (tp.ops._ElementWiseOp, tp.ops._ReshapeOp)


def writers_of(model: nn.Module, group: ChannelGroup) -> list[str]:
    """Return the layers that write the channels of a group; more than one make it a residual stream.

    Not the depthwise convolutions, which hand on what they read; but the channel maps, which bring what a narrower
    stream carries.
    """
    return [
        member.layer
        for member in group.members
        if member.axis is None
        and member.role != "consumer"
        and (member.role == "producer" or isinstance(model.get_submodule(member.layer), ChannelMap))
        and not is_depthwise(model.get_submodule(member.layer))
    ]


def masked_group(graph: tp.DependencyGraph, model: nn.Module, layer: str) -> ChannelGroup | str:
    """Return the group in which the channels of a layer are masked by themselves, or why they cannot be.

    Its members are the layer, and the batch norm that alone reads it, if there is one. Any other normalisation that
    reads it would give its zeros values again, and so would a batch norm beside further readers, which it serves too.

    Args:
        graph: of `model`.
    """
    module: Any = model.get_submodule(layer)
    size = layer_size(model, Member(layer, "masked", ()))
    names = {module: name for name, module in model.named_modules()}
    behind = graph.module2node[module].outputs
    shifting = [n for n in _readers(behind) if isinstance(n.module, SHIFTS) or is_frozen_norm(n.module)]
    norms = [node for node in behind if isinstance(node.module, _BatchNorm) and len(behind) == len(node.inputs) == 1]
    if size is None or size < 2:
        return "it has only one channel"
    if isinstance(module, _ConvTransposeNd):
        return "a transposed convolution cannot be masked by itself"
    if any(not node.module.affine for node in norms):
        return f"{names[norms[0].module]}, behind it, has no weight that could be zero"
    if len(norms) < len(shifting):
        reader = next(node.module for node in shifting if node not in norms)
        beside = " beside other layers" if len(behind) > 1 else ""
        return f"{names[reader]} ({type(reader).__name__}) reads it{beside} and would give zeros other values"
    channels = tuple((channel,) for channel in range(size))
    return ChannelGroup(
        layer, size, tuple(Member(name, "masked", channels) for name in (layer, *(names[n.module] for n in norms)))
    )


def _readers(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield nodes of Torch-Pruning's graph, in the place of operations on one tensor what reads their results."""
    for node in nodes:
        maps = [each for each in node.inputs if each.inputs or not isinstance(each.module, OPERATIONS)]
        if isinstance(node.module, OPERATIONS) and len(maps) == 1:  # what else it reads is made of parameters
            yield from _readers(node.outputs)
        else:
            yield node


def is_depthwise(module: nn.Module) -> bool:
    """Return whether a module is a depthwise convolution, which hands on the channels that it reads.

    Example:
        >>> is_depthwise(nn.Conv2d(4, 4, 3, groups=4)), is_depthwise(nn.Conv2d(4, 4, 3))
        (True, False)
    """
    return isinstance(module, _ConvNd) and 1 < module.groups == module.out_channels
