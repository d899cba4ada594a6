"""How long single layers take in ONNX Runtime: many widths of one layer side by side, in one file, under its profiler.

A convolution that is alone in a file is timed with what surrounds it: on a CPU its channels are sorted into blocks of 8
or 16 before it and back after it, which no layer in the middle of a network pays. Here each layer under test reads a
tensor that another convolution has just written, and only a mean over positions reads what it writes, so that it runs
as it does inside; and the profiler tells its own time. All widths run in turn, one after another, in each run: what
disturbs the machine disturbs them alike, and weights are as cold as they are in a network.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secateur.errors import DataError
from secateur_onnx.latency.geometry import Geometry
from secateur_onnx.latency.layer_nodes import Pair, group_count, input_shape, layer_nodes, layers_model, weight_shape
from secateur_onnx.packages import require
from secateur_onnx.sessions import create_session

WARM_UPS, MIN_RUNS, RUNS = 3, 5, 25
QUANTILE = 0.05  # other processes only ever add time, and the more of it the longer a layer runs
MAX_SECONDS = 20.0  # of all runs of one geometry
SOURCE = 4  # channels of the input that every source reads; fewer than any block, so no source needs a sorted input


def time_layers(
    geometry: Geometry,
    pairs: Sequence[Pair],
    *,
    batch: int,
    threads: int | None = None,
    weight_bytes: float = math.inf,
) -> list[float]:
    """Return how long the layer takes at each pair of widths, in milliseconds.

    Args:
        geometry: the layer without its widths.
        pairs: channels read and written; of a depthwise layer the outputs alone count, and are the inputs.
        batch: inputs in one run.
        threads: see `secateur_onnx.create_session`.
        weight_bytes: the weights that run in turn, those of the whole network: larger ones than the processor's cache
            would be read from memory, which those of a small network are not.

    Returns: for each pair the time that one run in twenty stays below.

    Raises:
        DataError: the profile does not name a layer, or its time is not positive and finite.
        ConfigError, CheckpointError, MissingDependencyError: as `create_session` does.

    Cost: about 30 runs of all the layers, at most some 20 seconds.

    Example:
        >>> times = time_layers(Geometry("Gemm", (1,)), [(8, 8), (512, 512)], batch=1, threads=1)
        >>> times[0] < times[1]
        True
    """
    total = sum(4 * math.prod(weight_shape(geometry, pair)) for pair in pairs)
    parts = min(len(pairs), max(1, math.ceil(total / weight_bytes)))
    times = [0.0] * len(pairs)
    for part in range(parts):  # one in so many, so that each file holds small layers and large ones
        times[part::parts] = _timed(geometry, pairs[part::parts], batch, threads, MAX_SECONDS / parts)
    return times


def _timed(geometry: Geometry, pairs: Sequence[Pair], batch: int, threads: int | None, seconds: float) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.onnx"
        path.write_bytes(_layers_model(geometry, pairs, batch).SerializeToString())
        session = create_session(path, threads=threads, profile=Path(folder) / "profile")
        random = np.random.default_rng(0)
        feeds = {i.name: random.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
        started = time.monotonic()
        for run in range(WARM_UPS + RUNS):
            if run > WARM_UPS + MIN_RUNS and time.monotonic() - started > seconds:
                break
            try:
                session.run(None, feeds)
            except Exception as error:  # onnxruntime's errors have no common class of their own
                raise DataError(f"onnxruntime fails on layers of {geometry}: {error}") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [_fast(events, _tag(idx), pair) for idx, pair in enumerate(pairs)]


def _fast(events: Sequence[dict[str, Any]], tag: str, pair: Pair) -> float:
    times = [
        float(event["dur"])
        for event in events
        if event.get("cat") == "Node"
        and tag in event["name"]
        and event["name"].endswith("_kernel_time")
        and event["args"]["op_name"] != "Relu"  # where the runtime has not fused it with the layer
    ]
    # The profiler cuts to whole microseconds: half of one is what that takes away on average.
    value = (float(np.quantile(times[WARM_UPS:], QUANTILE)) + 0.5) / 1000 if len(times) > WARM_UPS else math.nan
    if not math.isfinite(value):
        raise DataError(
            f"the profile of ONNX Runtime tells no time of the layer with {pair[0]} inputs and {pair[1]} outputs"
        )
    return value


def _layers_model(geometry: Geometry, pairs: Sequence[Pair], batch: int) -> Any:
    """Return a file in which the layer stands once for each pair of widths, each behind a source and before a sink."""
    graph = _Graph()
    linear = geometry.op == "Gemm"
    read: dict[int, str] = {}
    inputs: dict[str, tuple[int | str, ...]] = {}
    outputs: list[tuple[str, tuple[int | str, ...]]] = []
    for idx, (before, after) in enumerate(pairs):
        if before not in read:
            width = before if before <= SOURCE else SOURCE
            inputs[f"input_{width}"] = input_shape(geometry, width, batch)
            read[before] = f"input_{width}"
            if before > SOURCE:
                read[before] = f"source_{before}"
                kernel = () if linear else (1,) * len(geometry.size)
                source = Geometry("Gemm" if linear else "Conv", geometry.size, kernel=kernel)
                graph.layer(source, (SOURCE, before), f"input_{SOURCE}", read[before])
        graph.layer(geometry, (before, after), read[before], _tag(idx))
        if linear:
            outputs.append((_tag(idx), input_shape(geometry, after, batch)))
        else:
            pool = require("onnx").helper.make_node("GlobalAveragePool", [_tag(idx)], [f"output_{idx}"])
            graph.nodes.append(pool)
            outputs.append((f"output_{idx}", (batch * geometry.repeats, after, *(1 for _ in geometry.size))))
    return layers_model(graph.nodes, inputs.items(), outputs, weights=graph.tensors)


class _Graph:
    """Nodes and weights, as they are added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self._random = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32) / 32

    def layer(self, geometry: Geometry, pair: Pair, source: str, name: str) -> None:
        """Add a layer with its weights."""
        parts = {f"{name}_weight": weight_shape(geometry, pair), f"{name}_bias": (pair[1],)}
        for part, shape in parts.items():
            self.tensors.append(require("onnx").numpy_helper.from_array(np.resize(self._random, shape), part))
        self.nodes += layer_nodes(geometry, group_count(geometry, pair), [source, *parts], name)


def _tag(idx: int) -> str:
    """Return a name that no other contains, whatever a runtime puts before or behind it."""
    return f"layer_{idx}_"
