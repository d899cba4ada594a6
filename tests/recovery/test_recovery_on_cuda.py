"""Recovery on a GPU gives what it gives on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from compensation_for_tests import random_plan
from networks_for_tests import Residual
from secateur import apply_plan, compensate, reconstruct
from secateur.scoring import reconstruction_scores

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda")]
IMAGES = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_compensation() -> None:
    torch.manual_seed(0)
    network = Residual().eval()
    plan = random_plan(network, IMAGES[:2])
    here, there = apply_plan(network, plan), apply_plan(network, plan).cuda()
    on_cpu = compensate(network, here, plan, [IMAGES])
    on_gpu = compensate(copy.deepcopy(network).cuda(), there, plan, [IMAGES])
    for fit, other in zip(on_cpu.layers, on_gpu.layers, strict=True):
        assert fit.after == pytest.approx(other.after, rel=1e-2, abs=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(there(IMAGES.cuda()).cpu(), here(IMAGES), rtol=1e-2, atol=1e-3)


def test_reconstruction() -> None:
    torch.manual_seed(0)
    network = Residual().eval()
    plan = random_plan(network, IMAGES[:2])
    on_cpu, on_gpu = reconstruct(network, plan, [IMAGES]), reconstruct(network.cuda(), plan, [IMAGES])
    assert on_gpu.plan.kept == on_cpu.plan.kept
    assert next(on_gpu.model.parameters()).is_cuda


def test_reconstruction_scores() -> None:
    torch.manual_seed(0)
    network = Residual().eval()
    groups = {group.name: group for group in random_plan(network, IMAGES[:2]).groups}
    here = reconstruction_scores(network, groups, [IMAGES])
    there = reconstruction_scores(network.cuda(), groups, [IMAGES])
    for name, scores in here.items():
        torch.testing.assert_close(there[name], scores, rtol=1e-3, atol=1e-6)
