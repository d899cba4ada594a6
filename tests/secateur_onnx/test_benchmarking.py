"""The benchmark: the order of the runs, the words of the verdict and the record. No test here depends on a clock."""

from __future__ import annotations

import itertools
import json
import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from secateur.errors import ConfigError, DataError
from secateur_onnx import benchmark, benchmarking, create_session, export, provider_assignment
from secateur_onnx.bootstrap import RatioInterval
from secateur_onnx.comparison import compare, milliseconds
from secateur_onnx.machine import describe_machine
from secateur_onnx.sessions import infer
from secateur_onnx.timed_figure import RUNNERS, device_bound
from secateur_onnx.timing import time_alternating


class FakeClock:
    """Time passes only in the calls it makes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log = ""

    def __call__(self) -> float:
        return self.now

    def run(self, name: str, seconds: float) -> None:
        self.now += seconds
        self.log += name


def test_runs_alternate_in_order_and_are_warmed() -> None:
    clock = FakeClock()
    dense, pruned = time_alternating(
        lambda: clock.run("D", 0.5), lambda: clock.run("P", 0.25), rounds=7, seconds=6.0, clock=clock
    )
    assert clock.log == "DPDP" + "DPPDDPPDDPPDDP"
    assert (dense, pruned) == ([0.5] * 7, [0.25] * 7)


@pytest.mark.parametrize(("cost", "rounds"), [(0.001, 100), (0.01, 50), (0.05, 10), (5.0, 6)])
def test_rounds_stop_when_the_seconds_are_spent_but_not_before_six(cost: float, rounds: int) -> None:
    clock = FakeClock()
    seen: list[int] = []
    dense, pruned = time_alternating(
        lambda: clock.run("D", cost),
        lambda: clock.run("P", cost),
        rounds=100,
        seconds=0.99,
        clock=clock,
        on_round=seen.append,
    )
    assert len(dense) == len(pruned) == rounds
    assert seen[-1] == 100
    assert seen == sorted(seen)


def test_warm_up_is_bounded() -> None:
    clock = FakeClock()
    time_alternating(lambda: clock.run("D", 1e-6), lambda: clock.run("P", 1e-6), rounds=6, seconds=10, clock=clock)
    assert clock.log.count("D") == 20 + 6


NOISE = np.random.default_rng(0).lognormal(0, 0.02, 40)


def test_verdict_faster() -> None:
    found = compare(list(1.83 * NOISE), list(NOISE[::-1]), batch_size=8)
    assert (found.faster, found.slower) == (True, False)
    assert found.verdict.startswith("1.83x faster (95% interval 1.8")
    assert found.dense.images_per_second == pytest.approx(8 / np.median(1.83 * NOISE))


def test_verdict_of_equal_networks_is_not_faster() -> None:
    for pruned in (NOISE, NOISE[::-1]):
        found = compare(list(NOISE), list(pruned), batch_size=1)
        assert (found.faster, found.slower) == (False, False)
        assert found.verdict.startswith("not faster (1.00")


def test_verdict_of_a_gain_below_the_noise_is_not_faster() -> None:
    random = np.random.default_rng(1)
    times = [list(1.05 * random.lognormal(0, 0.5, 20)), list(random.lognormal(0, 0.5, 20))]
    for noisy in (compare(*times, batch_size=1), compare(*times[::-1], batch_size=1)):
        assert (noisy.faster, noisy.slower) == (False, False)
        assert noisy.verdict.startswith("not faster")


def test_verdict_slower() -> None:
    found = compare(list(0.5 * NOISE), list(NOISE), batch_size=1)
    assert (found.faster, found.slower) == (False, True)
    assert found.verdict == "slower: 0.50x as fast (95% interval 0.50 to 0.50)"


def test_verdict_never_calls_one_faster_than_one() -> None:
    found = compare(list(1.003 * NOISE), list(NOISE), batch_size=1)
    assert found.verdict == "1.0030x faster (95% interval 1.0030 to 1.0030)"
    wider = replace(found, interval=RatioInterval(1.012, 1.004, 1.02, 0.95))
    assert wider.verdict == "1.0120x faster (95% interval 1.0040 to 1.0200)"


def test_times_are_told_by_their_quantiles_in_milliseconds() -> None:
    found = compare([t / 1000 for t in range(1, 12)], [t / 500 for t in range(1, 12)], batch_size=4)
    assert (found.dense.p10_ms, found.dense.median_ms, found.dense.p90_ms) == pytest.approx((2, 6, 10))
    assert (found.pruned.median_ms, found.pruned.images_per_second) == pytest.approx((12, 4000 / 12))
    assert [milliseconds(value) for value in (999.4, 999.6, 0.0)] == ["999 ms", "1.00 s", "0.00 ms"]


def test_scattered_times_come_with_a_caution() -> None:
    assert compare(list(1.2 * NOISE), list(NOISE), batch_size=1).caution is None
    halted = [6.7 if i % 2 else 2.7 for i in range(20)]
    for dense, pruned, name in ((halted, [1.0] * 20, "dense"), ([1.0] * 20, halted, "pruned")):
        caution = compare(dense, pruned, batch_size=1).caution
        assert caution is not None
        assert f"the {name} network scatter from 2.70 s to 6.70 s (p10 to p90)" in caution


def test_the_ends_of_short_scattered_times_are_told_apart() -> None:
    caution = compare([0.0000062, 0.0000134] * 10, [0.00001] * 20, batch_size=1).caution
    assert caution is not None
    assert "scatter from 0.00620 ms to 0.0134 ms" in caution


def test_record_of_a_run(dense_file: Path, pruned_file: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = benchmark(
        dense_file,
        pruned_file,
        batch_sizes=(1, 3),
        rounds=6,
        seconds=0.2,
        threads=1,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [(c.batch_size, c.measured, len(c.dense.times_ms)) for c in result.comparisons] == [
        (1, "end to end", 6),
        (3, "end to end", 6),
    ]
    assert [c.sessions for c in result.comparisons] == [(1, 1, 1, 1, 1, 1)] * 2
    assert seen[-1] == (12, 12)
    assert seen == sorted(seen)
    assert result.dense.file_bytes == dense_file.stat().st_size > result.pruned.file_bytes
    assert result.pruned.assignment == provider_assignment(create_session(pruned_file))
    assert result.machine.onnxruntime == onnxruntime.__version__

    for file in (result.dense, result.pruned):
        assert list(file.peak_bytes) == [1, 3]
        assert all(peak is not None and 1e6 < peak < 1e8 for peak in file.peak_bytes.values())

    data = json.loads(json.dumps(result.to_json()))
    assert set(data) == {
        *("provider", "threads", "input_shape", "seed", "machine", "dense", "pruned", "comparisons"),
        *("faster", "verdict"),
    }
    assert (data["provider"], data["threads"], data["input_shape"]) == ("cpu", 1, [3, 16, 16])
    assert set(data["comparisons"][0]) == {
        *("batch_size", "measured", "dense", "pruned", "ratio", "lower", "upper", "confidence"),
        *("sessions", "faster", "slower", "verdict", "caution"),
    }
    assert set(data["dense"]) == {"path", "file_bytes", "assignment", "metadata", "peak_bytes"}
    assert set(data["dense"]["peak_bytes"]) == {"1", "3"}
    assert torch.__version__.startswith(data["dense"]["metadata"]["versions"]["torch"])
    assert data["comparisons"][0]["dense"]["p10_ms"] <= data["comparisons"][0]["dense"]["p90_ms"]
    assert data["verdict"].startswith("batch 1: ")
    assert "; batch 3: " in data["verdict"]

    calm, busy = compare([2.0] * 20, [1.0] * 20, batch_size=1), compare([2.0, 7.0] * 10, [1.0] * 20, batch_size=8)
    verdict = replace(result, comparisons=(calm, busy)).verdict
    assert verdict == f"batch 1: {calm.verdict}; batch 8: {busy.verdict}, but {busy.caution}"
    slower = compare([1.0] * 20, [2.0] * 20, batch_size=8)
    assert replace(result, comparisons=(calm, busy)).faster
    assert not replace(result, comparisons=(calm, slower)).faster


def test_sessions_share_the_seconds(dense_file: Path) -> None:
    """By a clock that goes on with every look at it, of which a round takes five."""
    ticks = itertools.count()
    result = benchmark(
        *(dense_file, dense_file),
        batch_sizes=(1,),
        threads=1,
        seconds=40.0,
        sessions=2,
        memory=False,
        clock=lambda: float(next(ticks)),
    )
    assert result.comparisons[0].sessions == (4, 4)
    assert result.dense.peak_bytes == {}


@pytest.mark.parametrize(("provider", "most"), [("cpu", 4), ("cuda", 2)])
def test_a_device_holds_two_sessions_at_a_time(
    dense_file: Path, monkeypatch: pytest.MonkeyPatch, provider: str, most: int
) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    counts: list[int] = []

    def opened(path: Path, **given: Any) -> Any:
        assert given.pop("provider") == provider
        session = create_session(path, **given)
        alive.add(session)
        counts.append(len(alive))
        return session

    monkeypatch.setattr(benchmarking, "create_session", opened)
    monkeypatch.setattr(benchmarking, "describe_machine", lambda provider: describe_machine(provider="cpu"))
    monkeypatch.setitem(RUNNERS, "device bound", RUNNERS["end to end"])
    done = benchmark(
        dense_file, dense_file, batch_sizes=(2,), rounds=6, seconds=0.01, sessions=3, memory=False, provider=provider
    )
    assert len(counts) == 6
    assert max(counts) == most
    assert done.comparisons[0].dense.times_ms


def test_bound_inputs_and_outputs_give_the_same_result(dense_file: Path) -> None:
    session = create_session(dense_file)
    inputs = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    binding = device_bound(session, inputs, device="cpu")()
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), infer(session, inputs))


@pytest.mark.parametrize(
    "options",
    [{"batch_sizes": ()}, {"batch_sizes": (0,)}, {"rounds": 5}, {"seconds": 0.0}, {"seconds": math.nan}, {"seed": -1}],
)
def test_settings_that_measure_nothing(dense_file: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="at least 6 rounds"):
        benchmark(dense_file, dense_file, **options)  # type: ignore[arg-type]  # wrong on purpose


def test_batches_that_no_memory_holds_are_refused(dense_file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"batches of 1,000,000,000,000 images of \(3, 16, 16\) do not fit into memory"
    ):
        benchmark(dense_file, dense_file, batch_sizes=(1, 10**12), memory=False)


@pytest.mark.parametrize("name", ["batch_size", "rounds", "sessions", "seed"])
def test_settings_that_are_no_whole_numbers(dense_file: Path, name: str) -> None:
    options: dict[str, Any] = {"batch_sizes": (2, 8.5)} if name == "batch_size" else {name: 6.0}
    with pytest.raises(ConfigError, match=rf"^{name} is [68]\.[05]; it must be a whole number"):
        benchmark(dense_file, dense_file, **options)


def test_a_file_of_one_batch_size_is_timed_at_it(tmp_path: Path, dense_file: Path) -> None:
    proto = onnx.load(str(dense_file))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(proto, str(tmp_path / "fixed.onnx"))
    for pair in ((dense_file, tmp_path / "fixed.onnx"), (tmp_path / "fixed.onnx", dense_file)):
        timed = benchmark(*pair, batch_sizes=(2,), rounds=6, seconds=0.01, memory=False)
        assert timed.comparisons[0].batch_size == 2
        with pytest.raises(DataError, match=r"exported for inputs of shape \(2, 3, 16, 16\); found \(3, 3, 16, 16\)"):
            benchmark(*pair, batch_sizes=(3,))


@pytest.mark.parametrize("sessions", [0, 7])
def test_pairs_of_sessions_that_cannot_be(dense_file: Path, sessions: int) -> None:
    with pytest.raises(ConfigError, match=f"1 to 6 pairs of sessions; found {sessions}"):
        benchmark(dense_file, dense_file, sessions=sessions)


def test_files_of_two_networks_are_refused(tmp_path: Path, dense_file: Path) -> None:
    other = export(nn.Conv2d(3, 2, 3), torch.zeros(1, 3, 20, 20), tmp_path / "other.onnx").path
    with pytest.raises(DataError, match="not two forms of one network"):
        benchmark(dense_file, other)
    formats = [
        export(nn.Linear(3, 2).to(kind), torch.zeros(1, 3, dtype=kind), tmp_path / f"{kind}.onnx").path
        for kind in (torch.float32, torch.float16)
    ]
    with pytest.raises(DataError, match=r"takes \(None, 3\) float32, the pruned file \(None, 3\) float16"):
        benchmark(*formats)
