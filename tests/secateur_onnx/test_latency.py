"""Latency as a cost: its law, against a naive twin, from a clock that is none; what is measured, and how often."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from references_latency import bilinear, risen
from secateur import apply_plan, channel_groups, uniform_plan
from secateur.errors import ConfigError, DataError, JournalError, NetworkError, PlanError, SecateurWarning
from secateur.journal import Journal
from secateur.records import ChannelGroups, ScoreTable
from secateur_onnx import LatencyCost, latency_cost
from secateur_onnx.latency import latency
from secateur_onnx.latency.geometry import Geometry, layer_calls
from secateur_onnx.latency.latency import measured_on
from secateur_onnx.latency.layer_nodes import input_shape, weight_shape
from secateur_onnx.latency.layer_tables import Grid, LayerTable, Remembered, knots
from secateur_onnx.machine import describe_machine

IMAGES = torch.zeros(2, 1, 8, 8)


class Clock:
    """Times layers by a formula, and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, geometry: Geometry, pairs: Sequence[tuple[int, int]]) -> list[float]:
        self.calls += 1
        return [0.01 + 1e-4 * (1 + sum(geometry.kernel)) * -(-i // 16) * -(-o // 16) for i, o in pairs]


@pytest.fixture(scope="module")
def noisy(digits: nn.Module, groups: ChannelGroups) -> LatencyCost:
    noise = torch.Generator().manual_seed(1)
    return cost_of(digits, groups, time=lambda _, pairs: (0.1 + torch.rand(len(pairs), generator=noise)).tolist())


def scores_of(groups: ChannelGroups) -> ScoreTable:
    return ScoreTable({name: torch.arange(group.width).double() for name, group in groups.items()})


class Another(Clock):
    """The same to another name."""


def cost_of(digits: nn.Module, groups: ChannelGroups, **more: Any) -> LatencyCost:
    return latency_cost(digits, IMAGES, groups, **{"time": Clock(), **more})


@given(
    times=st.lists(st.floats(0.001, 10), min_size=12, max_size=12),
    at=st.tuples(st.integers(1, 50), st.integers(1, 30)),
)
def test_a_table_is_the_naive_twin(times: list[float], at: tuple[int, int]) -> None:
    rows, columns = (3, 16, 40, 48), (5, 8, 24)
    table = LayerTable.of(rows, columns, times, step=7)
    assert table.blocks == (1, 1)
    measured = dict(zip(itertools.product(rows, columns), times, strict=True))
    assert table(*at) == pytest.approx(bilinear(rows, columns, risen(rows, columns, measured), at))


def test_blocks_of_channels_are_found_and_filled() -> None:
    rows = knots(256, 8)
    times = [float(-(-i // 16) * -(-o // 32)) for i, o in itertools.product(rows, rows)]
    table = LayerTable.of(rows, rows, times, step=8)
    assert table.blocks == (16, 32)
    for inputs, outputs in itertools.product((8, 72, 80, 136, 250), (8, 100, 200, 256)):
        assert table(inputs, outputs) == pytest.approx(-(-inputs // 16) * -(-outputs // 32))
    noisy = LayerTable((32, 40, 64), (8,), np.array([[1.0], [2.0], [3.0]]), blocks=(32, 1))
    assert [noisy(inputs, 8) for inputs in (32, 33, 40, 41, 64)] == [1.0, 2.0, 2.0, 3.0, 3.0]
    smooth = LayerTable.of(rows, rows, [float(i + o) for i, o in itertools.product(rows, rows)], step=8)
    assert smooth.blocks == (1, 1)


@settings(max_examples=30)
@given(data=st.data())
def test_the_cost_never_falls_with_a_width(noisy: LatencyCost, groups: ChannelGroups, data: st.DataObject) -> None:
    cost = noisy
    if data.draw(st.booleans()):
        cost = cost.corrected(data.draw(st.floats(0.05, 0.95)), data.draw(st.floats(0.05, 0.95)))
    widths = {name: data.draw(st.integers(1, group.width)) for name, group in groups.items()}
    name = data.draw(st.sampled_from(sorted(groups)))
    wider = {**widths, name: data.draw(st.integers(widths[name], groups[name].width))}
    assert 0 < cost(widths) <= cost(wider) * (1 + 1e-12)
    assert cost(wider) <= cost({}) * (1 + 1e-12)
    assert cost({}) == pytest.approx(cost.dense_ms)


def test_the_cost_of_a_plan_is_that_of_the_network_it_leaves(digits: nn.Module, groups: ChannelGroups) -> None:
    clock = Clock()
    cost = cost_of(digits, groups, time=clock, round_to=16)
    plan = uniform_plan(groups, scores_of(groups), cost, "60%", round_to=16)
    calls = layer_calls(apply_plan(digits, plan), IMAGES)
    by_hand = sum(
        clock(geometry, [(record.inputs, record.outputs)])[0]
        for record, geometries in calls.values()
        for geometry in geometries
    )
    assert cost(plan.widths) == pytest.approx(by_hand)
    assert plan.cost_after <= 0.6 * plan.cost_before


def test_a_line_through_a_known_share(digits: nn.Module, groups: ChannelGroups) -> None:
    cost = cost_of(digits, groups)
    slower, faster = cost.corrected(0.5, 0.7), cost.corrected(0.5, 0.3)
    for share, expected in ((1.0, 1.0), (0.5, 0.7), (0.75, 0.85), (0.0, 0.4)):
        assert slower.predicted(share) == pytest.approx(expected)
    for share, expected in ((1.0, 1.0), (0.5, 0.3), (0.75, 0.65), (0.25, 0.15)):
        assert faster.predicted(share) == pytest.approx(expected)
    for bad in ((0.0, 0.5), (0.5, 1.0), (float("nan"), 0.5)):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            cost.corrected(*bad)


def test_what_the_journal_holds_is_not_measured_again(
    digits: nn.Module, groups: ChannelGroups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(clock: Clock | None = None, **more: Any) -> int:
        clock = clock or Clock()
        with Journal.open(tmp_path / "times.sqlite", {"holds": "times"}) as journal:
            costs.append(cost_of(digits, groups, time=clock, memory=journal, threads=1, **more)({}))
        return clock.calls

    costs: list[float] = []
    geometries = len({g for _, calls in layer_calls(digits, IMAGES).values() for g in calls})
    assert asked() == geometries
    assert asked() == 0
    assert costs[0] == costs[1]
    assert asked(batch=8) == geometries
    monkeypatch.setattr(latency, "measured_on", lambda **_: {"cpu": "another", "threads": 1})
    assert asked() == geometries  # a table of another machine is no table of this one
    assert asked() == 0
    assert asked(Another()) == geometries


def test_layers_among_more_weights_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """They find less of their own in the processor's cache."""
    seen: list[int] = []

    def timed(_: Geometry, pairs: Sequence[tuple[int, int]], *, weight_bytes: int, **__: int) -> list[float]:
        seen.append(weight_bytes)
        return [1.0] * len(pairs)

    monkeypatch.setattr(latency, "time_layers", timed)
    memory = Remembered()
    for depth in (1, 1, 2):
        net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)), nn.Linear(4, 2))
        latency_cost(net, torch.zeros(1, 4), channel_groups(net, torch.zeros(1, 4)), memory=memory)
    assert seen == [96, 160]


@pytest.mark.parametrize("part", ["cpu", "device", "onnxruntime"])
def test_times_of_another_device_or_version_are_not_believed(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = describe_machine()
    elsewhere = replace(here, **{part: "another"})  # type: ignore[arg-type]  # each of them is text
    settings: dict[str, Any] = {"provider": "cpu", "batch": 1, "threads": 1}
    before = measured_on(**settings)
    assert measured_on(**settings) == before
    monkeypatch.setattr(latency, "describe_machine", lambda **_: elsewhere)
    assert measured_on(**settings) == before | {part: "another"} != before


def test_every_kind_of_layer_is_timed() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding="same", dilation=2),
        nn.Conv2d(12, 12, 3, groups=12, stride=2, padding=1),
        nn.Conv2d(12, 24, 1, groups=2),
        nn.ConvTranspose2d(24, 6, 3, stride=2, padding=1, output_padding=1),
        nn.Flatten(),
        nn.Linear(6 * 16 * 16, 5),
    ).eval()
    images = torch.randn(1, 3, 16, 16)
    cost = latency_cost(net, images, channel_groups(net, images), threads=1)
    assert cost({}) > 0
    calls = layer_calls(net, images)
    for name, module in net.named_modules():
        if name in calls:
            record, (geometry,) = calls[name]
            assert weight_shape(geometry, (record.inputs, record.outputs)) == tuple(module.weight.shape)


class Video(nn.Module):
    """Folds the frames of a video into the batch dimension, then windows of two frames."""

    def __init__(self) -> None:
        super().__init__()
        self.frame, self.window, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        frames = torch.relu(self.frame(x.flatten(0, 1))).mean((2, 3))
        windows = torch.relu(self.window(frames.unflatten(0, (-1, 2))))
        outputs: Tensor = self.head(windows.mean(1).unflatten(0, (-1, 3)).mean(1))
        return outputs


@pytest.mark.parametrize("batch", [1, 2])
def test_what_is_folded_into_the_batch_counts(batch: int) -> None:
    net, video = Video().eval(), torch.randn(batch, 6, 3, 8, 8)
    calls = layer_calls(net, video)
    shapes = {name: input_shape(geometry, record.inputs, 5) for name, (record, (geometry,)) in calls.items()}
    assert shapes == {"frame": (5 * 6, 3, 8, 8), "window": (5 * 6, 8), "head": (5, 8)}
    assert latency_cost(net, video, channel_groups(net, video), threads=1, batch=2)({}) > 0


@pytest.mark.parametrize(("inputs", "outputs", "round_to"), [(8, 16, 1), (3, 48, 8), (8, 32, 8)])
def test_depthwise_layers_of_several_outputs_an_input(inputs: int, outputs: int, round_to: int) -> None:
    net = nn.Sequential(nn.Conv2d(2, inputs, 1), nn.Conv2d(inputs, outputs, 3, groups=inputs), nn.Conv2d(outputs, 4, 1))
    images = torch.randn(1, 2, 8, 8)
    groups = channel_groups(net.eval(), images)
    cost = latency_cost(net, images, groups, threads=1, round_to=round_to)
    assert 0 < cost(dict.fromkeys(groups, 1)) <= cost({})


def test_half_precision_is_told_to_be_timed_in_float32(digits: nn.Module, groups: ChannelGroups) -> None:
    with pytest.warns(SecateurWarning, match="layers are timed in float32, and the network is in bfloat16"):
        latency_cost(copy.deepcopy(digits).bfloat16(), IMAGES.bfloat16(), groups, time=Clock())


def test_few_knots_of_wide_layers() -> None:
    assert knots(64, 8) == tuple(range(8, 65, 8))
    assert len(knots(2048, 8)) < 20
    assert knots(100, 8)[-1] == 100
    assert len(Grid.of(Geometry("Gemm", (1,)), [(25088, 4096)], 8).pairs) < len(
        list(itertools.product(knots(25088, 8), knots(4096, 8)))
    )


@pytest.mark.parametrize("bad", [[float("nan")], [0.0], [-1.0], [float("inf")]])
def test_times_that_are_none_are_refused(digits: nn.Module, groups: ChannelGroups, bad: list[float]) -> None:
    with pytest.raises(DataError, match="must be positive and finite"):
        cost_of(digits, groups, time=lambda geometry, pairs: bad * len(pairs))


def test_bad_input_is_refused(digits: nn.Module, groups: ChannelGroups) -> None:
    with pytest.raises(ConfigError, match="batch is 0"):
        cost_of(digits, groups, batch=0)
    with pytest.raises(ConfigError, match="round_to is 0"):
        cost_of(digits, groups, round_to=0)
    with pytest.raises(ConfigError, match="unknown provider 'cudo'"):
        cost_of(digits, groups, provider="cudo")
    with pytest.raises(ConfigError, match="layers were to be timed, and 1 times came"):
        cost_of(digits, groups, time=lambda geometry, pairs: [1.0])
    with pytest.raises(NetworkError, match="does not run on example inputs"):
        latency_cost(digits, torch.zeros(1, 3, 8, 8), groups, time=Clock())
    with pytest.raises(NetworkError, match="no convolution and no linear layer"):
        latency_cost(nn.Sequential(nn.ReLU()), IMAGES, {}, time=Clock())
    with pytest.raises(NetworkError, match="another network"):
        latency_cost(nn.Sequential(nn.Conv2d(1, 1, 1)), IMAGES, groups, time=Clock())
    with pytest.raises(PlanError, match="no channel group"):
        cost_of(digits, groups)({"nowhere": 1})


def test_several_measurements_are_stored_together(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.sqlite", {"seed": 0}) as journal:
        assert journal.measurements(["a", "b"], lambda: [1.0, 2.0]) == [1.0, 2.0]
        assert journal.measurements(["b", "a"], lambda: []) == [2.0, 1.0]
        assert journal.measurements(["a", "c"], lambda: [5.0, 3.0]) == [1.0, 3.0]  # whoever was first is believed
        with pytest.raises(JournalError, match="2 measurements were asked for, and 1 came"):
            journal.measurements(["d", "e"], lambda: [1.0])
        with pytest.raises(JournalError, match="must be a finite number"):
            journal.measurements(["d", "e"], lambda: [1.0, float("nan")])
        assert journal.measurements(["d"], lambda: [4.0]) == [4.0]
