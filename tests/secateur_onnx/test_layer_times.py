"""The times of layers alone, in ONNX Runtime: in parts, and as fast as one of twenty runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from secateur.errors import DataError
from secateur_onnx.latency import layer_times
from secateur_onnx.latency.geometry import Geometry
from secateur_onnx.latency.layer_times import time_layers

CONV = Geometry("Conv", (8, 8), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))


def test_an_activation_that_is_not_fused_is_not_the_layer() -> None:
    wide = Geometry("ConvTranspose", (16, 16), (5, 5), (1, 1), (1, 1), (2, 2, 2, 2))
    (alone,) = time_layers(wide, [(64, 64)], batch=1, threads=1)
    assert alone > 0.1  # 26 M multiply-accumulates; the activation of 16,384 numbers takes some microseconds


def test_layers_of_many_weights_are_timed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = list(itertools.product((8, 16), (8, 16, 24)))
    times = time_layers(CONV, pairs, batch=1, threads=1, weight_bytes=16_000)
    assert len(times) == len(pairs)
    assert all(time > 0 for time in times)
    asked: list[tuple[int, float]] = []

    def timed(_: Geometry, some: Sequence[tuple[int, int]], _b: int, _t: int | None, seconds: float) -> list[float]:
        asked.append((len(some), seconds))
        return [1000.0 * i + o for i, o in some]

    monkeypatch.setattr(layer_times, "_timed", timed)
    assert time_layers(CONV, pairs, batch=1, weight_bytes=16_000) == [1000 * i + o for i, o in pairs]
    assert asked == [(2, pytest.approx(layer_times.MAX_SECONDS / 3))] * 3  # 41,472 bytes in all


def test_a_layer_takes_what_one_of_its_runs_in_twenty_stays_below() -> None:
    def event(microseconds: int, name: str = "layer_1__sum_kernel_time", op: str = "Conv") -> dict[str, Any]:
        return {"cat": "Node", "name": name, "dur": microseconds, "args": {"op_name": op}}

    others = [event(1, "layer_11__sum_kernel_time"), event(1, "relu_of_layer_1__kernel_time", "Relu")]
    others += [event(1, "layer_1__sum_fence_before"), event(1) | {"cat": "Session"}]
    runs = [event(1)] * 3 + [event(microseconds) for microseconds in range(140, 100, -2)]  # three to warm up
    found = layer_times._fast([*others, *runs], "layer_1_", (8, 16))
    assert found == pytest.approx((np.quantile(range(102, 142, 2), 0.05) + 0.5) / 1000)
    with pytest.raises(DataError, match="tells no time of the layer with 8 inputs and 16 outputs"):
        layer_times._fast([*others, *runs[:3]], "layer_1_", (8, 16))
