"""The layers that read a group of channels, and what they ask of it: their equations, by the pass of some images.

A convolution or linear layer regresses its own output on the rows that it reads, about the means where it has an
intercept. Where a batch norm alone reads that output, errors count as they are seen behind it: times
gain = weight / sqrt(var + eps). Each block of a grouped convolution is a reader of its own. Layers through which
channels merely pass, such as depthwise convolutions, share nothing between them and read nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.criteria.reconstruction import Reading
from secateur.errors import DataError
from secateur.index_maps import Indices
from secateur.modes import device_of, evaluating
from secateur.records import ChannelGroup, Member
from secateur.regression import Layout, NormalEquations, Target, layout_of, reason_against, targets_of
from secateur.regression.layer_rows import input_rows, output_rows, positions_of

CHUNK = 2**23  # numbers of rows that are made at a time


def consumers(group: ChannelGroup) -> list[Member]:
    """Return the members of a group whose inputs its channels are."""
    return [member for member in group.members if member.role == "consumer"]


def readers_of(
    network: nn.Module, groups: Mapping[str, ChannelGroup], example: Tensor
) -> tuple[dict[str, Target], dict[str, str]]:
    """Return what is asked of each layer that reads channels of a group, and why some are asked nothing.

    Cost: one forward pass of `example`.
    """
    modules = dict(network.named_modules())
    members = {member.layer: member for group in groups.values() for member in consumers(group)}
    unread = {
        name: reason
        for name, member in members.items()
        if (reason := "a lone parameter is no layer" if member.axis is not None else reason_against(modules[name]))
    }
    solvable = [name for name in members if name not in unread]
    targets = targets_of(network, example.to(device_of(network)), solvable, at="layer")
    return targets, unread | {name: "no forward pass calls it as a layer" for name in solvable if name not in targets}


def bytes_for(module: nn.Module, classes: int) -> int:
    """Return how many bytes the equations of a layer fill, with so many classes beside its outputs."""
    blocks, unknowns, outputs = layout_of(module)
    return 8 * blocks * unknowns * (unknowns + outputs + classes)


def gather(
    network: nn.Module,
    targets: Mapping[str, Target],
    images: Sequence[Tensor],
    classes: Sequence[Tensor] | None,
    rows: int,
) -> dict[str, NormalEquations]:
    """Return the equations of each layer for its own output times the gain and, beside it, for the classes.

    Args:
        network: run in eval mode; left as it was.
        targets: the layers.
        images: batches (N, ...).
        classes: for each batch (N, L), zeros and ones; None for the outputs alone.
        rows: output positions of each layer, drawn at random, shared out over the batches by their size.

    Raises:
        DataError: a layer gives or reads NaN or infinite values; it is named.
    """
    device, total = device_of(network), sum(map(len, images))
    draws = {name: torch.Generator().manual_seed(0) for name in targets}
    equations = {}
    for name in targets:
        blocks, unknowns, outputs = layout_of(network.get_submodule(name))
        extra = 0 if classes is None else classes[0].shape[1]
        equations[name] = NormalEquations(Layout(blocks, unknowns, outputs + extra), device=device)

    def reader(name: str, place: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            size, share = positions_of(module, output), -(-rows * len(images[place]) // total)
            drawn = torch.arange(size) if size <= share else torch.randint(size, (share,), generator=draws[name])
            layout, gain = layout_of(module), targets[name].gain
            for positions in torch.split(drawn.to(device), max(1, CHUNK // (layout.blocks * layout.unknowns))):
                U = input_rows(module, inputs[0], output.shape, positions)
                T = output_rows(module, output, positions).double()
                if not bool(torch.isfinite(U).all() and torch.isfinite(T).all()):
                    raise DataError(f"layer {name!r} gives or reads NaN or infinite values on these images")
                E = (T if gain is None else T * gain).view(len(T), layout.blocks, -1).transpose(0, 1)
                if classes is not None:
                    marks = classes[place].to(device)[positions * len(images[place]) // size]
                    E = torch.cat([E, marks.double().expand(layout.blocks, -1, -1)], dim=2)
                equations[name].add(U, E)

        return hook

    for place, batch in enumerate(images):
        with ExitStack() as stack:
            for name in targets:
                stack.callback(network.get_submodule(name).register_forward_hook(reader(name, place)).remove)
            stack.enter_context(evaluating(network))
            stack.enter_context(torch.inference_mode())
            network(batch.to(device))
    return equations


def readings_of(
    equations: NormalEquations, module: nn.Module, target: Target, member: Member, labels: float
) -> Iterator[Reading]:
    """Yield for each block of a layer that reads channels of a group what it gives, per row.

    Args:
        equations: of the layer, from `gather`.
        module, target: the layer.
        member: which of its inputs the channels of the group are.
        labels: how many times the outputs' variation that of the classes shall be; 0 where there are none.
    """
    outputs = layout_of(module).outputs
    UU, UT, TT = equations.moments(intercept=target.can_shift(module))
    if labels:
        about, variation = equations.moments(intercept=True)[1:]
        scale = labels * variation[:, :outputs].sum(1) / variation[:, outputs:].sum(1)
        UT = torch.cat([UT[:, :, :outputs], about[:, :, outputs:] * scale.sqrt()[:, None, None]], dim=2)
        TT = torch.cat([TT[:, :outputs], variation[:, outputs:] * scale[:, None]], dim=1)
    for block, owned in enumerate(_columns(module, member)):
        if any(owned):
            n = equations.rows
            yield Reading(UU[block] / n, UT[block] / n, float(TT[block].sum()) / n, owned)


def is_uneven(module: nn.Module, member: Member) -> bool:
    """Return whether channels of a group own different numbers of the inputs of a block of a layer."""
    return any(len({len(columns) for columns in owned if columns}) > 1 for owned in _columns(module, member))


def _columns(module: nn.Module, member: Member) -> list[Indices]:
    """Return for each block of a layer which columns of its rows belong to each channel of the group."""
    blocks, unknowns, _ = layout_of(module)
    kernel = module.weight[0, 0].numel() if isinstance(module, _ConvNd) else 1
    inputs = unknowns // kernel
    return [
        tuple(
            tuple((p - first) * kernel + k for p in owned if first <= p < first + inputs for k in range(kernel))
            for owned in member.indices
        )
        for first in range(0, blocks * inputs, inputs)
    ]
