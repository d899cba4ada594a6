"""The time of a layer as a function of its widths: a grid of measured widths, made non-decreasing, interpolated.

Runtimes compute channels in blocks: on a CPU with 512-bit vectors, 24 channels take as long as 32. Where the grid is
dense enough to show such blocks, widths between its knots count as the next full block.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secateur.errors import ConfigError, DataError
from secateur_onnx.latency.geometry import Geometry
from secateur_onnx.latency.layer_nodes import Pair
from secateur_onnx.latency.layer_times import SOURCE

DENSE_KNOTS = 8  # so many multiples are all measured; beyond them PER_OCTAVE between each power of two and the next
PER_OCTAVE = (2, 1)  # the second where the weights of the first would need more than LARGEST bytes
LARGEST = 2**29
FLAT = 0.25  # a rise within a block below this share of the rise from block to block is none


class Memory(Protocol):
    """Where measurements are kept; `secateur.journal.Journal` is one."""

    def measurements(
        self, names: Sequence[str], measure: Callable[[], Sequence[float]], *, unit: str = ""
    ) -> list[float]:
        """Return the numbers stored under `names`; where any is missing, measure all of them and store them."""
        ...


@dataclass
class Remembered:
    """Measurements kept in memory, where there is no journal.

    Example:
        >>> memory = Remembered()
        >>> memory.measurements(["a"], lambda: [1.0]), memory.measurements(["a"], lambda: [2.0])
        ([1.0], [1.0])
    """

    values: dict[str, float] = field(default_factory=dict)

    def measurements(
        self, names: Sequence[str], measure: Callable[[], Sequence[float]], *, unit: str = ""
    ) -> list[float]:
        """Return the numbers stored under `names`, or measure and store them; the `unit` is not kept."""
        del unit
        if any(name not in self.values for name in names):
            self.values.update(zip(names, measure(), strict=True))
        return [self.values[name] for name in names]


@dataclass(frozen=True)
class LayerTable:
    """Times of one layer at a grid of widths.

    Attributes:
        inputs, outputs: the knots, ascending; one 0 for the inputs of a depthwise layer.
        times: (inputs, outputs), milliseconds, non-decreasing along both.
        blocks: what widths between the knots are rounded up to, inputs and outputs; 1: nothing.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    times: NDArray[np.float64]
    blocks: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, inputs: Sequence[int], outputs: Sequence[int], times: Sequence[float], *, step: int) -> LayerTable:
        """Return the table of times as measured, row by row; `step` lies between neighbours of the first knots.

        Raises:
            DataError: a time that is not positive and finite.
        """
        grid = np.asarray(times, dtype=np.float64).reshape(len(inputs), len(outputs))
        if not (np.isfinite(grid).all() and (grid > 0).all()):
            raise DataError("the time of a layer must be positive and finite")
        grid = np.maximum.accumulate(np.maximum.accumulate(grid, axis=0), axis=1)
        blocks = _block(inputs, grid[:, -1], step), _block(outputs, grid[-1], step)
        return cls(tuple(inputs), tuple(outputs), grid, blocks)

    def __call__(self, inputs: int, outputs: int) -> float:
        """Return the time in milliseconds: bilinear between the knots; below the first and above the last, theirs."""
        inputs = _filled(inputs, self.inputs, self.blocks[0])
        outputs = _filled(outputs, self.outputs, self.blocks[1])
        column = [np.interp(outputs, self.outputs, row) for row in self.times]
        return float(np.interp(inputs, self.inputs, column))


def knots(width: int, step: int, *, per_octave: int = PER_OCTAVE[0]) -> tuple[int, ...]:
    """Return the widths up to `width` that are measured: multiples of `step`, few of the large ones, and `width`.

    Example:
        >>> knots(20, 8), knots(3, 8), knots(256, 8)
        ((8, 16, 20), (3,), (8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 192, 256))
    """
    multiples = range(1, -(-width // step))
    return (
        *(n * step for n in multiples if n <= DENSE_KNOTS or n % (2 ** int(math.log2(n)) // per_octave) == 0),
        width,
    )


def _block(widths: Sequence[int], times: NDArray[np.float64], step: int) -> int:
    """Return the widest block, 4 or 2 steps, within which the time does not rise; 1 where there is none.

    Read off the knots that are neighbouring multiples of `step`, of which at least two blocks must be there.
    """
    known = dict(zip(widths, times.tolist(), strict=True))
    multiples = itertools.takewhile(known.__contains__, itertools.count(step, step))
    close = [known[width] for width in multiples]
    for size in (4, 2):
        ends = close[size - 1 :: size]
        starts = close[size::size][: len(ends) - 1]
        if len(ends) > 1 and all(
            end - start <= FLAT * (end - before) for before, start, end in zip(ends, starts, ends[1:], strict=False)
        ):
            return size * step
    return 1


def _filled(width: int, knots: Sequence[int], block: int) -> int:
    """Return the width, rounded up to a full block where it lies between knots, but not past the next of them.

    A wider layer that was measured itself would else seem faster than a narrower one that was not.

    Example:
        >>> [_filled(width, (32, 40, 64), 32) for width in (32, 33, 41)]
        [32, 40, 64]
    """
    if width in knots:
        return width
    above = bisect.bisect(knots, width)
    full = -(-width // block) * block
    return min(full, knots[above]) if above < len(knots) else full


@dataclass(frozen=True)
class Grid:
    """Which widths of one layer are measured, and how many steps its widths go in."""

    geometry: Geometry
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    step: int
    each: int = 1

    @classmethod
    def of(cls, geometry: Geometry, widths: Iterable[Pair], round_to: int) -> Grid:
        """Return the grid for layers of one geometry whose dense widths are `widths`."""
        dense = list(widths)
        inputs, outputs = (max(pair[side] for pair in dense) for side in (0, 1))
        each = outputs // inputs if geometry.depthwise else 1
        step = math.lcm(round_to, geometry.groups, each)
        narrow = {before for before, _ in dense if before <= SOURCE}  # read the network's input itself
        for per_octave in PER_OCTAVE:
            grid = cls(
                geometry,
                (0,) if geometry.depthwise else tuple(sorted({*knots(inputs, step, per_octave=per_octave), *narrow})),
                knots(outputs, step, per_octave=per_octave),
                step,
                each,
            )
            elements = sum(before * after for before, after in grid.pairs) * math.prod(geometry.kernel)
            if geometry.depthwise or 4 * elements / geometry.groups <= LARGEST:
                break
        return grid

    @property
    def pairs(self) -> list[Pair]:
        """The widths row by row; the inputs of a depthwise layer are those that its outputs come from."""
        if self.geometry.depthwise:
            return [(after // self.each, after // self.each * self.each) for after in self.outputs]
        return list(itertools.product(self.inputs, self.outputs))

    def table(self, time: Time, memory: Memory, machine: Mapping[str, Any]) -> LayerTable:
        """Return the table of this grid, looked up in `memory` or measured.

        Args:
            time: geometry and pairs -> milliseconds.
            memory: where measurements are kept, under `machine`, the geometry and the widths.
            machine: what a time depends on beside the layer: device, provider, versions, batch, plain data.

        Raises:
            ConfigError: `time` gives another number of times.
            DataError: a time that is not positive and finite.
        """
        where = json.dumps({**machine, **self.geometry.to_json()}, sort_keys=True)
        names = [f"layer {before} to {after} {where}" for before, after in self.pairs]

        def measure() -> Sequence[float]:
            times = time(self.geometry, self.pairs)
            if len(times) != len(names):
                raise ConfigError(f"{len(names)} layers were to be timed, and {len(times)} times came")
            if not all(math.isfinite(each) and each > 0 for each in times):
                raise DataError(f"the times of {self.geometry} must be positive and finite; found {list(times)}")
            return times

        return LayerTable.of(self.inputs, self.outputs, memory.measurements(names, measure, unit="ms"), step=self.step)


Time = Callable[[Geometry, Sequence[Pair]], Sequence[float]]
"""What times layers: geometry and pairs of widths -> milliseconds."""
