"""`prune` in several steps ends with as many channels as in one, whatever the smaller network looks like."""

from __future__ import annotations

import pytest
import torch
import torch_pruning as tp
from torch import nn

from networks_for_tests import Depthwise, Grouped, Residual
from secateur import WeightImportance, apply_plan, prune, verify_pruning

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
L1 = WeightImportance("l1")


def in_blocks(seed: int) -> nn.Sequential:
    """A grouped convolution: with one output per block it looks depthwise."""
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=4), nn.ReLU(), nn.Conv2d(16, 4, 1))
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("ratio", "steps"), [(0.95, 5), (0.8, 20), (1.0, 2)])
def test_a_grouped_convolution_that_comes_to_look_depthwise(seed: int, ratio: float, steps: int) -> None:
    net = in_blocks(seed)
    result = prune(net, IMAGES, L1, pruning_ratio=ratio, iterative_steps=steps)
    assert result.plan.widths == prune(net, IMAGES, L1, pruning_ratio=ratio).plan.widths == {"0": 1, "2": 1}
    for ours, again in zip(result.model.parameters(), apply_plan(net, result.plan).parameters(), strict=True):
        assert torch.equal(ours, again)
    assert verify_pruning(net, result.model, result.plan, IMAGES).largest_difference < 1e-5


@pytest.mark.parametrize("network", [Residual, Depthwise, Grouped])
@pytest.mark.parametrize("global_pruning", [False, True])
@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_widths_are_those_of_one_step(network: type[nn.Module], global_pruning: bool, ratio: float) -> None:
    """Under global ranking the scores of each step decide, and only the number of all channels is the same."""
    net = network().eval()
    magnitude = tp.importance.GroupMagnitudeImportance(p=1)
    once, stepwise = (
        prune(net, IMAGES, magnitude, pruning_ratio=ratio, global_pruning=global_pruning, iterative_steps=steps)
        for steps in (1, 5)
    )
    assert verify_pruning(net, stepwise.model, stepwise.plan, IMAGES).largest_difference < 1e-5
    if global_pruning:
        assert sum(stepwise.plan.widths.values()) == sum(once.plan.widths.values())
    else:
        assert stepwise.plan.widths == once.plan.widths


def test_a_group_that_is_down_to_one_channel_still_counts() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1))
    net = nn.Sequential(*layers).eval()
    net[0].weight.data *= 1e-3
    for steps in (1, 2, 4):
        result = prune(net, IMAGES, L1, pruning_ratio=0.5, global_pruning=True, iterative_steps=steps)
        assert result.plan.widths == {"0": 1, "2": 19}
        assert {*result.skipped} == {"4"}


def test_steps_after_all_has_gone_that_can_change_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    seen = list[int]()
    result = prune(net, IMAGES, L1, pruning_ratio=0.9, iterative_steps=8, on_step=lambda _, step: seen.append(step))
    assert result.plan.widths == {"0": 1}
    assert seen == [*range(1, 9)]


def test_host_takes_a_grouped_convolution_with_one_output_per_block_for_a_depthwise_one() -> None:
    kinds = [
        tp.ops.module2type(nn.Conv2d(8, 4 * outputs, 3, groups=4)) == tp.ops.OPTYPE.DEPTHWISE_CONV for outputs in (1, 2)
    ]
    assert kinds == [True, False]


def test_scores_are_made_anew_for_what_training_has_changed() -> None:
    """Between the steps the strongest channels become the weakest: old scores would keep 4, 5, 6 and 7."""
    net = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    net[0].weight.data = torch.arange(1.0, 9)[:, None, None, None].expand(8, 3, 1, 1).contiguous()

    def turned(model: nn.Module, _: int) -> None:
        weight = model.get_parameter("0.weight")
        weight.data = weight.data.flip(0)

    result = prune(net, IMAGES, L1, pruning_ratio=0.5, iterative_steps=2, on_step=turned)
    assert result.plan["0"] == (2, 3, 4, 5)
