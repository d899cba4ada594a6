"""Is the pruned network faster? Two ONNX files, one process, the same inputs, in turn, with an interval.

Multiply-accumulates fall without a change in time often enough that only a measurement counts, and a measurement
without its spread counts for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.counts import check_counts
from secateur.errors import ConfigError, DataError
from secateur_onnx.bootstrap import MIN_ROUNDS
from secateur_onnx.comparison import Comparison
from secateur_onnx.machine import Machine, describe_machine
from secateur_onnx.memory import peak_memory
from secateur_onnx.metadata import from_strings, stored_bytes
from secateur_onnx.sessions import InputSpec, create_session, input_spec, provider_assignment
from secateur_onnx.timed_figure import RUNNERS, Figure

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@dataclass(frozen=True)
class BenchmarkedFile:
    """One of the two files.

    Attributes:
        path: where it lies.
        file_bytes: its size, with that of files beside it that hold its weights.
        assignment: provider -> operator -> nodes that ran there.
        metadata: what the file says of itself, see `read_metadata`.
        peak_bytes: batch size -> the memory it needs at most, see `peak_memory`; empty where it was not measured.
    """

    path: Path
    file_bytes: int
    assignment: dict[str, dict[str, int]]
    metadata: dict[str, Any]
    peak_bytes: dict[int, int | None]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "path": str(self.path),
            "file_bytes": self.file_bytes,
            "assignment": self.assignment,
            "metadata": self.metadata,
            "peak_bytes": {str(batch_size): peak for batch_size, peak in self.peak_bytes.items()},
        }


@dataclass(frozen=True)
class BenchmarkResult:
    """Dense against pruned on one provider.

    Attributes:
        provider: "cpu", "cuda" or "tensorrt".
        threads: threads within an operator.
        input_shape: (C, H, W), or what else stands behind the batch dimension.
        seed: of the inputs, and of the bootstrap of a single pair of sessions.
        machine: where it was measured.
        dense, pruned: the files.
        comparisons: one for each batch size end to end; on a device one more for each, device bound.
    """

    provider: str
    threads: int
    input_shape: tuple[int, ...]
    seed: int
    machine: Machine
    dense: BenchmarkedFile
    pruned: BenchmarkedFile
    comparisons: tuple[Comparison, ...]

    @property
    def faster(self) -> bool:
        """Whether the pruned file is faster in every comparison."""
        return all(comparison.faster for comparison in self.comparisons)

    @property
    def verdict(self) -> str:
        """All comparisons in plain words, and why some should be doubted."""
        both = any(c.measured == "device bound" for c in self.comparisons)
        return "; ".join(
            f"batch {c.batch_size}{f', {c.measured}' if both else ''}: {c.verdict}"
            + (f", but {c.caution}" if c.caution else "")
            for c in self.comparisons
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "provider": self.provider,
            "threads": self.threads,
            "input_shape": list(self.input_shape),
            "seed": self.seed,
            "machine": self.machine.to_json(),
            "dense": self.dense.to_json(),
            "pruned": self.pruned.to_json(),
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "faster": self.faster,
            "verdict": self.verdict,
        }


def benchmark(
    dense_path: str | Path,
    pruned_path: str | Path,
    *,
    batch_sizes: Sequence[int] = (1, 8, 32),
    provider: str = "cpu",
    threads: int | None = None,
    rounds: int = 100,
    seconds: float = 5.0,
    sessions: int = MIN_ROUNDS,
    seed: int = 0,
    memory: bool = True,
    clock: Callable[[], float] = time.perf_counter,
    on_progress: Callable[[int, int], None] | None = None,
) -> BenchmarkResult:
    """Time two ONNX files against each other and return medians, spread and an interval of the ratio.

    A session of each file lives in this process, with the same options. For each batch size both get the same array of
    normal random numbers, are warmed up, and run in alternation (see `time_alternating`). Then another pair of sessions
    does the same, since where a session puts its memory can move all of its times by some percent. On a device a
    second figure is taken with inputs and outputs bound to it, so that no copy is measured. CUDA may use
    TensorFloat-32, as it does by default, equally for both. Memory is measured afterwards, each file and batch size in
    a process of its own.

    Args:
        dense_path, pruned_path: two files with the same input.
        batch_sizes: images per run.
        provider, threads: see `create_session`.
        rounds: at most so many rounds for each figure; at least 6.
        seconds: the time for the rounds of each figure; 6 rounds are taken however long they last.
        sessions: pairs of sessions that share the rounds and seconds, at most 6: fewer make wide intervals, one an
            interval that does not know what another session would do.
        seed: of the inputs, and of the bootstrap of a single pair of sessions.
        memory: whether to measure the peak memory too.
        clock: gives the time in seconds. On the CPU with one thread `time.process_time` leaves out what other processes
            of a busy machine take, which halts long runs more often than short ones.
        on_progress: called after each round with the rounds done and the rounds in all.

    Raises:
        ConfigError: a setting cannot be used, or a batch does not fit into memory; or as `create_session` does.
        DataError: the files ask for different inputs, or not for the batch sizes wanted.
        CheckpointError, MissingDependencyError: as `create_session` does.

    Cost: about 1.2 * `seconds` for each batch size and figure, or 6 + 3 * `sessions` runs of both networks where that
    is longer, and opening the sessions; with `memory` as `peak_memory` for both files and each batch size.

    Example:
        >>> import tempfile, torch
        >>> from secateur_onnx import export
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = export(torch.nn.Linear(3, 2), torch.zeros(1, 3), Path(folder.name) / "linear.onnx").path
        >>> result = benchmark(path, path, batch_sizes=(4,), rounds=6, seconds=0.01, memory=False)
        >>> result.comparisons[0].batch_size, len(result.comparisons[0].dense.times_ms)
        (4, 6)
        >>> folder.cleanup()
    """
    batch_sizes = tuple(batch_sizes)
    if not batch_sizes or min(batch_sizes) < 1 or rounds < MIN_ROUNDS or not seconds > 0 or seed < 0:
        raise ConfigError(
            f"a benchmark needs batch sizes of at least 1, at least {MIN_ROUNDS} rounds, more than 0 seconds and a "
            f"seed of at least 0; found {batch_sizes}, {rounds}, {seconds} and {seed}"
        )
    if not 1 <= sessions <= MIN_ROUNDS:
        raise ConfigError(f"a benchmark takes 1 to {MIN_ROUNDS} pairs of sessions; found {sessions}")
    check_counts(rounds=rounds, sessions=sessions)
    check_counts(least=0, seed=seed)
    for batch_size in batch_sizes:
        check_counts(batch_size=batch_size)
    machine = describe_machine(provider=provider)

    def opened() -> list[InferenceSession]:
        return [create_session(path, provider=provider, threads=threads) for path in (dense_path, pruned_path)]

    pair = opened()
    sizes = [stored_bytes(path) for path in (dense_path, pruned_path)]
    spec, shape = _common_input(pair, batch_sizes)
    random = np.random.default_rng(seed)
    try:
        inputs = [random.standard_normal((n, *shape)).astype(spec.dtype) for n in batch_sizes]
    except MemoryError as error:
        raise ConfigError(
            f"batches of {max(batch_sizes):,} images of {shape} do not fit into memory: {error}"
        ) from error
    figures = [
        Figure(array, measured, runner)
        for array in inputs
        for measured, runner in RUNNERS.items()
        if provider != "cpu" or measured == "end to end"
    ]
    shares, done = list(zip(_split(rounds, sessions), _split(MIN_ROUNDS, sessions), strict=True)), 0
    for number, (most, least) in enumerate(shares):
        if number:
            if provider != "cpu":
                pair.clear()  # four sessions, each with the most memory that it ever took, need not fit where two do
            pair = opened()  # on the CPU beside the old pair, so that its memory lies elsewhere
        for figure in figures:
            figure.time(
                pair,
                rounds=most,
                least=least,
                seconds=seconds / sessions,
                clock=clock,
                on_round=None if on_progress is None else _shifted(on_progress, done, rounds * len(figures)),
            )
            done += most
    comparisons = tuple(figure.compared(seed) for figure in figures)

    used = int(pair[0].get_session_options().intra_op_num_threads)
    ran = [provider_assignment(session) for session in pair]
    told = [from_strings(session.get_modelmeta().custom_metadata_map) for session in pair]
    del pair  # what both hold would be missing where memory is measured
    dense, pruned = (
        BenchmarkedFile(
            path=Path(path),
            file_bytes=size,
            assignment=assignment,
            metadata=metadata,
            peak_bytes={
                n: peak_memory(path, spec, (n, *shape), provider=provider, threads=used)
                for n in (batch_sizes if memory else ())
            },
        )
        for path, size, assignment, metadata in zip((dense_path, pruned_path), sizes, ran, told, strict=True)
    )
    return BenchmarkResult(provider, used, shape, seed, machine, dense, pruned, comparisons)


def _common_input(pair: Sequence[InferenceSession], batch_sizes: Sequence[int]) -> tuple[InputSpec, tuple[int, ...]]:
    """Return what the dense file asks for, and its shape behind the batch dimension, which is that of both."""
    spec, other = map(input_spec, pair)
    shape = tuple(size for size in spec.shape[1:] if size is not None)
    if len(shape) != len(spec.shape) - 1:
        raise DataError(f"only the batch dimension may be open in a benchmark; the input is {spec.shape}")
    if (spec.shape[1:], spec.dtype) != (other.shape[1:], other.dtype):
        raise DataError(
            f"the dense file takes {spec.shape} {spec.dtype}, the pruned file {other.shape} {other.dtype}: "
            "they are not two forms of one network"
        )
    for batch_size in batch_sizes:
        for asked in (spec, other):
            asked.require((batch_size, *shape))
    return spec, shape


def _split(number: int, parts: int) -> list[int]:
    """Return whole numbers as equal as can be that add up to `number`."""
    return [number * (part + 1) // parts - number * part // parts for part in range(parts)]


def _shifted(on_progress: Callable[[int, int], None], done: int, total: int) -> Callable[[int], None]:
    return lambda round_done: on_progress(done + round_done, total)
