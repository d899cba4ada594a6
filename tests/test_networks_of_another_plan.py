"""What works by a plan or by channel groups refuses a network that they are not of, by name and before any work."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from secateur import (
    MacsCost,
    apply_plan,
    autoprune,
    channel_groups,
    prune_by_soft_clusters,
    uniform_plan,
    verify_pruning,
    weight_scores,
)
from secateur.errors import NetworkError, PlanError, SecateurError
from secateur.training import prune_layer_by_layer


def build(width: int = 6) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))
    )


NET, BATCHES = build(), [(torch.rand(4, 1, 6, 6), torch.arange(4) % 2)]
GROUPS = channel_groups(NET, BATCHES[0][0])
COST = MacsCost(NET, BATCHES[0][0], GROUPS)
PLAN = uniform_plan(GROUPS, weight_scores(NET, "l1"), COST, "60%", round_to=1)
CALLS: dict[str, tuple[type[SecateurError], Callable[[nn.Module], object]]] = {
    "apply_plan": (PlanError, lambda net: apply_plan(net, PLAN)),
    "verify_pruning": (PlanError, lambda net: verify_pruning(net, apply_plan(NET, PLAN), PLAN, BATCHES[0][0])),
    "prune_layer_by_layer": (PlanError, lambda net: prune_layer_by_layer(net, PLAN, BATCHES)),
    "prune_by_soft_clusters": (
        NetworkError, lambda net: prune_by_soft_clusters(net, GROUPS, COST, BATCHES, keep=PLAN.widths),
    ),
    "autoprune": (NetworkError, lambda net: autoprune(net, GROUPS, COST, BATCHES, keep=PLAN.widths)),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_another_network_is_refused(name: str) -> None:
    error, call = CALLS[name]
    with pytest.raises(error, match="has 4"):
        call(build(4))
    with pytest.raises(error, match="'4'"):
        call(build()[:3])


@pytest.mark.parametrize("name", CALLS)
def test_a_wrapped_network_is_refused(name: str) -> None:
    with pytest.raises(NetworkError, match=r"wrapped in DataParallel; give the network inside, `model\.module`"):
        CALLS[name][1](nn.DataParallel(build()))
