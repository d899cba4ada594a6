"""Streams masked layer by layer: zeroed where they are, as in the published code, and nothing becomes smaller."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from networks_for_tests import Residual, ZeroPaddedShortcut, randomise_batch_norm, torchvision_network
from secateur.channel_graph import apply_plan, channel_groups, masked, verify_pruning, zero_masked
from secateur.checkpoint import load_pruned, save_pruned
from secateur.cost import MacsCost, ParameterCost, hrank_cost
from secateur.errors import ConfigError, PlanError
from secateur.networks import digits_resnet, resnet56
from secateur.networks.cifar_resnet import CifarResNet
from secateur.pruning import prune
from secateur.records import ChannelGroup, ChannelGroups, Member, PruningPlan, ScoreTable
from secateur.recovery import compensate, recalibrate_batch_norm, reconstruct
from secateur.search import PUBLISHED_RATES, rate_plan, uniform_plan
from secateur.training import fine_tune

CIFAR = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
DIGITS = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
NETWORKS = {"zero padding": (lambda: CifarResNet(14), CIFAR), "projections": (digits_resnet, DIGITS)}
STREAM = {
    "zero padding": ["conv1", *(f"layer{s}.{b}.conv2" for s in (1, 2, 3) for b in (0, 1))],
    "projections": [
        "conv1",
        "layer1.0.conv2",
        "layer2.0.conv2",
        "layer2.0.shortcut.0",
        "layer3.0.conv2",
        "layer3.0.shortcut.0",
        "layer3.1.conv2",
    ],
}


def network_of(kind: str) -> tuple[nn.Module, Tensor]:
    build, images = NETWORKS[kind]
    return randomise_batch_norm(build()).eval(), images


def plan_of(groups: ChannelGroups, *, seed: int = 0, only: str = "") -> PruningPlan:
    """Keep a random half of every group, or of the masked or the cut ones only."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for name, group in groups.items():
        chosen = sorted(torch.randperm(group.width, generator=generator)[: max(1, group.width // 2)].tolist())
        if not only or (only == "masked") == group.masked:
            kept[name] = tuple(chosen)
    return PruningPlan(tuple(groups.values()), kept, "macs", 1.0, 0.5, 0.5)


def zero_by_hand(net: nn.Module, norms: Mapping[str, str], gone: Mapping[str, Sequence[int]]) -> nn.Module:
    """Convolution by convolution: the filter, its bias, and the weight and bias of its batch norm."""
    zeroed = copy.deepcopy(net)
    modules = dict(zeroed.named_modules())
    with torch.no_grad():
        for name, channels in gone.items():
            for channel in channels:
                for module in (modules[name], modules[norms[name]]):
                    module.weight[channel] = 0.0
                    if module.bias is not None:
                        module.bias[channel] = 0.0
    return zeroed


def norm_of(layer: str) -> str:
    """The batch norm behind a convolution, by the names of the networks of these tests."""
    return layer[:-1] + "1" if layer.endswith("shortcut.0") else layer.replace("conv", "bn")


def outputs_of(net: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net(images)


@pytest.mark.parametrize("kind", NETWORKS)
def test_each_layer_of_a_stream_is_a_group_of_its_own_with_its_batch_norm(kind: str) -> None:
    net, images = network_of(kind)
    groups = channel_groups(net, images, residual="mask")
    assert [name for name, group in groups.items() if group.masked] == STREAM[kind]
    for name in STREAM[kind]:
        assert [(m.layer, m.role) for m in groups[name].members] == [(name, "masked"), (norm_of(name), "masked")]
        assert [m.layer for m in groups[name].producers] == [name]
    inner = {name: group for name, group in groups.items() if not group.masked}
    assert list(inner.values()) == list(channel_groups(net, images, residual="skip").values())
    assert dict(groups.skipped) == {"linear": "its channels are the network's outputs"}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_plan_sets_to_zero_what_is_set_to_zero_by_hand(kind: str, seed: int) -> None:
    net, images = network_of(kind)
    plan = plan_of(channel_groups(net, images, residual="mask"), seed=seed, only="masked")
    literal = zero_by_hand(net, {name: norm_of(name) for name in STREAM[kind]}, plan.masked)
    applied = apply_plan(net, plan)
    assert set(plan.masked) == set(STREAM[kind])
    assert all(torch.equal(value, literal.state_dict()[key]) for key, value in applied.state_dict().items())
    assert torch.equal(outputs_of(applied, images), outputs_of(literal, images))
    assert not torch.allclose(outputs_of(net, images), outputs_of(literal, images), atol=1e-3)
    with masked(net, {group.name: group for group in plan.groups}, plan.kept):
        assert torch.equal(outputs_of(net, images), outputs_of(literal, images))


@pytest.mark.parametrize("kind", NETWORKS)
def test_masked_beside_cut_channels(kind: str) -> None:
    """The same layer loses inputs for good and writes zeros: removed still equals masked, and masks are lifted."""
    net, images = network_of(kind)
    before = copy.deepcopy(net.state_dict())
    groups = channel_groups(net, images, residual="mask")
    plan = plan_of(groups)
    pruned = apply_plan(net, plan)
    literal = zero_by_hand(net, {name: norm_of(name) for name in STREAM[kind]}, plan.masked)
    inner = PruningPlan(plan.groups, {n: k for n, k in plan.kept.items() if not groups[n].masked}, "macs", 1, 1, 1)
    torch.testing.assert_close(outputs_of(pruned, images), outputs_of(apply_plan(literal, inner), images))
    assert verify_pruning(net, pruned, plan, images).largest_difference < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("kind", NETWORKS)
def test_masked_channels_save_nothing_that_is_counted_structurally(kind: str) -> None:
    net, images = network_of(kind)
    groups = channel_groups(net, images, residual="mask")
    half = plan_of(groups, only="masked")
    macs, parameters = MacsCost(net, images[:1], groups), ParameterCost(net, groups)
    assert macs(half.widths) == macs({})
    assert parameters(half.widths) == parameters({}) == sum(p.numel() for p in net.parameters())
    pruned = apply_plan(net, plan := plan_of(groups))
    assert macs(plan.widths) == MacsCost(pruned, images[:1], {})({}) < macs({})
    assert parameters(plan.widths) == sum(p.numel() for p in pruned.parameters()) < parameters({})


def test_a_uniform_plan_masks_the_lowest_of_each_layer_by_its_own_scores() -> None:
    net, images = network_of("zero padding")
    groups = channel_groups(net, images, residual="mask")
    scores = ScoreTable({name: torch.rand(group.width).double() for name, group in groups.items()})
    plan = uniform_plan(groups, scores, MacsCost(net, images[:1], groups), "60%", round_to=1)
    for name, gone in plan.masked.items():
        assert set(gone) == set(scores[name].argsort()[: len(gone)].tolist())
    assert sum(map(len, plan.masked.values())) > 0


def test_the_published_plan_of_resnet56_is_one_of_masks() -> None:
    """Inner layers shrink, stream layers are zeroed; the paper counts both, and only the first is saved."""
    net, published = randomise_batch_norm(resnet56()).eval(), PUBLISHED_RATES["resnet56"]
    groups = channel_groups(net, CIFAR, residual="mask")
    scores = ScoreTable({name: torch.randperm(group.width).double() for name, group in groups.items()})
    plan = rate_plan(groups, scores, hrank_cost(net, CIFAR[:1], groups), published.rates, mode="hrank")
    assert (len(groups), sum(group.masked for group in groups.values())) == (55, 28)
    assert plan.cost_after / 1e6 == pytest.approx(published.macs, abs=0.01)
    dense, gone = sum(group.width for group in groups.values()), sum(map(len, plan.masked.values()))
    assert (dense, gone) == (
        2032,
        sum(groups[n].width - plan.widths[n] for n in groups if n.endswith("2") or n == "conv1"),
    )
    pruned = apply_plan(net, plan)
    assert MacsCost(net, CIFAR[:1], groups)(plan.widths) == MacsCost(pruned, CIFAR[:1], {})({}) > plan.cost_after
    assert verify_pruning(net, pruned, plan, CIFAR).largest_difference < 1e-5


def test_plan_and_network_come_back_from_the_disk(tmp_path: Path) -> None:
    net, images = network_of("projections")
    plan = plan_of(channel_groups(net, images, residual="mask"))
    again = PruningPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.masked == plan.masked != {}
    assert again.fingerprint == plan.fingerprint
    pruned = apply_plan(net, plan)
    save_pruned(pruned, digits_resnet(), plan, tmp_path)
    assert torch.equal(outputs_of(load_pruned(digits_resnet, tmp_path), images), outputs_of(pruned, images))


def test_training_revives_masked_channels_unless_they_are_zeroed_after_each_step() -> None:
    net, images = network_of("projections")
    plan = plan_of(channel_groups(net, images, residual="mask"))
    batches = [(images, torch.tensor([0, 1, 2]))] * 3

    def largest(trained: nn.Module) -> float:
        modules = dict(trained.named_modules())
        return max(
            modules[norm_of(name)].bias[list(gone)].abs().max().item() for name, gone in plan.masked.items() if gone
        )

    free, held = apply_plan(net, plan), apply_plan(net, plan)
    fine_tune(free, batches, epochs=1)
    fine_tune(held, batches, epochs=1, on_step=lambda *_: zero_masked(held, plan))
    assert largest(free) > 0
    assert largest(held) == 0


@pytest.mark.filterwarnings("ignore:fewer rows than unknowns")
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda channels: nn.Identity()], ids=["batch norm", "none"])
@pytest.mark.parametrize("recover", ["recalibrate", "compensate", "reconstruct"])
def test_recovery_leaves_masked_channels_silent(recover: str, norm: Callable[[int], nn.Module]) -> None:
    net = Residual().eval()
    net.norm = randomise_batch_norm(norm(8)).eval()
    images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    plan = plan_of(channel_groups(net, images[:2], residual="mask"))
    pruned = apply_plan(net, plan)
    if recover == "compensate":
        assert "second" in [fit.layer for fit in compensate(net, pruned, plan, [images]).layers]
    elif recover == "reconstruct":
        pruned = reconstruct(net, plan, [images]).model
    else:
        recalibrate_batch_norm(pruned, [images])
    written: list[Tensor] = []
    pruned.norm.register_forward_hook(lambda _module, _inputs, output: written.append(output))
    outputs_of(pruned.eval(), images)
    gone = list(plan.masked["second"])
    assert written[0][:, gone].abs().max() == 0
    assert written[0].abs().amax((0, 2, 3)).count_nonzero() == 8 - len(gone)


# --- what has another shape, and what is refused ----------------------------------------------------------------------


def test_a_layer_without_batch_norm_is_masked_with_its_bias() -> None:
    net = Residual().eval()
    groups = channel_groups(net, CIFAR, residual="mask")
    assert [[m.layer for m in groups[name].members] for name in ("stem", "second")] == [["stem"], ["second", "norm"]]
    pruned = apply_plan(net, PruningPlan(tuple(groups.values()), {"stem": (1, 2)}, "macs", 1.0, 1.0, 1.0))
    assert pruned.stem.weight.abs().sum((1, 2, 3)).nonzero().flatten().tolist() == [1, 2]
    assert pruned.stem.bias.nonzero().flatten().tolist() == [1, 2]


def test_a_stream_that_cannot_be_pruned_jointly_can_be_masked() -> None:
    net = ZeroPaddedShortcut().eval()
    assert set(channel_groups(net, CIFAR, residual="mask")) == {"stem", "inner", "outer"}
    assert set(channel_groups(net, CIFAR)) == {"inner"}


def test_a_block_with_a_channel_map_writes_a_stream() -> None:
    """One convolution and what the narrower stream brings: left as it is by "skip", masked by "mask"."""
    net = randomise_batch_norm(CifarResNet(8)).eval()
    assert set(channel_groups(net, CIFAR, residual="skip")) == {f"layer{stage}.0.conv1" for stage in (1, 2, 3)}
    assert "layer2.0.conv2" in channel_groups(net, CIFAR, residual="skip").skipped
    assert channel_groups(net, CIFAR, residual="mask")["layer2.0.conv2"].masked


def test_bottlenecks_of_torchvision() -> None:
    net = randomise_batch_norm(torchvision_network("resnet50")).eval()
    images = torch.randn(2, 3, 32, 32)
    groups = channel_groups(net, images, residual="mask", check=False)
    masks = [name for name, group in groups.items() if group.masked]
    assert masks == [n for n, _ in net.named_modules() if n.endswith(("conv3", "downsample.0"))]
    assert len([name for name in groups if name not in masks]) == 33  # the stem and two convolutions a block


def test_layers_that_are_ignored_stay_by_themselves() -> None:
    net, images = network_of("zero padding")
    groups = channel_groups(net, images, residual="mask", ignore=["layer1.0.conv2"])
    assert groups.skipped["layer1.0.conv2"] == "asked to be left as it is"
    assert groups["conv1"].masked


def test_what_cannot_be_masked_is_left_with_the_reason() -> None:
    class Plain(nn.Module):
        def __init__(self, branch: nn.Module) -> None:
            super().__init__()
            self.stem, self.branch, self.head = nn.Conv2d(3, 4, 1), branch, nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.branch(x))

    bare = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False))
    assert "no weight that could be zero" in channel_groups(Plain(bare), CIFAR, residual="mask").skipped["branch.0"]
    transposed = Plain(nn.ConvTranspose2d(4, 4, 1))
    assert "transposed" in channel_groups(transposed, CIFAR, residual="mask").skipped["branch"]


def test_pruning_by_an_importance_refuses_masks() -> None:
    with pytest.raises(ConfigError, match=r"residual is .mask.; .* allowed: joint, skip"):
        prune(Residual(), CIFAR, lambda group: None, residual="mask")


def test_plans_of_other_networks_and_impossible_layers_are_refused() -> None:
    net, images = network_of("projections")
    plan = plan_of(channel_groups(net, images, residual="mask"))
    with pytest.raises(PlanError, match="does not have"):
        zero_masked(Residual(), plan)
    group = ChannelGroup("0", 2, (Member("0", "masked", ((0,), (1,))),))
    odd = PruningPlan((group,), {"0": (0,)}, "macs", 1.0, 1.0, 1.0)
    with pytest.raises(PlanError, match=r"'0' \(ConvTranspose2d\) cannot be masked; allowed: conv"):
        apply_plan(nn.Sequential(nn.ConvTranspose2d(1, 2, 1)), odd)
