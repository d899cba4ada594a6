"""Torch-Pruning's own pruning functions, layer by layer, and two more: for channel maps and for frozen batch norms."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
import torch_pruning as tp
from torch import nn
from torch.nn.modules.conv import _ConvNd

from secateur.channel_map import ZERO, ChannelMap


class ChannelMapPruner(tp.pruner.function.BasePruningFunc):
    """Cuts a `ChannelMap`: outputs are dropped; outputs that copied a dropped input become zero."""

    def __init__(self) -> None:
        self.pruning_dim = 1  # all that the base class sets, and it is not typed

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        layer.source = tuple(c for o, c in enumerate(layer.source) if o not in set(idxs))
        return cast(nn.Module, layer)

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        kept = [c for c in range(layer.in_channels) if c not in set(idxs)]
        place = {c: position for position, c in enumerate(kept)}
        layer.source = tuple(place.get(c, ZERO) for c in layer.source)
        layer.in_channels = len(kept)
        return cast(nn.Module, layer)

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.out_channels)

    def get_in_channels(self, layer: Any) -> int:
        return int(layer.in_channels)


class FrozenNormPruner(tp.pruner.function.BasePruningFunc):
    """Cuts a batch norm of buffers alone, such as torchvision's `FrozenBatchNorm2d`."""

    def __init__(self) -> None:
        self.pruning_dim = 0

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        gone = set(idxs)
        for name, values in layer.named_buffers():
            kept = [c for c in range(len(values)) if c not in gone]
            setattr(layer, name, values[torch.tensor(kept, dtype=torch.long, device=values.device)])
        return cast(nn.Module, layer)

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        return len(layer.weight)

    get_in_channels = get_out_channels


CHANNEL_MAP_PRUNER = ChannelMapPruner()
FROZEN_NORM_PRUNER = FrozenNormPruner()


def is_frozen_norm(module: nn.Module) -> bool:
    """Return whether a module is a batch norm of buffers alone: that of torchvision's detectors, or one like it.

    Example:
        >>> frozen = nn.Module()
        >>> for name in ("weight", "bias", "running_mean", "running_var"):
        ...     frozen.register_buffer(name, torch.ones(3))
        >>> is_frozen_norm(frozen), is_frozen_norm(nn.BatchNorm2d(3))
        (True, False)
    """
    buffers = {name for name, _ in module.named_buffers()}
    return next(module.parameters(), None) is None and buffers == {"weight", "bias", "running_mean", "running_var"}


def own_pruners(model: nn.Module) -> dict[Any, Any]:
    """Return for each type of layer that Torch-Pruning does not know the object that cuts it, as its trace takes it."""
    frozen = {type(module): FROZEN_NORM_PRUNER for module in model.modules() if is_frozen_norm(module)}
    return {ChannelMap: CHANNEL_MAP_PRUNER, **frozen}


def pruner_of(module: nn.Module) -> Any:
    """Return the object that cuts and measures a layer of this type, None where there is none.

    A convolution with one output and several inputs per block, which cutting may leave, is none of the depthwise ones
    for which Torch-Pruning takes it.
    """
    if isinstance(module, ChannelMap):
        return CHANNEL_MAP_PRUNER
    if is_frozen_norm(module):
        return FROZEN_NORM_PRUNER
    if isinstance(module, _ConvNd) and 1 < module.groups < module.in_channels:
        return tp.pruner.function.PrunerBox[tp.ops.OPTYPE.CONV]
    return tp.pruner.function.PrunerBox.get(tp.ops.module2type(module))


def channels_of(module: nn.Module, *, inputs: bool) -> int | None:
    """Return how many channels Torch-Pruning counts on one side of a layer, None where it cannot cut the layer."""
    pruner = pruner_of(module)
    if pruner is None:
        return None
    size = pruner.get_in_channels(module) if inputs else pruner.get_out_channels(module)
    return None if size is None else int(size)


def cut(module: nn.Module, positions: Collection[int], *, inputs: bool) -> None:
    """Remove channels from one side of a layer, in place."""
    pruner = pruner_of(module)
    remove = pruner.prune_in_channels if inputs else pruner.prune_out_channels
    remove(module, sorted(positions))
