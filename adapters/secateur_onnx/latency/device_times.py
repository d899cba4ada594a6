"""How long single layers take on a device: the same layer several times in one file, everything bound to the device.

The profiler of a device tells when a layer was launched, not how long it ran, and a run of one layer is mostly the run:
handing over the work and waiting for it. So the layer stands n times in a file, each time with weights of its own, and
once in another. What n layers take longer than one is what n - 1 of them add to a network, in which one is handed over
while the one before it runs:

    time = (T_n - T_1) / (n - 1)

What a run costs beside its layers is in both and falls out. Where that scatters more than the layers take, nothing is
left of the difference, and T_n / n stands in its place, which is too long rather than too short.

Weights are inputs of these files, of any size, so that two sessions serve all widths of a layer; only a depthwise
layer, whose groups are its width, takes two for each width.
"""

from __future__ import annotations

import functools
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secateur.errors import ConfigError, DataError, SecateurWarning
from secateur_onnx.latency.geometry import Geometry
from secateur_onnx.latency.layer_nodes import Pair, group_count, input_shape, layer_nodes, layers_model, weight_shape
from secateur_onnx.packages import require
from secateur_onnx.sessions import create_session
from secateur_onnx.timing import time_alternating

DEVICES = {"cpu": "cpu", "cuda": "cuda"}  # provider -> what onnxruntime calls its memory
COPIES = (16, 8, 4, 2)
LARGEST = 2**30  # bytes of the weights of all copies and of what they write
QUANTILE = 0.05  # other processes only ever add time
ROUNDS, LEAST = 25, 5


def time_layers_on_device(
    geometry: Geometry,
    pairs: Sequence[Pair],
    *,
    batch: int,
    provider: str = "cuda",
    threads: int | None = None,
    seconds: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Return what the layer adds to a network's time at each pair of widths, in milliseconds.

    Args:
        geometry: the layer without its widths.
        pairs: channels read and written.
        batch: inputs in one run.
        provider: "cuda"; "cpu" works too, though layers in the middle of a network run faster there than alone.
        threads: see `secateur_onnx.create_session`.
        seconds: about how long one pair is timed, after at least five runs.
        clock: gives the time in seconds.

    Returns: (T_n - T_1) / (n - 1) for each pair, T the time that one run in twenty stays below; T_n / n where the noise
    leaves nothing of the difference. n is 16, or less where 16 layers would hold and write more than 1 GiB.

    Raises:
        ConfigError: a provider for which layers cannot be timed so; or as `create_session` does.
        DataError: onnxruntime cannot run the layer.

    Warns:
        SecateurWarning: the noise has left nothing of a difference.

    Cost: at most 45 runs of 17 layers for each pair, 20 of them to warm up, and what cuDNN takes to choose an
    algorithm.

    Example:
        >>> layer = Geometry("Gemm", (1,))
        >>> small, large = time_layers_on_device(layer, [(8, 8), (512, 512)], batch=1, provider="cpu", threads=1)
        >>> 0 < small < large
        True
    """
    if provider not in DEVICES:
        raise ConfigError(f"layers cannot be timed alone on {provider!r}; allowed: {', '.join(DEVICES)}")
    with tempfile.TemporaryDirectory() as folder:

        @functools.cache
        def session(groups: int, copies: int) -> Any:
            path = Path(folder) / f"{groups}_{copies}.onnx"
            path.write_bytes(_copies_model(geometry, groups, copies, batch).SerializeToString())
            return create_session(path, provider=provider, threads=threads)

        times = []
        for pair in pairs:
            groups = group_count(geometry, pair)
            one, written = _bound(session(groups, 1), geometry, pair, batch, DEVICES[provider])
            held = 4 * math.prod(weight_shape(geometry, pair)) + written
            copies = next((n for n in COPIES if n * held <= LARGEST), COPIES[-1])
            many, _ = _bound(session(groups, copies), geometry, pair, batch, DEVICES[provider])
            taken = time_alternating(many, one, rounds=ROUNDS, least=LEAST, seconds=seconds, clock=clock)
            times.append(added_time(*taken, copies=copies) * 1000)
    return times


def added_time(many: Sequence[float], one: Sequence[float], *, copies: int) -> float:
    """Return what one layer adds, from the times of runs with `copies` layers and of runs with one.

    Warns, where the first are no longer, that it is the most that one layer can take.

    Example:
        >>> added_time([5.0, 5.0, 9.0], [2.0, 2.0, 2.0], copies=4)
        1.0
    """
    slow, fast = (float(np.quantile(times, QUANTILE)) for times in (many, one))
    if slow > fast:
        return (slow - fast) / (copies - 1)
    warnings.warn(
        f"{copies} layers took no longer than one: the noise of this machine hides what one takes, and the most that "
        "it can be stands in its place",
        SecateurWarning,
        stacklevel=2,
    )
    return slow / copies


def _copies_model(geometry: Geometry, groups: int, copies: int, batch: int) -> Any:
    """Return a file in which the layer stands so many times; all read one input, each has weights and an output."""
    inputs: list[tuple[str, Sequence[int | str]]] = [("input", input_shape(geometry, "inputs", batch))]
    nodes, outputs = list[Any](), list[tuple[str, Sequence[int | str]]]()
    sizes = [f"size_{axis}" for axis in range(2)] + list(geometry.kernel)
    for copy in range(copies):
        nodes += layer_nodes(geometry, groups, ["input", f"weight_{copy}", f"bias_{copy}"], f"output_{copy}")
        inputs += [(f"weight_{copy}", sizes), (f"bias_{copy}", ["outputs"])]
        behind = [f"behind_{axis}" for axis in range(len(geometry.kernel))]
        outputs.append((f"output_{copy}", [*input_shape(geometry, "outputs", batch)[:2], *behind]))
    return layers_model(nodes, inputs, outputs)


def _bound(session: Any, geometry: Geometry, pair: Pair, batch: int, device: str) -> tuple[Callable[[], None], int]:
    """Return what runs a session once and waits, with inputs on the device, and the bytes that one layer writes."""
    value, binding = require("onnxruntime").OrtValue, session.io_binding()
    random = np.random.default_rng(0)
    shapes: dict[str, Any] = {"input": input_shape(geometry, pair[0], batch)}
    shapes |= {"weight": weight_shape(geometry, pair), "bias": pair[1:]}
    for needed in session.get_inputs():
        array = random.standard_normal(shapes[needed.name.partition("_")[0]]).astype(np.float32) / 32
        binding.bind_ortvalue_input(needed.name, value.ortvalue_from_numpy(array, device, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, device, 0)
    binding.synchronize_inputs()

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    try:
        run()
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise DataError(f"onnxruntime fails on {pair[0]} to {pair[1]} channels of {geometry}: {error}") from error
    return run, 4 * math.prod(binding.get_outputs()[0].shape())
