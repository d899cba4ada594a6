"""Channel groups: what falls together, what is left out and why."""

from __future__ import annotations

import json
import re

import pytest
import torch
import torch_pruning as tp
import torchvision
from torch import nn

from networks_for_tests import (
    ChannelShuffle,
    Chunked,
    ConcatTwice,
    Depthwise,
    Grouped,
    PermutedFlatten,
    Residual,
    ZeroPaddedShortcut,
    randomise_batch_norm,
)
from secateur.channel_graph import channel_groups
from secateur.errors import ConfigError, NetworkError
from secateur.records import ChannelGroup, PruningPlan

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_residual_stream_is_one_group_and_inner_channels_are_others() -> None:
    groups = channel_groups(Residual(), IMAGES)
    assert set(groups) == {"stem", "first"}
    assert {m.layer for m in groups["stem"].producers} == {"stem", "second"}
    assert [(m.layer, m.role) for m in groups["first"].members if m.role == "consumer"] == [("second", "consumer")]
    assert groups.skipped == {"head": "its channels are the network's outputs"}


def test_flatten_gives_every_channel_its_columns() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 256, 5))
    (group,) = channel_groups(net, IMAGES).values()
    consumer = next(m for m in group.members if m.role == "consumer")
    assert consumer.indices[1] == tuple(range(256, 512))


def test_depthwise_convolution_falls_with_its_producer() -> None:
    groups = channel_groups(Depthwise(), IMAGES)
    assert [m.layer for m in groups["expand"].producers] == ["expand", "depthwise"]


def test_grouped_convolution_ties_the_same_offset_of_every_block() -> None:
    groups = channel_groups(Grouped(), IMAGES)
    assert groups["grouped"].width == 4
    assert groups["grouped"].producers[0].indices[1] == (1, 5)


def test_chunked_channels_go_with_their_like_in_the_other_half() -> None:
    groups = channel_groups(Chunked(), IMAGES)
    assert {name: group.width for name, group in groups.items()} == {"both": 4, "left": 6}
    assert groups["both"].producers[0].indices[1] == (1, 5)


def test_concatenation_of_a_map_with_itself_gives_two_positions() -> None:
    group = channel_groups(ConcatTwice(), IMAGES)["first"]
    consumer = next(m for m in group.members if m.role == "consumer")
    assert consumer.indices[2] == (2, 10)


@pytest.mark.parametrize("network", [ChannelShuffle, PermutedFlatten])
def test_groups_that_torch_pruning_maps_wrongly_are_left_out_with_the_reason(network: type[nn.Module]) -> None:
    groups = channel_groups(network(), IMAGES)
    assert "fine" in groups
    assert re.search("not the same as masking|does not run", groups.skipped["moved"])


class Transposed(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 8, 3)
        self.read = nn.Conv2d(8, inputs, 1)
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, groups=groups)
        self.last = nn.Conv2d(outputs, 2, 1)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(8, 8, 2), (8, 8, 4), (4, 8, 2), (8, 4, 4)])
def test_transposed_convolutions_in_groups_are_left_out_on_both_sides(
    inputs: int, outputs: int, groups: int, *, check: bool
) -> None:
    found = channel_groups(Transposed(inputs, outputs, groups), IMAGES, check=check)
    reason = f"up is a transposed convolution of {groups} groups, which Torch-Pruning cannot cut"
    assert set(found) == {"fine"}
    assert {found.skipped.get(name, reason) for name in ("read", "up")} == {reason}
    assert reason in found.skipped.values()


@pytest.mark.parametrize("groups", [1, 8])
def test_transposed_convolutions_without_groups_are_cut_and_so_are_depthwise_ones(groups: int) -> None:
    found = channel_groups(Transposed(8, 8, groups), IMAGES)
    assert list(found) == ["fine", "read", *(["up"] if groups == 1 else [])]


def test_torch_pruning_still_cannot_cut_transposed_convolutions_in_groups() -> None:
    """Once it can, this fails, and `channel_groups` need not leave them out any more."""
    with pytest.raises(RuntimeError, match="out of DATA bounds"):
        tp.prune_conv_out_channels(nn.ConvTranspose2d(4, 6, 1, groups=2), [0, 3])
    layer = tp.prune_conv_in_channels(nn.ConvTranspose2d(4, 6, 1, groups=2), [0, 2])
    with pytest.raises(RuntimeError, match="expected weight to be at least 2"):
        layer(torch.zeros(1, 2, 1, 1))


def test_zero_padded_shortcut_leaves_the_inner_channels() -> None:
    groups = channel_groups(ZeroPaddedShortcut(), IMAGES)
    assert set(groups) == {"inner"}
    assert "wrongly" in groups.skipped["stem"]


def test_without_the_check_the_host_is_believed() -> None:
    assert "moved" in channel_groups(ChannelShuffle(), IMAGES, check=False)


def test_layers_to_ignore_are_left_out_and_so_is_what_is_tied_to_them() -> None:
    groups = channel_groups(Residual(), IMAGES, ignore=["second"])
    assert set(groups) == {"first"}
    assert groups.skipped["stem"] == "tied to second, which is ignored"


def test_residual_streams_can_be_left_alone() -> None:
    groups = channel_groups(Residual(), IMAGES, residual="skip")
    assert set(groups) == {"first"}
    assert groups.skipped["stem"] == "a residual stream, summed with second"
    assert "expand" in channel_groups(Depthwise(), IMAGES, residual="skip")
    with pytest.raises(ConfigError, match="unknown residual 'none'; allowed: joint, skip, mask"):
        channel_groups(Residual(), IMAGES, residual="none")  # type: ignore[arg-type]  # what a user may write


def test_an_unknown_layer_to_ignore_is_named_with_the_nearest() -> None:
    with pytest.raises(NetworkError, match=r"no layer 'secnd'.*second"):
        channel_groups(Residual(), IMAGES, ignore=["secnd"])


def test_frozen_parameters_and_modes_survive() -> None:
    net = Residual().train()
    net.requires_grad_(False)
    net.body_norm.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert set(channel_groups(net, IMAGES)) == {"stem", "first"}
    assert net.training
    assert not net.body_norm.training
    assert not any(p.requires_grad for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_groups_survive_json() -> None:
    for network in (Residual, Grouped, ConcatTwice, Depthwise):
        for group in channel_groups(network(), IMAGES).values():
            assert ChannelGroup.from_json(json.loads(json.dumps(group.to_json()))) == group


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18", 12), ("mobilenet_v2", 25), ("squeezenet1_0", 25), ("regnet_y_400mf", 53)],
)
def test_every_convolution_of_torchvision_networks_is_found(name: str, count: int) -> None:
    net = randomise_batch_norm(getattr(torchvision.models, name)(weights=None))
    groups = channel_groups(net, torch.randn(2, 3, 64, 64))
    assert len(groups) == count
    assert list(groups.skipped.values()) == ["its channels are the network's outputs"]
    convolutions = {layer for layer, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    assert convolutions - set(groups.skipped) <= {m.layer for g in groups.values() for m in g.producers}


def test_plans_of_groups_survive_json() -> None:
    groups = channel_groups(Residual(), IMAGES)
    plan = PruningPlan(
        tuple(groups.values()), {"stem": (0, 3)}, "macs", 2.0, 1.0, 1.5, {"stem": 2}, {"search": "uniform"}
    )
    again = PruningPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.fingerprint == plan.fingerprint
    assert again.removed("stem") == tuple(c for c in range(8) if c not in (0, 3))


class Read(nn.Module):
    """Channels that something other than a convolution or a linear layer reads in the end."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        self.fine, self.read, self.reader = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), reader
        self.weight = nn.Parameter(torch.randn(8, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.read(self.fine(x).relu()).relu()
        if isinstance(self.reader, nn.LSTM):
            return self.reader(x.mean(2).transpose(1, 2))[0].mean(1)  # type: ignore[no-any-return]  # a module's call
        return torch.einsum("nc,ck->nk", self.reader(x).mean((2, 3)), self.weight)


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        (nn.LSTM(8, 5, batch_first=True), "reader is of type LSTM, whose inputs cannot be masked"),
        (nn.ConvTranspose2d(8, 8, 3, groups=2), "reader is a transposed convolution of 2 groups, which Torch-Pruning"),
        (nn.Identity(), "its channels are the network's outputs"),  # as Torch-Pruning has it
    ],
)
def test_only_the_group_that_is_read_in_a_way_that_cannot_be_cut_is_left_out(reader: nn.Module, reason: str) -> None:
    groups = channel_groups(Read(reader), IMAGES)
    assert list(groups) == ["fine"]
    assert groups.skipped["read"].startswith(reason)


def test_a_stream_that_the_code_fixes_stays() -> None:
    """A vision transformer reshapes to the width that it was built with, behind layer norms that forbid comparing."""
    network = torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=3
    ).eval()
    groups = channel_groups(network, torch.randn(2, 3, 8, 8))
    assert list(groups) == ["encoder.layers.encoder_layer_0.mlp.0"]
    assert "does not run any more" in groups.skipped["conv_proj"]
