"""A channel that does nothing goes first, whoever scores: this would notice scores that are reversed or shuffled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.channel_graph import HOST_IMPORTANCES, channel_groups
from secateur.cost import MacsCost
from secateur.search import uniform_plan
from secateur_cli.comparison.contenders import Subject, chosen, scores_of

DEAD = 4
OURS = ("l1", "l2", "fpgm", "bn_scale", "hrank", "di", "mean_activation", "variance", "reconstruction")
THEIRS = [f"torch-pruning:{name}" for name in HOST_IMPORTANCES if name not in ("random", "fpgm")]
"""Torch-Pruning's FPGM measures distances between squares of weights, among which zeros are no median."""
NNI = [f"nni:{name}" for name in ("l1", "l2", "fpgm", "taylor")]
"""NNI's Slim learns factors of its own, which all begin alike, whatever the batch norm says."""


def mirrored(*shape: int) -> torch.Tensor:
    """Seven filters: three, their negatives, and between them one of zeros, the geometric median of all."""
    drawn = torch.randn(3, *shape)
    ordered = torch.cat([drawn, -drawn])
    return torch.cat([ordered[:DEAD], torch.zeros(1, *shape), ordered[DEAD:]])


@pytest.fixture(scope="module")
def subject() -> Subject:
    """A network whose first layer has a channel that is zero in its weights, its batch norm and in what reads it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 7, 3, padding=1, bias=False), nn.BatchNorm2d(7), nn.ReLU(),
        nn.Conv2d(7, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    with torch.no_grad():
        model.get_submodule("0").weight.copy_(mirrored(3, 3, 3))
        model.get_submodule("3").weight.copy_(mirrored(4, 3, 3).transpose(0, 1))
        model.get_submodule("1").weight.copy_(torch.rand(7) + 0.5)
        model.get_submodule("1").weight[DEAD] = 0
    batches = [(torch.randn(16, 3, 8, 8), torch.arange(16) % 5) for _ in range(2)]
    return Subject(model.eval(), channel_groups(model, batches[0][0][:2], ignore=["3"]), batches, "act")


@pytest.mark.filterwarnings("ignore:hrank gives more than a quarter")
@pytest.mark.parametrize("name", [*OURS, *THEIRS, *NNI])
def test_what_does_nothing_goes_first(subject: Subject, name: str) -> None:
    if name.startswith("nni:"):
        pytest.importorskip("nni")
    groups = subject.groups
    assert {*groups} == {"0"}
    scores = scores_of(subject, name, {}, samples=32, seed=0)
    values = groups["0"].combine(scores)
    assert int(values.argmin()) == DEAD
    assert int((values == values[DEAD]).sum()) == 1
    cost = MacsCost(subject.model, subject.batches[0][0][:2], groups)
    plan = uniform_plan(groups, scores, cost, "90%", round_to=1)
    plan = chosen(subject, plan, name, {}, samples=32, scores=scores)
    assert plan.kept["0"] == tuple(channel for channel in range(7) if channel != DEAD)
