"""FilterSketch: weights sketched from all channels, at the widths of a plan."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from networks_for_tests import Depthwise, Residual
from references_related import sketch_row_by_row
from secateur import MacsCost, apply_plan, channel_groups, sketch_filters, uniform_plan, weight_scores
from secateur.channel_map import with_channel_maps
from secateur.errors import ScoreError
from secateur.networks import resnet20
from secateur.records import PruningPlan

IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def planned(network: nn.Module, share: str = "50%") -> PruningPlan:
    groups = channel_groups(network, IMAGES)
    scores = weight_scores(network, "l1")
    return uniform_plan(groups, scores, MacsCost(network, IMAGES[:1], groups), share, round_to=1)


def block() -> nn.Sequential:
    torch.manual_seed(0)
    inner = (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False))
    return nn.Sequential(*inner, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()


def test_outputs_of_the_first_and_inputs_of_the_second_layer_are_sketches() -> None:
    network = block()
    plan = PruningPlan(tuple(channel_groups(network, IMAGES).values()), {"0": (1, 2, 4, 7)}, "macs", 1.0, 0.5, 0.5)
    before = copy.deepcopy(network.state_dict())
    done = sketch_filters(network, plan)
    outputs = done.model[0].weight.detach().double().flatten(1)
    inputs = done.model[3].weight.detach().double().transpose(0, 1).flatten(1)
    for found, dense in ((outputs, network[0].weight), (inputs, network[3].weight.transpose(0, 1))):
        expected, _ = sketch_row_by_row(dense.detach().double().flatten(1).tolist(), 4)
        torch.testing.assert_close(found.T @ found, torch.from_numpy(expected.T @ expected), rtol=1e-4, atol=1e-5)
    assert (done.taken, done.norms, done.left) == ({"3": (1.0,), "0": (1.0,)}, ("1",), {})
    assert done.model[1].running_mean.tolist() == [0.0] * 4
    assert torch.equal(done.model[6].weight, network[6].weight)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_norm_of_one_is_asked_for() -> None:
    network = block()
    plan = planned(network)
    plain, normed = (sketch_filters(network, plan, normalise=flag).model[0].weight for flag in (False, True))
    torch.testing.assert_close(normed, plain / network[0].weight.norm())


def test_a_weight_of_zeros_stays_one() -> None:
    network = block()
    plan = planned(network)
    nn.init.zeros_(network[3].weight)
    done = sketch_filters(network, plan, normalise=True)
    assert not done.model[3].weight.any()
    assert done.model[0].weight.any()


@pytest.mark.parametrize("normalise", [False, True])
def test_weights_that_are_not_finite_are_named_with_their_layer(normalise: bool) -> None:
    network = block()
    plan = planned(network)
    nn.init.constant_(network[3].weight, float("inf"))
    with pytest.raises(ScoreError, match="the weights of '3' hold NaN or infinity"):
        sketch_filters(network, plan, normalise=normalise)


def test_streams_and_layers_of_groups() -> None:
    for network in (Residual(), Depthwise()):
        network.eval()
        plan = planned(network)
        done = sketch_filters(network, plan)
        shapes = {name: value.shape for name, value in apply_plan(network, plan).state_dict().items()}
        assert {name: value.shape for name, value in done.model.state_dict().items()} == shapes
        assert torch.isfinite(done.model(IMAGES)).all()
        assert bool(done.left) == isinstance(network, Depthwise)
        assert set(done.to_json()) == {"taken", "norms", "left"}


def test_streams_with_zero_padded_shortcuts() -> None:
    torch.manual_seed(0)
    network = with_channel_maps(resnet20().eval(), IMAGES[:2])
    plan = planned(network)
    assert any(
        "shortcut" in member.layer for group in plan.groups for member in group.members if plan.removed(group.name)
    )
    done = sketch_filters(network, plan)
    assert torch.isfinite(done.model(IMAGES)).all()
    assert all("ChannelMap" in reason for reason in done.left.values())
    assert done.left
