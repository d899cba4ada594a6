"""A search on a GPU finds the plan that it finds on the CPU, whatever its candidates are judged by."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from secateur import MacsCost, channel_groups, greedy_plan, recalibrate_batch_norm, verify_pruning
from secateur.channel_graph import apply_plan
from secateur.evaluation import CandidateWorth
from secateur.networks import resnet20
from secateur.scoring import scores_by_name

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda")]


@pytest.mark.parametrize("measure", ["accuracy", "loss", "fidelity"])
@pytest.mark.parametrize("recovery", ["none", "recalibrate", "compensate"])
def test_greedy(measure: Any, recovery: Any) -> None:
    images, labels = torch.randn(24, 3, 16, 16), torch.arange(24) % 10
    batches = [(images[:12], labels[:12]), (images[12:], labels[12:])]
    network = resnet20().eval()
    recalibrate_batch_norm(network, [images])
    groups = channel_groups(network, images[:2], residual="skip")
    scores = scores_by_name(network, batches, "l1", groups=groups)
    cost = MacsCost(network, images[:2], groups)

    def plan_of(model: torch.nn.Module) -> Any:
        calibration = None if recovery == "none" else batches
        worth = CandidateWorth(
            model, groups, batches, measure=measure, recovery=recovery, calibration=calibration, samples=20
        )
        return greedy_plan(groups, scores, cost, "85%", worth, delta=0.05, round_to=1)

    there = copy.deepcopy(network).cuda()
    plan = plan_of(there)
    assert plan.kept == plan_of(network).kept
    verify_pruning(there, apply_plan(there, plan), plan, images[:4].cuda())
