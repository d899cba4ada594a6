"""Masks, surgery and verification: masked equals removed, and what is wrong is noticed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch_pruning as tp
import torchvision
from torch import nn

from cases_for_tests import cases
from networks_for_tests import ChannelShuffle, ConcatTwice, Depthwise, Grouped, Residual, randomise_batch_norm
from secateur.channel_graph import apply_plan, channel_groups, masked, verify_pruning
from secateur.errors import NetworkError, PlanError, VerificationError
from secateur.records import ChannelGroup, ChannelGroups, Member, PruningPlan

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def random_plan(groups: ChannelGroups, seed: int = 0) -> PruningPlan:
    """Keep a random half of every group."""
    generator = torch.Generator().manual_seed(seed)
    kept = {
        name: tuple(sorted(torch.randperm(g.width, generator=generator)[: max(1, g.width // 2)].tolist()))
        for name, g in groups.items()
    }
    return PruningPlan(tuple(groups.values()), kept, "macs", 1.0, 0.5, 0.5)


@pytest.mark.parametrize("network", [Residual, Depthwise, Grouped, ConcatTwice])
@pytest.mark.parametrize("seed", [0, 1])
def test_removed_equals_masked(network: type[nn.Module], seed: int) -> None:
    net = network().eval()
    groups = channel_groups(net, IMAGES)
    plan = random_plan(groups, seed)
    pruned = apply_plan(net, plan)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in net.parameters())
    with masked(net, groups, plan.kept), torch.no_grad():
        expected = net(IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(pruned(IMAGES), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(net(IMAGES), expected, atol=1e-3)
    assert verify_pruning(net, pruned, plan, IMAGES).largest_difference < 1e-5


@pytest.mark.parametrize(
    "name", cases(["resnet18", "mobilenet_v2", "densenet121", "squeezenet1_0"], thorough=["densenet121"])
)
def test_removed_equals_masked_on_torchvision_networks(name: str) -> None:
    net = randomise_batch_norm(getattr(torchvision.models, name)(weights=None)).eval()
    images = torch.randn(2, 3, 64, 64)
    groups = channel_groups(net, images)
    plan = random_plan(groups)
    result = verify_pruning(net, apply_plan(net, plan), plan, images)
    assert result.largest_difference < 1e-4
    assert result.unchecked == {}


def test_surgery_equals_torch_prunings_own() -> None:
    """The same channels removed by Torch-Pruning's groups on a traced copy give the same tensors."""
    net = randomise_batch_norm(torchvision.models.resnet18(weights=None)).eval()
    images = torch.randn(2, 3, 64, 64)
    plan = random_plan(channel_groups(net, images))
    theirs = copy.deepcopy(net)
    graph = tp.DependencyGraph().build_dependency(theirs, example_inputs=(images,))
    for group in plan.groups:
        root = theirs.get_submodule(group.name)
        graph.get_pruning_group(root, tp.prune_conv_out_channels, list(plan.removed(group.name))).prune()
    ours = apply_plan(net, plan).state_dict()
    assert ours.keys() == theirs.state_dict().keys()
    assert all(torch.equal(ours[key], value) for key, value in theirs.state_dict().items())


def test_batch_norm_is_copied_and_not_restarted() -> None:
    net = Residual()
    plan = PruningPlan(tuple(channel_groups(net, IMAGES).values()), {"first": (1, 4)}, "macs", 1.0, 0.5, 0.5)
    pruned = apply_plan(net, plan)
    assert torch.equal(pruned.body_norm.running_var, net.body_norm.running_var[[1, 4]])
    assert torch.equal(pruned.body_norm.weight, net.body_norm.weight[[1, 4]])


def test_surgery_leaves_the_network_alone_and_keeps_flags() -> None:
    net = Residual().train()
    net.stem.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pruned = apply_plan(net, random_plan(channel_groups(net, IMAGES)))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert pruned.training
    assert not pruned.stem.weight.requires_grad
    assert pruned.first.weight.requires_grad


def test_masks_are_lifted_even_when_the_block_fails() -> None:
    net = Residual()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    groups = channel_groups(net, IMAGES)
    with pytest.raises(RuntimeError, match="size"), masked(net, groups, {"stem": (0,), "first": (2,)}):
        net(torch.zeros(1, 5, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("kept", "message"), [({"none": (0,)}, "no channel group 'none'; known: stem, first"), ({"stem": (9,)}, "0..7")]
)
def test_masks_refuse_what_does_not_exist(kept: dict[str, tuple[int, ...]], message: str) -> None:
    net = Residual()
    with pytest.raises(PlanError, match=message), masked(net, channel_groups(net, IMAGES), kept):
        pass


def test_a_plan_for_another_network_is_refused() -> None:
    plan = random_plan(channel_groups(Residual(), IMAGES))
    with pytest.raises(PlanError, match="does not have"):
        apply_plan(Depthwise(), plan)
    with pytest.raises(PlanError, match="applied already"):
        apply_plan(apply_plan(Residual(), plan), plan)


@pytest.mark.parametrize("axis", [7, 4, -1, -10])
def test_an_axis_that_a_parameter_does_not_have_is_refused(axis: int) -> None:
    own = ((0,), (1,))
    members = (Member("0", "producer", own), Member("0.weight", "carrier", own, axis))
    plan = PruningPlan((ChannelGroup("0", 2, members),), {"0": (1,)}, "macs", 2, 1, 1)
    with pytest.raises(PlanError, match=rf"axis {axis} of '0.weight', which has shape \(2, 3, 1, 1\)"):
        apply_plan(nn.Sequential(nn.Conv2d(3, 2, 1)), plan)


def test_verification_notices_wrong_channels_and_names_the_group() -> None:
    net = ChannelShuffle()
    groups = channel_groups(net, IMAGES, check=False)
    plan = PruningPlan(tuple(groups.values()), {"moved": (2, 3, 4), "fine": (1, 2)}, "macs", 1.0, 0.5, 0.5)
    with pytest.raises(VerificationError, match=r"pruned alone: moved"):
        verify_pruning(net, apply_plan(net, plan), plan, IMAGES)


def test_verification_notices_changed_weights() -> None:
    net = Residual()
    plan = random_plan(channel_groups(net, IMAGES))
    pruned = apply_plan(net, plan)
    with torch.no_grad():
        pruned.second.weight[0, 0] += 1.0
    with pytest.raises(VerificationError, match="alone: none"):
        verify_pruning(net, pruned, plan, IMAGES)


def test_normalisation_over_channels_is_said_to_be_unchecked() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)
    )
    groups = channel_groups(net, IMAGES)
    assert groups["0"].width == 4
    plan = random_plan(groups)
    result = verify_pruning(net, apply_plan(net, plan), plan, IMAGES)
    assert "1 (GroupNorm)" in result.unchecked["0"]
    assert result.largest_difference < 1e-5
    untouched = PruningPlan(plan.groups, {"3": plan["3"]}, "macs", 1.0, 0.5, 0.5)
    assert verify_pruning(net, apply_plan(net, untouched), untouched, IMAGES).unchecked == {}


def test_where_a_group_is_unchecked_the_network_itself_still_is() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 6, 3))
    plan = random_plan(channel_groups(net, IMAGES))
    pruned = apply_plan(net, plan)
    assert "0" in verify_pruning(net, pruned, plan, IMAGES).unchecked
    with torch.no_grad():
        pruned[3].weight[0, 0] += 1.0
    with pytest.raises(VerificationError, match="the plan's surgery"):
        verify_pruning(net, pruned, plan, IMAGES)


def test_lone_parameters_are_cut_along_their_axis() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3)
            self.gain = nn.Parameter(torch.rand(8, 1, 1))
            self.second = nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.relu(self.first(x)) * self.gain)

    net = Scaled()
    plan = PruningPlan(tuple(channel_groups(net, IMAGES).values()), {"first": (0, 5)}, "macs", 1.0, 0.5, 0.5)
    pruned = apply_plan(net, plan)
    assert torch.equal(pruned.gain, net.gain[[0, 5]])
    assert verify_pruning(net, pruned, plan, IMAGES).largest_difference < 1e-5


@pytest.mark.parametrize("slopes", [1, 8])
def test_prelu_with_one_slope_or_one_a_channel(slopes: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(slopes), nn.Conv2d(8, 4, 1))
    groups = channel_groups(net, IMAGES)
    plan = random_plan(groups)
    pruned = apply_plan(net, plan)
    assert pruned[1].weight.numel() == max(1, slopes // 2)
    assert verify_pruning(net, pruned, plan, IMAGES).largest_difference < 1e-5


def test_groups_of_layers_that_share_a_weight_are_left_out() -> None:
    """Cutting one of them would leave each with a weight of its own: another network, and a larger one."""
    net = nn.Sequential(*(nn.Conv2d(8 if k else 3, 8, 1, bias=k == 0) for k in range(4)), nn.Conv2d(8, 2, 1))
    net[2].weight = net[1].weight
    groups = channel_groups(net, IMAGES)
    assert set(groups) == {"3"}
    assert groups.skipped["0"] == "1 shares its weights with 2, which would no longer be so"
    assert groups.skipped["2"] == "2 shares its weights with 1, which would no longer be so"
    assert groups.skipped["1"] == groups.skipped["0"]
    pruned = apply_plan(net, random_plan(groups))
    assert pruned[2].weight is pruned[1].weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_in_half_precision_are_compared_in_float32(dtype: torch.dtype) -> None:
    """Their own rounding is larger than what is allowed."""
    torch.manual_seed(0)
    layers = [layer for _ in range(5) for layer in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())]
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), *layers, nn.Conv2d(16, 4, 1)).to(dtype)
    images = IMAGES.to(dtype)
    groups = channel_groups(net, images)
    assert len(groups) == 6
    plan = random_plan(groups)
    pruned = apply_plan(net, plan)
    assert pruned[0].weight.dtype == dtype
    assert verify_pruning(net, pruned, plan, images).largest_difference < 1e-5
    with torch.no_grad():
        pruned[2].weight[0, 0] += 1.0
    with pytest.raises(VerificationError, match="differs from the masked one"):
        verify_pruning(net, pruned, plan, images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_half_precision_rounds_away_is_seen(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)).to(dtype)
    for layer, weight in zip(net, (0.0, 1e-4), strict=True):
        nn.init.constant_(layer.weight, weight)
        nn.init.ones_(layer.bias)
    plan = random_plan(channel_groups(net, IMAGES.to(dtype)))
    pruned = apply_plan(net, plan)
    nn.init.zeros_(pruned[1].weight)
    with pytest.raises(VerificationError, match="differs from the masked one"):
        verify_pruning(net, pruned, plan, IMAGES.to(dtype))


def test_a_network_that_insists_on_half_precision_is_compared_in_it() -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x.half()))

    net = Casts().half()
    plan = PruningPlan(tuple(channel_groups(net, IMAGES).values()), {"first": (0, 5)}, "macs", 1.0, 0.5, 0.5)
    assert verify_pruning(net, apply_plan(net, plan), plan, IMAGES, tolerance=1e-2).largest_difference < 1e-2


class TwoHeads(nn.Module):
    """Two answers, the second of which can be spoilt."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.further = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.body(x))
        return self.head(x), self.further(x)


def test_nan_in_any_output_is_a_difference() -> None:
    net = TwoHeads().eval()
    plan = random_plan(channel_groups(net, IMAGES))
    pruned = apply_plan(net, plan)
    with torch.no_grad():
        pruned.further.weight[0, 0] = float("nan")
    with pytest.raises(VerificationError, match="differs from the masked one by nan"):
        verify_pruning(net, pruned, plan, IMAGES)
    with torch.no_grad():
        net.further.weight[0, 0] = float("nan")
    with pytest.raises(NetworkError, match="NaN or infinite"):
        verify_pruning(net, pruned, plan, IMAGES)
