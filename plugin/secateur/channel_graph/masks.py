"""What removal means, without removing: the consumers of dropped channels stop listening to them.

Of a masked group, whose channels stay in the network also when a plan is applied, the dropped outputs themselves are
zero: the weights and bias of the layer, and those of the batch norm behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.channel_map import ZERO, ChannelMap
from secateur.errors import PlanError
from secateur.records import ChannelGroup, Member


@contextmanager
def masked(
    model: nn.Module, groups: Mapping[str, ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> Iterator[nn.Module]:
    """Within the block, `model` computes what it will compute once only the channels `kept` are left.

    The weights with which consumers read a dropped channel, and those with which a masked layer writes one, are zero
    inside the block and restored when it ends. This equals removal whatever lies between producer and consumer (batch
    norm, an activation that does not map zero to zero, a shortcut, a gate), as long as the channels stay apart on the
    way; a normalisation over channels mixes them.

    Args:
        model: the dense network; its weights are changed in place for the duration of the block.
        groups: channel groups by name.
        kept: group name -> channels that stay; groups that are absent keep all.

    Raises:
        PlanError: an unknown group, a channel out of range, or a consumer whose inputs cannot be masked.

    Cost: a copy of the masked weights; no forward pass.

    Example:
        >>> from secateur.channel_graph import channel_groups
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> groups = channel_groups(net, torch.randn(2, 3, 8, 8))
        >>> with masked(net, groups, {"0": (1, 2)}):
        ...     print(int(net[2].weight.detach().abs().sum((0, 2, 3)).count_nonzero()))
        2
    """
    undo: list[Callable[[], object]] = []
    try:
        silence(model, groups, kept, undo=undo)
        yield model
    finally:
        for restore in reversed(undo):
            restore()


def silence(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    *,
    undo: list[Callable[[], object]] | None = None,
) -> None:
    """Mask `model` in place and for good, as `masked` does for a while.

    Args:
        model, groups, kept: as in `masked`.
        undo: gets, one by one, the functions that take it back, to be called in reverse.

    Raises:
        PlanError: as `masked`; what was masked before stays masked.

    Example:
        >>> from secateur.channel_graph import channel_groups
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> silence(net, channel_groups(net, torch.randn(2, 3, 8, 8)), {"0": (1, 2)})
        >>> net[2].weight.abs().sum((0, 2, 3)).count_nonzero().item()
        2
    """
    for name, channels in kept.items():
        for member, dropped in _dropped(groups, name, channels):
            turn_off = zero_outputs if member.role == "masked" else _silence
            restore = turn_off(model.get_submodule(member.layer), dropped, name=member.layer)
            if undo is not None:
                undo.append(restore)


def _dropped(
    groups: Mapping[str, ChannelGroup], name: str, channels: Sequence[int]
) -> Iterator[tuple[Member, list[int]]]:
    """Yield each consumer and masked layer of a group with the positions of the channels that do not stay."""
    if name not in groups:
        raise PlanError(f"no channel group {name!r}; known: {', '.join(groups)}")
    group, stay = groups[name], set(channels)
    if not stay <= set(range(group.width)):
        raise PlanError(f"the group {name!r} has the channels 0..{group.width - 1}; asked to keep {sorted(stay)}")
    gone = [c for c in range(group.width) if c not in stay]
    for member in group.members:
        if member.role in ("consumer", "masked") and (positions := member.positions(gone)):
            yield member, positions


def _silence(module: nn.Module, positions: list[int], *, name: str) -> Callable[[], object]:
    """Make a layer deaf to some of its inputs; return what makes it hear again."""
    if isinstance(module, ChannelMap):
        source, gone = module.source, set(positions)
        module.source = tuple(ZERO if c in gone else c for c in source)
        return lambda: setattr(module, "source", source)
    if isinstance(module, nn.Linear):
        axis, per_group = 1, module.in_features
    elif isinstance(module, _ConvTransposeNd):
        axis, per_group = 0, module.in_channels
    elif isinstance(module, _ConvNd):
        axis, per_group = 1, module.in_channels // module.groups
    else:
        raise PlanError(
            f"the inputs of {name!r} ({type(module).__name__}) cannot be masked; "
            "allowed: convolutions, linear layers and channel maps"
        )
    weight = module.weight.detach()
    columns = torch.tensor(sorted({p % per_group for p in positions}), dtype=torch.int64, device=weight.device)
    values = weight.index_select(axis, columns)
    weight.index_fill_(axis, columns, 0.0)
    return lambda: weight.index_copy_(axis, columns, values)


def zero_outputs(module: nn.Module, positions: list[int], *, name: str) -> Callable[[], object]:
    """Let a layer write zero to some of its outputs, in place; return what makes it write again.

    Args:
        module: a convolution, a linear layer or a batch norm.
        positions: of its outputs.
        name: of the layer, for the error.

    Raises:
        PlanError: another type of layer.

    Example:
        >>> layer = nn.Linear(1, 3)
        >>> write_again = zero_outputs(layer, [0, 2], name="layer")
        >>> layer(torch.ones(1)).count_nonzero().item()
        1
    """
    if isinstance(module, _ConvTransposeNd) or not isinstance(module, (_ConvNd, nn.Linear, _BatchNorm)):
        raise PlanError(
            f"the outputs of {name!r} ({type(module).__name__}) cannot be masked; "
            "allowed: convolutions that are not transposed, linear layers and batch norm"
        )
    undo = []
    for tensor in (module.weight, module.bias):
        if tensor is not None:
            values = tensor.detach()
            rows = torch.tensor(positions, dtype=torch.int64, device=values.device)
            undo.append((values, rows, values.index_select(0, rows)))
            values.index_fill_(0, rows, 0.0)
    return lambda: [values.index_copy_(0, rows, old) for values, rows, old in undo]
