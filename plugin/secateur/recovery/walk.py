"""Go through the layers of a network that is not right yet, in order, and ask of each what it should change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from secateur.errors import ConfigError, DataError
from secateur.modes import device_of
from secateur.recovery.affected import outputs_of
from secateur.regression import (
    Layout,
    NormalEquations,
    Replay,
    Rows,
    Solution,
    Target,
    layout_of,
    regression,
    rows_of,
    rows_that_fit,
    sample_outputs,
    weight_rows,
    write_weight,
)
from secateur.regression.reading import Sample

OnLayer = Callable[[str, int, int], None]


def _narrowed(samples: Sequence[Sequence[Sample]], outputs: Tensor | None) -> list[list[Sample]]:
    """Return samples of a layer with some of its outputs alone."""
    if outputs is None:
        return [list(batch) for batch in samples]
    return [[Sample(s.positions, s.values[:, outputs.to(s.values.device)]) for s in batch] for batch in samples]


def _rows_for(layer: str, layout: Layout, calls: int, rows: int, memory: int) -> int:
    """Return how many positions of a layer to read: as many as asked for, or as its equations take in."""
    try:
        room = rows_that_fit(layout, memory=memory)
    except DataError as error:
        raise DataError(f"layer {layer!r}: {error}") from error
    return rows if room is None else max(1, min(rows, room // calls))


def _chunks(
    targets: Mapping[str, Target], network: nn.Module, rows: Mapping[str, int], memory: int
) -> Iterator[list[str]]:
    """Yield the layers in order, as many at a time as have their samples fit into `memory` bytes; one at least."""
    chunk: list[str] = []
    size = 0
    for name, target in targets.items():
        need = rows[name] * target.calls * (8 + 4 * outputs_of(network.get_submodule(name)))
        if chunk and size + need > memory:
            yield chunk
            chunk, size = [], 0
        chunk.append(name)
        size += need
    if chunk:
        yield chunk


@dataclass(frozen=True)
class Step:
    """One layer of a walk: its equations, for what its outputs lack in the network as it is now.

    Attributes:
        layer: its name.
        target: where its error is measured.
        samples: what the target should be.
        equations: of the error by the rows that the layer reads.
    """

    layer: str
    target: Target
    samples: Sequence[Sequence[Sample]]
    equations: NormalEquations | Rows

    def solve(self, module: nn.Module, *, ridge: float, equations: NormalEquations | Rows | None = None) -> Solution:
        """Return the change of the weights of the layer, `module`, by its equations or by what was made of them.

        Raises:
            ConfigError: the ridge is too small for this layer.
        """
        try:
            return (equations or self.equations).solve(ridge=ridge, intercept=self.target.can_shift(module))
        except ConfigError as error:
            raise ConfigError(f"layer {self.layer!r}: {error}") from error

    def put(self, module: nn.Module, change: Tensor, intercept: Tensor) -> None:
        """Add a change (G, D, O) to the weights of the layer, `module`, and a constant (G, O) to its outputs."""
        write_weight(module, weight_rows(module) + change)
        self.target.shift(module, intercept.flatten())


def walk(
    right: nn.Module,
    network: nn.Module,
    todo: Mapping[str, Target],
    images: Sequence[Tensor],
    *,
    rows: int,
    memory: int,
    outputs: Mapping[str, Tensor] | None = None,
    on_layer: OnLayer | None = None,
) -> Iterator[Step]:
    """Yield the layers of `todo` one by one; what the caller changes in a layer, the later ones see.

    Args:
        right: the network whose values are wanted.
        network: the one that is walked through. Between two steps only the layer of the first may change, and what
            runs behind it.
        todo: the layers in the order in which they run.
        images: batches.
        rows: output positions that are read of each layer.
        memory: bytes for the wanted values, the outputs kept for the next layer, and the equations.
        outputs: layer -> which outputs of the layer in `right` it has in `network`; absent: all.
        on_layer: called with the layer's name, how many are done and how many there are, before each.

    Raises:
        DataError: values that are NaN or infinite, or a layer whose equations do not fit.
    """
    replay = Replay(network, images, memory=memory // 4)
    layouts = {name: layout_of(network.get_submodule(name)) for name in todo}
    asked = {name: _rows_for(name, layouts[name], target.calls, rows, memory // 2) for name, target in todo.items()}
    done = 0
    for chunk in _chunks(todo, right, asked, memory // 4):
        wanted = sample_outputs(right, images, {name: todo[name] for name in chunk}, rows=asked)
        for name in chunk:
            if on_layer is not None:
                on_layer(name, done, len(todo))
            samples = _narrowed(wanted.pop(name), (outputs or {}).get(name))
            equations = regression(layouts[name], device=device_of(network), memory=memory // 2)
            for U, E in rows_of(network, name, todo[name], images, samples, replay=replay):
                equations.add(U, E)
            yield Step(name, todo[name], samples, equations)
            done += 1
