"""Real runs of whole candidates: a plan applied, exported, and timed against the dense network in alternation."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from secateur.channel_graph import apply_plan
from secateur.counts import check_counts
from secateur.fingerprints import operations_of, structure_of
from secateur.records import PruningPlan
from secateur_onnx.benchmarking import benchmark
from secateur_onnx.exporting import export
from secateur_onnx.latency.latency import measured_on
from secateur_onnx.latency.layer_tables import Memory, Remembered


@dataclass(frozen=True)
class WholeRun:
    """What a whole network takes.

    Attributes:
        share: its median time as a share of the dense network's, taken in turn.
        lower, upper: its 95% interval, over pairs of sessions.
        dense_ms: the dense network's median time in the same rounds.
    """

    share: float
    lower: float
    upper: float
    dense_ms: float

    def to_json(self) -> dict[str, float]:
        """Return plain data."""
        return asdict(self)


class WholeRuns:
    """Times candidates for real; as a context, the files it writes are gone at its end.

    Args:
        model: the dense network; unchanged.
        example_inputs: one batch (N, C, H, W) that it accepts.
        provider, batch, threads: what is timed; see `secateur_onnx.benchmark`.
        memory: where measurements are kept; what it holds, taken in the same way, is not measured again.
        rounds, seconds: of each measurement.
        seed: of the inputs.
        clock: see `secateur_onnx.benchmark`.

    Raises:
        ConfigError: `batch` or `rounds` is no whole number above 0.
        Exception: whatever the network raises on the example inputs.

    Example:
        >>> import torch
        >>> from secateur.records import ChannelGroup, Member
        >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> own = tuple((c,) for c in range(4))
        >>> group = ChannelGroup("0", 4, (Member("0", "producer", own), Member("2", "consumer", own)))
        >>> plan = PruningPlan((group,), {"0": (1,)}, "latency", 1.0, 0.5, 0.5)
        >>> with WholeRuns(net, torch.zeros(1, 8), rounds=6, seconds=0.01) as runs:
        ...     first, again = runs(plan), runs(plan)  # the second time from memory
        >>> first == again, first.lower <= first.share <= first.upper
        (True, True)
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Tensor,
        *,
        provider: str = "cpu",
        batch: int = 1,
        threads: int | None = None,
        memory: Memory | None = None,
        rounds: int = 100,
        seconds: float = 5.0,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_counts(batch=batch, rounds=rounds)
        self._model, self._example = model, example_inputs
        self._settings: dict[str, Any] = {
            "provider": provider,
            "threads": threads,
            "batch_sizes": (batch,),
            "rounds": rounds,
            "seconds": seconds,
            "sessions": SESSIONS,
            "seed": seed,
            "clock": clock,
            "memory": False,
        }
        self._memory = Remembered() if memory is None else memory
        shape = list(example_inputs.shape[1:])
        self.where = measured_on(provider=provider, batch=batch, threads=threads)
        how = {"rounds": rounds, "seconds": seconds, "seed": seed, "clock": getattr(clock, "__qualname__", repr(clock))}
        network = {"network": structure_of(model), "operations": operations_of(model, example_inputs), "input": shape}
        self._key = {**self.where, **network, **how}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __call__(self, plan: PruningPlan | None) -> WholeRun:
        """Return what the network that a plan leaves takes; None: the dense network against itself.

        Raises:
            NetworkError: a network cannot be exported.
            ConfigError, CheckpointError, DataError, MissingDependencyError: as `benchmark` does.
            PlanError: the plan is of another network.
            JournalError: the memory cannot be read or written.
        """
        name = "dense" if plan is None else _named(plan)
        names = [f"whole network {name} {part} {json.dumps(self._key, sort_keys=True)}" for part in PARTS]
        return WholeRun(*self._memory.measurements(names, lambda: self._measured(plan), unit="share; dense_ms: ms"))

    def _measured(self, plan: PruningPlan | None) -> Sequence[float]:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory()
        dense, pruned = (Path(self._folder.name) / name for name in ("dense.onnx", "pruned.onnx"))
        if not dense.is_file():
            export(self._model, self._example, dense)
        if plan is not None:
            export(apply_plan(self._model, plan), self._example, pruned)
        result = benchmark(dense, dense if plan is None else pruned, **self._settings)
        timed = result.comparisons[-1]  # on a device: without copies
        ratio = timed.interval
        return [1 / ratio.ratio, 1 / ratio.upper, 1 / ratio.lower, timed.dense.median_ms]


SESSIONS = 5  # where a session puts its memory moves its times by percents, and a budget is to be met within five
PARTS = ("share", "lower", "upper", "dense_ms")


def _named(plan: PruningPlan) -> str:
    """Return a name of what is left of each layer: which of its channels stay changes no time, but how many does.

    Behind a concatenation the widths of the groups alone do not tell how many stay of a layer.
    """
    left = [
        (member.layer, member.role, member.axis, len(member.positions(plan[group.name])))
        for group in plan.groups
        for member in group.members
    ]
    return hashlib.sha256(json.dumps(left).encode()).hexdigest()[:16]
