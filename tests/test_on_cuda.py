"""The steps of the README on a network that lies on a CUDA device, with images as loaders give them: of the host."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.channel_map import ChannelMap, with_channel_maps
from secateur.cost.by_name import COSTS
from secateur.criteria import CRITERIA, GRADIENT_CRITERIA, GROUP_CRITERIA, WEIGHT_CRITERIA
from secateur.networks import resnet20
from secateur.scoring import scores_by_name

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda")]


def test_the_ten_lines_give_what_they_give_here() -> None:
    torch.manual_seed(0)
    loader = [(torch.randn(16, 3, 16, 16), torch.arange(16) % 10) for _ in range(2)]
    network, (images, _) = resnet20().eval(), loader[0]
    secateur.recalibrate_batch_norm(network, loader)
    found = {}
    for model in (network, copy.deepcopy(network).cuda()):
        groups = secateur.channel_groups(model, images)
        scores = secateur.collect_scores(model, loader, "hrank")
        curves = secateur.reconstruction_scores(model, groups, loader, order=scores)
        cost = secateur.MacsCost(model, images, groups)
        plan = secateur.curve_plan(groups, curves, cost, "50%", round_to=8)
        pruned = secateur.apply_plan(model, plan)
        secateur.verify_pruning(model, pruned, plan, images)
        secateur.compensate(model, pruned, plan, loader)
        secateur.fine_tune(pruned, loader, loader, epochs=1, learning_rate=1e-3)
        lies = next(pruned.parameters()).device
        assert lies == next(model.parameters()).device
        with torch.no_grad():
            found[lies.type] = plan.kept, pruned.eval()(images.to(lies)).cpu(), secateur.accuracy(pruned, loader)
    assert found["cuda"][0] == found["cpu"][0]
    torch.testing.assert_close(found["cuda"][1], found["cpu"][1], rtol=1e-2, atol=1e-2)
    assert found["cuda"][2] == pytest.approx(found["cpu"][2], abs=0.1)


def test_costs_are_the_same_there() -> None:
    network, images = resnet20().eval(), torch.randn(2, 3, 16, 16)
    groups = secateur.channel_groups(network, images)
    there = copy.deepcopy(network).cuda()
    for name in COSTS:
        assert secateur.cost_model(name, there, images, groups)({}) == secateur.cost_model(
            name, network, images, groups
        )({})


class Padded(nn.Module):
    """Twice as many channels, the new ones zero."""

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.pad(inputs, (0, 0, 0, 0, 2, 2))


def test_zero_padded_shortcuts_are_found_there() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Padded()).cuda()
    assert isinstance(with_channel_maps(network, torch.randn(2, 3, 8, 8))[1], ChannelMap)


@pytest.mark.parametrize("importance", ["hrank", "di", "reconstruction", "l1"])
def test_torch_prunings_groups_are_pruned_there(importance: str) -> None:
    loader = [(torch.randn(16, 3, 16, 16), torch.arange(16) % 10)]
    network, images = resnet20().eval(), loader[0][0]
    secateur.recalibrate_batch_norm(network, loader)
    scored = {
        "hrank": lambda: secateur.HRankImportance(loader),
        "di": lambda: secateur.DIImportance(loader),
        "reconstruction": lambda: secateur.ReconstructionImportance(loader),
        "l1": lambda: secateur.WeightImportance("l1"),
    }[importance]
    here = secateur.prune(network, images, scored(), pruning_ratio=0.5)
    there = secateur.prune(copy.deepcopy(network).cuda(), images, scored(), pruning_ratio=0.5)
    assert there.plan.kept == here.plan.kept
    assert next(there.model.parameters()).is_cuda


@pytest.mark.parametrize("criterion", [*CRITERIA, *WEIGHT_CRITERIA, *GRADIENT_CRITERIA, *GROUP_CRITERIA])
def test_scores_by_name_are_made_there(criterion: str) -> None:
    loader = [(torch.randn(16, 3, 16, 16), torch.arange(16) % 10)]
    network = resnet20().eval()
    groups = secateur.channel_groups(network, loader[0][0])
    here = scores_by_name(network, loader, criterion, groups=groups)
    there = scores_by_name(copy.deepcopy(network).cuda(), loader, criterion, groups=groups)
    for layer, scores in here.items():
        torch.testing.assert_close(there[layer], scores, rtol=1e-3, atol=1e-5)
