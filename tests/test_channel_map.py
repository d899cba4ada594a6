"""Shortcuts without parameters: recognised, replaced, pruned with the stream, saved and loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from networks_for_tests import randomise_batch_norm
from secateur.channel_graph import apply_plan, channel_groups, masked, verify_pruning
from secateur.channel_map import ChannelMap, recognise, with_channel_maps
from secateur.checkpoint import load_pruned, save_pruned
from secateur.errors import CheckpointError, NetworkError
from secateur.networks import resnet20
from secateur.records import ChannelGroups, PruningPlan

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Lambda(nn.Module):
    """A shortcut as others write it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def pad_both(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))


def foreign_resnet20() -> nn.Module:
    """The network with its shortcuts as padding modules, which know nothing of single channels."""
    net = resnet20()
    for stage in (net.layer2, net.layer3):
        stage[0].shortcut = Lambda(pad_both)
    return net


class Listed(nn.Module):
    """A shortcut that has two names, and is called by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = Lambda(pad_both)
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.paths = nn.ModuleList([nn.Conv2d(8, 16, 3, stride=2, padding=1), self.shortcut])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        outputs: Tensor = self.head(torch.relu(self.paths[0](x) + self.paths[1](x)))
        return outputs


def random_plan(groups: ChannelGroups) -> PruningPlan:
    random = torch.Generator().manual_seed(1)
    kept = {
        name: tuple(sorted(torch.randperm(g.width, generator=random)[: g.width * 5 // 8].tolist()))
        for name, g in groups.items()
    }
    return PruningPlan(tuple(groups.values()), kept, "macs", 1.0, 0.5, 0.5)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=9), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
def test_a_map_copies_or_writes_zero(source: list[int], stride: int, height: int, width: int) -> None:
    x = torch.randn(2, 5, height, width)
    y = ChannelMap(source, in_channels=5, stride=stride)(x)
    assert y.shape == (2, len(source), -(-height // stride), -(-width // stride))
    for o, c in enumerate(source):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                expected = x[:, c, stride * i, stride * j] if c >= 0 else torch.zeros(2)
                assert torch.equal(y[:, o, i, j], expected)


@pytest.mark.parametrize("source", [(), (5,), (-2,)])
def test_impossible_maps_are_refused(source: tuple[int, ...]) -> None:
    with pytest.raises(NetworkError, match=r"allowed are -1 and 0\.\.4"):
        ChannelMap(source, in_channels=5)


@pytest.mark.parametrize(
    ("function", "source", "stride"),
    [
        (pad_both, (-1, -1, 0, 1, 2, 3, -1, -1), 2),
        (lambda x: functional.pad(x, (0, 0, 0, 0, 0, 2)), (0, 1, 2, 3, -1, -1), 1),
        (lambda x: torch.cat([functional.avg_pool2d(x, 1, 2), torch.zeros_like(x[:, :, ::2, ::2])], 1),
         (0, 1, 2, 3, -1, -1, -1, -1), 2),
        (lambda x: x[:, [3, 0, 0]], (3, 0, 0), 1),
    ],
)  # fmt: skip
def test_shortcuts_are_recognised(function: Any, source: tuple[int, ...], stride: int) -> None:
    found = recognise(Lambda(function), (1, 4, 8, 8))
    assert found is not None
    assert (found.source, found.stride, found.in_channels) == (source, stride, 4)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.pad(x, (0, 0, 0, 0, 1, 1), value=1.0),
        lambda x: torch.cat([functional.avg_pool2d(x, 2), functional.avg_pool2d(x, 2)], 1),
        lambda x: torch.cat([x, -x], 1),
        lambda x: functional.pixel_shuffle(x, 2),
        lambda x: torch.cat([x, x.relu()], 1),
    ],
)
def test_what_computes_is_not_taken_for_a_map(function: Any) -> None:
    assert recognise(Lambda(function), (1, 4, 8, 8)) is None


def test_a_replaced_network_computes_the_same_and_the_original_is_left() -> None:
    net = randomise_batch_norm(foreign_resnet20()).eval()
    changed = with_channel_maps(net, IMAGES)
    assert isinstance(changed.layer2[0].shortcut, ChannelMap)
    assert isinstance(net.layer2[0].shortcut, Lambda)
    assert not changed.layer2[0].shortcut.training
    with torch.no_grad():
        assert torch.equal(changed(IMAGES), net(IMAGES))
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert with_channel_maps(plain, IMAGES) is plain


def test_the_whole_stream_is_pruned_exactly() -> None:
    """Each stage is a group of its own, tied to the next through the map alone."""
    net = randomise_batch_norm(with_channel_maps(foreign_resnet20(), IMAGES)).eval()
    groups = channel_groups(net, IMAGES)
    streams = {name: g.width for name, g in groups.items() if len(g.producers) > 1}
    assert sorted(streams.values()) == [16, 32, 64]
    assert dict(groups.skipped) == {"linear": "its channels are the network's outputs"}
    plan = random_plan(groups)
    pruned = apply_plan(net, plan)
    assert verify_pruning(net, pruned, plan, IMAGES).largest_difference < 1e-5
    assert pruned.layer2[0].shortcut.in_channels == 10
    assert len(pruned.layer2[0].shortcut.source) == 20
    with masked(net, groups, plan.kept), torch.no_grad():
        expected = net(IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(pruned(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_offsets_of_the_shortcut_follow_what_stays() -> None:
    """Stage 1 keeps channels 1 and 15 of 16; the shortcut puts them where channels 9 and 23 of stage 2 were."""
    net = resnet20().eval()
    groups = channel_groups(net, IMAGES)
    wide = next(name for name, g in groups.items() if g.width == 32 and len(g.producers) > 1)
    plan = PruningPlan(tuple(groups.values()), {"conv1": (1, 15), wide: (0, 9, 10, 23, 31)}, "macs", 1.0, 0.5, 0.5)
    assert apply_plan(net, plan).layer2[0].shortcut.source == (-1, 0, -1, 1, -1)


@pytest.mark.parametrize("build", [resnet20, foreign_resnet20, Listed])
def test_pruned_maps_are_saved_and_loaded(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    dense = build()
    net = with_channel_maps(dense, IMAGES).eval()
    plan = random_plan(channel_groups(net, IMAGES))
    pruned = apply_plan(net, plan)
    save_pruned(pruned, dense, plan, tmp_path)
    with torch.no_grad():
        assert torch.equal(load_pruned(build, tmp_path)(IMAGES), pruned(IMAGES))


@pytest.mark.parametrize(
    ("build", "place", "value"),
    [
        (resnet20, ("structure", "layer2.0.shortcut", "source"), [99]),
        (foreign_resnet20, ("channel_maps", "layer2.0.shortcut", "source"), [99]),
        (foreign_resnet20, ("channel_maps", "layer2.0.shortcut", "stride"), "2"),
        (foreign_resnet20, ("channel_maps", "nowhere.shortcut"), {"source": [0], "in_channels": 1, "stride": 1}),
    ],
)
def test_impossible_saved_maps_are_refused(
    build: Callable[[], nn.Module], place: tuple[str, ...], value: Any, tmp_path: Path
) -> None:
    dense = build()
    net = with_channel_maps(dense, IMAGES)
    plan = random_plan(channel_groups(net, IMAGES))
    save_pruned(apply_plan(net, plan), dense, plan, tmp_path)
    path = tmp_path / "plan.json"
    record = json.loads(path.read_text())
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"channel map|impossible"):
        load_pruned(build, tmp_path)


class Wavelet(nn.Module):
    """Takes sums of neighbours by filters that it holds as a buffer: other channels, and no shortcut."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("filters", torch.ones(4, 1, 2, 2, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.filters.repeat(x.shape[1], 1, 1, 1), stride=2, groups=x.shape[1])


class Picky(nn.Module):
    """Takes images that hold no negative number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x < 0).any()):
            raise ValueError("negative")
        return torch.cat([x, x], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_modules_with_buffers_are_tried_on_numbers_like_them(dtype: torch.dtype) -> None:
    network = nn.Sequential(Wavelet(dtype), nn.ReLU())
    assert with_channel_maps(network, torch.rand(1, 3, 8, 8, dtype=dtype)) is network


def test_a_module_that_refuses_random_numbers_is_left() -> None:
    network = nn.Sequential(Picky(), nn.ReLU())
    assert with_channel_maps(network, torch.rand(1, 3, 8, 8)) is network


class Widened(nn.Module):
    """Blocks that share one shortcut, which adds channels where they are missing and nothing where they are not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1)
        self.pad = Lambda(lambda x: functional.pad(x, (0, 0, 0, 0, 0, 8 - x.shape[1])))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x) + self.pad(x))
        return self.second(x) + self.pad(x)


def test_a_shortcut_that_runs_on_other_widths_too_is_left() -> None:
    network = Widened().eval()
    assert with_channel_maps(network, torch.rand(1, 4, 8, 8)) is network


def test_a_map_refuses_inputs_of_another_width() -> None:
    with pytest.raises(NetworkError, match="a channel map of 2 channels was given 4"):
        ChannelMap((-1, 0, 1, -1), in_channels=2)(torch.zeros(1, 4, 3, 3))


def test_modules_are_tried_without_being_changed() -> None:
    """A batch norm without parameters moves its statistics in training mode."""
    shortcut = nn.Sequential(Lambda(pad_both), nn.BatchNorm2d(16, affine=False))
    network = nn.Sequential(nn.Conv2d(3, 8, 1), shortcut).train()
    with_channel_maps(network, torch.rand(4, 3, 8, 8))
    assert int(shortcut[1].num_batches_tracked) == 0
    assert network.training
