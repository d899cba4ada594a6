"""Batch norms of buffers alone, as in torchvision's detectors, are cut like any other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from secateur.channel_graph import apply_plan, channel_groups, verify_pruning
from secateur.cost import ParameterCost
from secateur.records import PruningPlan

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def frozen() -> FrozenBatchNorm2d:
    torch.manual_seed(1)
    norm = FrozenBatchNorm2d(8)
    for values in norm.buffers():
        values.uniform_(0.5, 1.5)
    return norm


def test_a_frozen_batch_norm_is_cut_as_one_that_learns() -> None:
    norm = frozen()
    net = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    groups = channel_groups(net, IMAGES)
    assert [(m.layer, m.role) for m in groups["0"].members] == [("0", "producer"), ("1", "carrier"), ("3", "consumer")]
    plan = PruningPlan(tuple(groups.values()), {"0": (1, 4)}, "none", 0.0, 0.0, 0.0)
    pruned = apply_plan(net, plan)
    assert all(
        torch.equal(own, values[[1, 4]]) for own, values in zip(pruned[1].buffers(), norm.buffers(), strict=True)
    )
    assert len(norm.weight) == 8
    assert verify_pruning(net, pruned, plan, IMAGES).largest_difference < 1e-5
    assert ParameterCost(net, groups)(plan.widths) == sum(p.numel() for p in pruned.parameters())


@pytest.mark.parametrize("kind", [FrozenBatchNorm2d, nn.BatchNorm2d])
def test_backbones_of_detectors_are_pruned(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=kind, trainable_layers=5).eval()
    groups = channel_groups(net, IMAGES)
    assert len(groups) == 13
    plan = PruningPlan(
        tuple(groups.values()), {n: tuple(range(0, g.width, 2)) for n, g in groups.items()}, "none", 0.0, 0.0, 0.0
    )
    assert verify_pruning(net, apply_plan(net, plan), plan, IMAGES).largest_difference < 1e-4
