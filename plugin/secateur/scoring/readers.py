"""The layers that read a group of channels, and what they ask of it: their equations, by the pass of some images.

A convolution or linear layer regresses its own output on the rows that it reads, about the means where it has an
intercept. Where a batch norm alone reads that output, errors count as they are seen behind it: times
gain = weight / sqrt(var + eps). Each block of a grouped convolution is a reader of its own. Layers through which
channels merely pass, such as depthwise convolutions, share nothing between them and read nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from secateur.hooks import sole_input
from secateur.modes import device_of, evaluating, own_copy
from secateur.records import ChannelGroup, Member
from secateur.regression import (
    LEFT_OUT,
    FewRows,
    Layout,
    NormalEquations,
    Target,
    columns_of,
    layout_of,
    reason_against,
    targets_of,
)
from secateur.regression.layer_rows import draw_positions, input_rows, output_rows, positions_of
from secateur.regression.reading import checked

CHUNK = 2**23  # numbers of rows that are made at a time
FEW = 4  # times as many inputs as rows, from which on a layer's rows are held themselves


class Sums(Protocol):
    """What takes in rows U (G, n, D) and outputs E (G, n, O)."""

    def add(self, U: Tensor, E: Tensor) -> None: ...


def consumers(group: ChannelGroup) -> list[Member]:
    """Return the members of a group whose inputs its channels are."""
    return [member for member in group.members if member.role == "consumer"]


def readers_of(
    network: nn.Module, groups: Mapping[str, ChannelGroup], example: Tensor
) -> tuple[dict[str, Target], dict[str, str]]:
    """Return what is asked of each layer that reads channels of a group, and why some are asked nothing.

    Cost: one forward pass of `example`.
    """
    names = dict.fromkeys(member.layer for group in groups.values() for member in consumers(group))
    unread = {name: reason for name in names if (reason := reason_against(network.get_submodule(name)))}
    solvable = [name for name in names if name not in unread]
    targets = targets_of(network, example.to(device_of(network)), solvable, at="layer")
    return targets, unread | {name: LEFT_OUT for name in solvable if name not in targets}


def bytes_for(module: nn.Module, classes: int, *, rows: int | None = None) -> int:
    """Return how many bytes the equations of a layer fill, with so many classes beside its outputs.

    `rows`: of a layer whose rows are held themselves.
    """
    layout = layout_with(module, classes)
    if rows is not None:
        return FewRows.bytes_for(layout, rows)
    return 8 * layout.blocks * layout.unknowns * (layout.unknowns + layout.outputs)


def few_rows(network: nn.Module, layers: Iterable[str], example: Tensor, *, images: int, rows: int) -> dict[str, int]:
    """Return the layers that read at most a `FEW`th as many rows as they have inputs, and how many they read.

    Args:
        network: run on `example`.
        layers: names.
        example: a small batch.
        images: how many there are in all.
        rows: output positions of each layer that are read at most, in each call.

    Cost: a forward pass.

    Example:
        >>> few_rows(nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 2)), ["1"], torch.zeros(2, 9), images=2, rows=100)
        {'1': 2}
    """
    found = dict.fromkeys(layers, 0)

    def count(name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found[name] += min(rows, positions_of(module, output) * images // len(example))

        return hook

    with ExitStack() as stack:
        for name in found:
            stack.callback(network.get_submodule(name).register_forward_hook(count(name)).remove)
        stack.enter_context(evaluating(network))
        stack.enter_context(torch.no_grad())
        network(own_copy(network, example))
    return {name: n for name, n in found.items() if FEW * n <= layout_of(network.get_submodule(name)).unknowns}


def layout_with(module: nn.Module, classes: int) -> Layout:
    """Return the layout of a layer with so many classes beside its outputs."""
    blocks, unknowns, outputs = layout_of(module)
    return Layout(blocks, unknowns, outputs + classes)


def gather(
    network: nn.Module, targets: Mapping[str, Target], images: Sequence[Tensor], rows: int
) -> dict[str, NormalEquations]:
    """Return the equations of each layer for its own output; see `fill`."""
    device = device_of(network)
    equations = {name: NormalEquations(layout_of(network.get_submodule(name)), device=device) for name in targets}
    fill(network, equations, images, None, rows, total=sum(map(len, images)))
    return equations


def fill(
    network: nn.Module,
    equations: Mapping[str, Sums],
    images: Sequence[Tensor],
    classes: Sequence[Tensor] | None,
    rows: int,
    *,
    total: int,
    seed: int = 0,
) -> None:
    """Add what layers read of the images, and their outputs there, to their equations.

    Args:
        network: run in eval mode; left as it was.
        equations: of each layer, for its own output and, beside it, for the classes.
        images: batches (N, ...).
        classes: for each batch (N, L), zeros and ones; None for the outputs alone.
        rows: output positions of each layer, drawn at random, shared out over the batches by their size.
        total: how many images `rows` are shared out over.
        seed: draws the positions.

    Raises:
        DataError: a layer gives or reads NaN or infinite values; it is named.
    """
    device = device_of(network)
    draws = {name: torch.Generator().manual_seed(seed) for name in equations}

    def reader(name: str, place: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            size, share = positions_of(module, output), -(-rows * len(images[place]) // total)
            drawn = draw_positions(size, share, draws[name])
            layout = layout_of(module)
            for positions in torch.split(drawn.to(device), max(1, CHUNK // (layout.blocks * layout.unknowns))):
                U = checked(name, input_rows(module, sole_input(args, kwargs), output.shape, positions))
                T = checked(name, output_rows(module, output, positions)).double()
                E = T.view(len(T), layout.blocks, -1).transpose(0, 1)
                if classes is not None:
                    marks = classes[place].to(device)[positions * len(images[place]) // size]
                    E = torch.cat([E, marks.double().expand(layout.blocks, -1, -1)], dim=2)
                equations[name].add(U, E)

        return hook

    for place, batch in enumerate(images):
        with ExitStack() as stack:
            for name in equations:
                stack.callback(
                    network.get_submodule(name).register_forward_hook(reader(name, place), with_kwargs=True).remove
                )
            stack.enter_context(evaluating(network))
            stack.enter_context(torch.no_grad())
            network(own_copy(network, batch))


def is_uneven(module: nn.Module, member: Member) -> bool:
    """Return whether channels of a group own different numbers of the inputs of a block of a layer."""
    return any(len({len(columns) for columns in owned if columns}) > 1 for owned in columns_of(module, member.indices))
