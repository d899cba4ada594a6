"""A network may work in place on its images; those of the user stay as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import (
    MacsCost,
    accuracy,
    apply_plan,
    autoprune,
    channel_groups,
    collect_scores,
    compensate,
    fine_tune,
    gradient_scores,
    prune_by_soft_clusters,
    recalibrate_batch_norm,
    reconstruct,
    reconstruction_scores,
    uniform_plan,
    verify_pruning,
    weight_scores,
)
from secateur.channel_graph import host_importance_scores
from secateur.evaluation import CandidateWorth
from secateur.quantization import calibrated, uniform_bits
from secateur.records import PruningPlan
from secateur.training import Recipe, prune_layer_by_layer

IMAGES = torch.randn(24, 3, 9, 9, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3


class Case:
    """A network that begins in place, and what can be made of it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = nn.ReLU(inplace=True), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU()
        self.network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()
        self.groups = channel_groups(self.network, IMAGES[:2])
        self.start = self.network, self.groups, MacsCost(self.network, IMAGES[:2], self.groups)
        scores = weight_scores(self.network, "l1")
        self.plan: PruningPlan = uniform_plan(self.groups, scores, self.start[2], "60%", round_to=1)
        self.pruned = apply_plan(self.network, self.plan)

    def worth(self, images: Tensor, **recovery: Any) -> object:
        judge = CandidateWorth(self.network, self.groups, [(images, LABELS)], **recovery)
        return judge.race([{"1": (0, 1)}, {}])


@pytest.mark.filterwarnings("ignore::secateur.errors.SecateurWarning")
@pytest.mark.parametrize(
    "use",
    [
        lambda case, x: channel_groups(case.network, x),
        lambda case, x: MacsCost(case.network, x, case.groups),
        lambda case, x: collect_scores(case.network, [x], "hrank"),
        lambda case, x: gradient_scores(case.network, [(x, LABELS)]),
        lambda case, x: reconstruction_scores(case.network, case.groups, [x]),
        lambda case, x: weight_scores(case.network, "bn_scale", example_inputs=x),
        lambda case, x: host_importance_scores(case.network, case.groups, [(x, LABELS)], "taylor"),
        lambda case, x: accuracy(case.network, [(x, LABELS)]),
        lambda case, x: case.worth(x),
        lambda case, x: case.worth(x, recovery="compensate", calibration=[x]),
        lambda case, x: case.worth(x, recovery="recalibrate", calibration=[x]),
        lambda case, x: verify_pruning(case.network, case.pruned, case.plan, x),
        lambda case, x: compensate(case.network, case.pruned, case.plan, [x]),
        lambda case, x: recalibrate_batch_norm(case.pruned, [x]),
        lambda case, x: reconstruct(case.network, case.plan, [x]),
        lambda case, x: fine_tune(case.network, [(x, LABELS)], [(x, LABELS)], epochs=1),
        lambda case, x: prune_layer_by_layer(case.network, case.plan, [(x, LABELS)], recipe=Recipe(epochs=1)),
        lambda case, x: prune_by_soft_clusters(*case.start, [(x, LABELS)], keep={"1": 3}, recipe=Recipe(epochs=1)),
        lambda case, x: autoprune(*case.start, [(x, LABELS)], keep={"1": 3}, epochs=1),
        lambda case, x: calibrated(case.network, uniform_bits(case.network, 8), [x]),
    ],
)
def test_images_stay_as_they_were(use: Callable[[Case, Tensor], object]) -> None:
    images = IMAGES.clone()
    use(Case(), images)
    assert torch.equal(images, IMAGES)
