"""Called in inference mode, groups, importances and surgery are what they are outside of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur import WeightImportance, prune
from secateur.channel_graph import apply_plan, channel_groups, host_importance_scores, verify_pruning
from secateur.records import PruningPlan


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("where", ["nothing", "images", "network"])
def test_what_is_pruned_in_inference_mode_can_be_trained(where: str) -> None:
    net, x = network(), images()
    with torch.inference_mode():
        net, x = (network() if where == "network" else net), (images() if where == "images" else x)
        groups = channel_groups(net, x)
        plan = PruningPlan(tuple(groups.values()), {"0": (1, 2)}, "none", 0.0, 0.0, 0.0)
        pruned = apply_plan(net, plan)
        assert verify_pruning(net, pruned, plan, x).largest_difference < 1e-5
    assert list(groups.values()) == list(channel_groups(network(), images()).values())
    before = [p.clone() for p in pruned.parameters()]
    pruned.train()(images()).square().sum().backward()
    torch.optim.SGD(pruned.parameters(), 0.1).step()
    assert not any(torch.equal(old, new) for old, new in zip(before, pruned.parameters(), strict=True) if old.ndim > 1)


@pytest.mark.parametrize("where", ["nothing", "images", "network"])
def test_what_importances_say_in_inference_mode_is_what_they_say_outside(where: str) -> None:
    net, x = network().eval(), images()
    groups = channel_groups(net, x)
    gradients = host_importance_scores(net, groups, [(x, torch.arange(2))], "taylor")["0"]
    kept = prune(net, x, WeightImportance("l1")).plan.kept
    assert len(kept["0"]) == 4
    with torch.inference_mode():
        net, x = (network().eval() if where == "network" else net), (images() if where == "images" else x)
        assert prune(net, x, WeightImportance("l1")).plan.kept == kept
        batches = [(x, torch.arange(2))]
        assert torch.equal(host_importance_scores(net, groups, batches, "taylor")["0"], gradients)
