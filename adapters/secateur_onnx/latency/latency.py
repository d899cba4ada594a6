"""Latency as a cost model: layer times measured in ONNX Runtime, summed, and corrected by real runs.

    share(widths) = sum_l table_l(inputs kept, outputs kept) / the same for the dense network
    cost(widths) = dense time * (1 - slope * (1 - share))

The table knows convolutions and linear layers alone. What else runs (additions, pools, copies), and what one layer
does to the next, is what the slope is for: the line goes through the dense network and a share whose time is known
from whole networks. A line keeps a sum of layers a sum, so that a search by prices works as it does for MACs. Slopes
above 1 would reach 0 before the widths do: below the known share the cost is then proportional to the share.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from secateur.cost.layers import LayerRecord
from secateur.cost.terms import Count, TermCost, check_layers, layer_counts
from secateur.counts import check_counts
from secateur.errors import ConfigError, NetworkError, SecateurWarning
from secateur.records import ChannelGroup
from secateur_onnx.latency.device_times import DEVICES, time_layers_on_device
from secateur_onnx.latency.geometry import Geometry, layer_calls
from secateur_onnx.latency.layer_nodes import weight_shape
from secateur_onnx.latency.layer_tables import Grid, LayerTable, Memory, Remembered, Time
from secateur_onnx.latency.layer_times import time_layers
from secateur_onnx.machine import describe_machine
from secateur_onnx.trial import check_installation

LATENCY_PROVIDERS = tuple(DEVICES)
"""Execution providers on which layers are timed."""


@dataclass(frozen=True)
class LayerPart:
    """What one layer adds to the time: the sum over its calls."""

    counts: tuple[Count, ...]
    tables: tuple[LayerTable, ...]
    known: dict[tuple[int, ...], float] = field(default_factory=dict, compare=False, repr=False)

    def value(self, removed: Mapping[str, int]) -> float:
        """Return the milliseconds when group g loses `removed[g]` channels."""
        kept = tuple(count.kept(removed) for count in self.counts)
        if kept not in self.known:
            inputs, outputs = kept if len(kept) > 1 else (0, kept[0])
            self.known[kept] = sum(table(inputs, outputs) for table in self.tables)
        return self.known[kept]


@dataclass
class LatencyCost:
    """Milliseconds that a batch takes, as a function of the widths; non-decreasing in each of them.

    Made by `latency_cost`.

    Attributes:
        name, unit: "latency" and "ms".
        layers: the sum of the layer times.
        dense_ms: what the dense network takes.
        known: a share of the layer times, and the share of the dense network's time that goes with it.
    """

    layers: TermCost
    dense_ms: float
    known: tuple[float, float] = (0.0, 0.0)
    name: str = "latency"
    unit: str = "ms"

    def share(self, widths: Mapping[str, int]) -> float:
        """Return the layer times at these widths as a share of the dense network's."""
        return self.layers(widths) / self.layers({})

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the milliseconds of a batch when group g keeps `widths[g]` channels; absent groups keep all.

        Raises:
            PlanError: a width of an unknown group or out of range.
        """
        return self.dense_ms * self.predicted(self.share(widths))

    def predicted(self, share: float) -> float:
        """Return the share of the dense network's time for a share of the layer times."""
        at, is_ = self.known
        line = 1 - (1 - share) * (1 - is_) / (1 - at)
        return line if is_ >= at else max(line, share * is_ / at)

    def corrected(self, share: float, time: float, *, dense_ms: float | None = None) -> Self:
        """Return the cost whose line goes through this share of the layer times and this share of the real time.

        Args:
            share: of the layer times, between 0 and 1.
            time: of the dense network's time, between 0 and 1.
            dense_ms: what the dense network takes, where that is known anew.

        Raises:
            ConfigError: a share that does not lie between 0 and 1.
        """
        if not (0 < share < 1 and 0 < time < 1):
            raise ConfigError(f"shares must lie between 0 and 1; found {share} and {time}")
        return replace(self, known=(share, time), dense_ms=self.dense_ms if dense_ms is None else dense_ms)


def latency_cost(
    model: nn.Module,
    example_inputs: Tensor,
    groups: Mapping[str, ChannelGroup],
    *,
    provider: str = "cpu",
    batch: int = 1,
    threads: int | None = None,
    round_to: int = 8,
    memory: Memory | None = None,
    time: Time | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> LatencyCost:
    """Measure each layer of a network at a grid of widths, and return the cost model that sums them.

    Layers of one kernel, stride and input size are measured together. Widths are multiples of `round_to`: the first
    eight, then two between each power of two and the next, and the dense width.

    Args:
        model: the dense network; unchanged afterwards.
        example_inputs: one batch (N, C, H, W); its size counts, not how many there are.
        groups: the channel groups by name.
        provider, threads: see `create_session`. On "cpu" layers are timed by `time_layers`, on "cuda" by
            `time_layers_on_device`; for "tensorrt", which builds an engine for each shape, `time` must do it.
        batch: inputs in a run.
        round_to: what widths are multiples of.
        memory: where times are kept, such as a `secateur.journal.Journal`; what it holds is not measured again.
        time: times layers in place of ONNX Runtime.
        on_progress: called with the layers timed and the layers in all.

    Raises:
        ConfigError: an unknown provider, or one that is not available; `batch` or `round_to` below 1.
        NetworkError: the network does not run on the example, has no layer that is timed, or the groups are those of
            another network.
        MissingDependencyError: onnx, onnxscript or onnxruntime is missing.
        DataError: a time that is not positive and finite.
        JournalError: `memory` cannot be read or written.

    Warns:
        SecateurWarning: the network is in half precision, in which layers are not timed.

    Cost: some 30 runs of each layer at up to a few hundred pairs of widths: seconds for a CIFAR network, a minute for
    a ResNet-18 at 224 on one core.

    Example:
        >>> from secateur import channel_groups
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1), nn.Flatten())
        >>> images = torch.zeros(2, 3, 8, 8)
        >>> flops = lambda geometry, pairs: [float(before * after) for before, after in pairs]  # in place of a clock
        >>> cost = latency_cost(net, images, channel_groups(net, images), time=flops)
        >>> cost({}), cost({"0": 8}), cost.corrected(0.5, 0.6)({"0": 8})
        (112.0, 56.0, 67.2)
    """
    check_installation(provider=provider)
    if provider not in LATENCY_PROVIDERS and time is None:
        raise ConfigError(f"layers cannot be timed alone on {provider!r}; allowed: {', '.join(LATENCY_PROVIDERS)}")
    check_counts(batch=batch, round_to=round_to)
    check_layers(groups, model)
    if coarse := {str(p.dtype).removeprefix("torch.") for p in model.parameters()} & {"float16", "bfloat16"}:
        warnings.warn(
            f"layers are timed in float32, and the network is in {coarse.pop()}: what it takes itself only a "
            "measurement of the whole network says",
            SecateurWarning,
            stacklevel=2,
        )
    calls = layer_calls(model, example_inputs)
    if not calls:
        raise NetworkError("the network runs no convolution and no linear layer, which are what a latency is made of")
    grids = _grids(calls, round_to)
    where = measured_on(provider=provider, batch=batch, threads=threads)
    if time is None:
        where["weight_bytes"] = _weight_bytes(calls)
        time = _clock(where)
    else:
        where["by"] = getattr(time, "__qualname__", type(time).__qualname__)
    store = Remembered() if memory is None else memory
    tables: dict[Geometry, LayerTable] = {}
    for geometry, grid in grids.items():
        tables[geometry] = grid.table(time, store, where)
        if on_progress is not None:
            on_progress(len(tables), len(grids))
    parts = [
        LayerPart(layer_counts(record, groups), tuple(tables[geometry] for geometry in geometries))
        for record, geometries in calls.values()
    ]
    layers = TermCost("latency", "ms", dict(groups), parts)
    return LatencyCost(layers, layers({}))


def _clock(where: Mapping[str, Any]) -> Time:
    if where["provider"] == "cpu":
        return partial(time_layers, **{name: where[name] for name in ("batch", "threads", "weight_bytes")})
    return partial(time_layers_on_device, **{name: where[name] for name in ("batch", "provider", "threads")})


def _weight_bytes(calls: Mapping[str, tuple[LayerRecord, Sequence[Geometry]]]) -> int:
    """Return the size of all weights that run in turn, which decides whether a layer finds its own in the cache."""
    return sum(
        4 * math.prod(weight_shape(call, (record.inputs, record.outputs)))
        for record, geometries in calls.values()
        for call in geometries[:1]
    )


def measured_on(*, provider: str, batch: int, threads: int | None) -> dict[str, Any]:
    """Return what a time depends on beside the network: processor, device, runtime, provider, threads, batch size.

    Example:
        >>> measured_on(provider="cpu", batch=1, threads=2)["threads"]
        2
    """
    machine = describe_machine(provider=provider)
    return {
        "cpu": machine.cpu,
        "device": machine.device,
        "onnxruntime": machine.onnxruntime,
        "provider": provider,
        "threads": torch.get_num_threads() if threads is None else threads,
        "batch": batch,
    }


def _grids(calls: Mapping[str, tuple[LayerRecord, Sequence[Geometry]]], round_to: int) -> dict[Geometry, Grid]:
    widths: dict[Geometry, list[tuple[int, int]]] = {}
    for record, geometries in calls.values():
        for geometry in geometries:
            widths.setdefault(geometry, []).append((record.inputs, record.outputs))
    return {geometry: Grid.of(geometry, dense, round_to) for geometry, dense in widths.items()}
