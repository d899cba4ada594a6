"""Read a layer's rows and its error off two networks that run on the same images: what is, and what should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.feature_maps import tapped
from secateur.hooks import sole_input
from secateur.modes import evaluating, own_copy
from secateur.regression.layer_rows import (
    draw_positions,
    input_rows,
    layout_of,
    output_rows,
    positions_of,
)
from secateur.regression.replay import Replay
from secateur.regression.targets import Target

PIECE = 2**24  # numbers of U that are made at a time
Receive = Callable[[str, Tensor], None]


class Sample(NamedTuple):
    """What one call of a layer gave on one batch: the positions that were drawn, (n,), and the values there, (n, C)."""

    positions: Tensor
    values: Tensor


Samples = dict[str, list[list[Sample]]]
"""Layer -> batch -> call."""


def sample_outputs(
    network: nn.Module,
    images: Sequence[Tensor],
    targets: Mapping[str, Target],
    *,
    rows: int | Mapping[str, int],
    seed: int = 0,
) -> Samples:
    """Return the values of each layer's target at positions drawn at random, about `rows` of a layer in all.

    Args:
        network: the one that is right.
        images: batches.
        targets: the layers to read.
        rows: positions of each layer, or layer -> positions, shared out over the batches by their size; where there are
            fewer, all.
        seed: draws the positions; a layer's are the same whichever layers are read beside it.

    Raises:
        DataError: a value is NaN or infinite; the layer is named.

    Cost: one forward pass over the images; 4 * rows * C bytes for a layer of C outputs, and 8 * rows for the positions.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> samples = sample_outputs(network, [torch.ones(4, 2)], {"0": Target("layer", None)}, rows=100)
        >>> samples["0"][0][0].values.shape
        torch.Size([4, 3])
    """
    total = sum(map(len, images))
    found: Samples = {name: [[] for _ in images] for name in targets}
    draws = {name: torch.Generator().manual_seed(seed) for name in targets}

    def receive(name: str, values: Tensor) -> None:
        module = network.get_submodule(name)
        asked = rows if isinstance(rows, int) else rows[name]
        size, share = positions_of(module, values), -(-asked * len(images[place]) // total)
        drawn = draw_positions(size, share, draws[name]).to(values.device)
        found[name][place].append(Sample(drawn, checked(name, output_rows(module, values, drawn))))

    for place in range(len(images)):
        with _watching(network, targets, receive):
            network(own_copy(network, images[place]))
    return found


def rows_of(
    network: nn.Module,
    layer: str,
    target: Target,
    images: Sequence[Tensor],
    samples: Sequence[Sequence[Sample]],
    *,
    replay: Replay | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, piece by piece, the rows that a layer reads, U (G, n, D), and what its outputs lack there, E (G, n, O).

    Args:
        network: the one that is not right yet; run until the layer's target is known, and no further.
        layer, target: what to read.
        images: the batches that `samples` were taken from.
        samples: this layer's values in the network that is right, (n, G * O): as many outputs as the layer has here.
        replay: of this network and these images, to run only what has changed.

    Raises:
        DataError: a value is NaN or infinite.

    Cost: a forward pass over the images, up to the target; with `replay`, from where the last one ended. Memory: what
    the layer reads of one batch, and `PIECE` numbers of U.

    Example:
        >>> right, other = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> images, target = [torch.eye(2)], Target("layer", None)
        >>> samples = sample_outputs(right, images, {"": target}, rows=9)
        >>> [(U, E)] = rows_of(other, "", target, images, samples[""])
        >>> torch.equal(U[0], torch.eye(2)), torch.allclose(other(U[0]) + E[0], right(U[0]).double())
        (True, True)
    """
    with nullcontext(lambda _: None) if replay is None else replay.before(layer) as at:
        for place, (batch, drawn) in enumerate(zip(images, samples, strict=True)):
            at(place)
            yield from _rows_of_batch(network, layer, target, batch, drawn)


def _rows_of_batch(
    network: nn.Module, layer: str, target: Target, batch: Tensor, drawn: Sequence[Sample]
) -> Iterator[tuple[Tensor, Tensor]]:
    module = network.get_submodule(layer)
    blocks, unknowns, _ = layout_of(module)
    read: list[tuple[Tensor, torch.Size]] = []
    errors: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        inputs = checked(layer, sole_input(args, kwargs)).clone()  # the network may go on to work on it in place
        read.append((inputs, output.shape))

    def receive(_layer: str, values: Tensor) -> None:
        if len(errors) < len(drawn):
            wanted = drawn[len(errors)]
            errors.append(target.error(checked(layer, output_rows(module, values, wanted.positions)), wanted.values))
        if len(errors) == len(drawn):
            raise _Enough

    handle = module.register_forward_hook(keep, with_kwargs=True)
    try:
        with _watching(network, {layer: target}, receive):
            network(own_copy(network, batch))
    except _Enough:
        pass
    finally:
        handle.remove()
    piece = max(1, PIECE // (blocks * unknowns))
    for (inputs, shape), sample, error in zip(read, drawn, errors, strict=True):
        for positions, E in zip(torch.split(sample.positions, piece), torch.split(error, piece), strict=True):
            yield input_rows(module, inputs, shape, positions), E.view(len(E), blocks, -1).transpose(0, 1)


class _Enough(Exception):  # noqa: N818  # it tells of no error
    """All that was asked for has been seen."""


@contextmanager
def _watching(network: nn.Module, targets: Mapping[str, Target], receive: Receive) -> Iterator[None]:
    """In the block, the network is in eval mode without gradients, and hands over each target's values."""
    with ExitStack() as stack:
        for name, target in targets.items():
            if target.at == "layer":
                hook = network.get_submodule(name).register_forward_hook(
                    lambda _module, _inputs, output, name=name: receive(name, output)
                )
                stack.callback(hook.remove)
        summed = [name for name, target in targets.items() if target.at == "sum"]
        if summed:
            stack.enter_context(tapped(network, receive, layers=summed, tap="sum"))
        stack.enter_context(evaluating(network))
        stack.enter_context(torch.no_grad())
        yield


def checked(layer: str, values: Tensor) -> Tensor:
    """Return the values that a layer gives or reads; refuse NaN and infinity in its name."""
    if not bool(torch.isfinite(values).all()):
        raise DataError(f"layer {layer!r} gives or reads NaN or infinite values on these images")
    return values
