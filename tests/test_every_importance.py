"""Every criterion of secateur prunes inside Torch-Pruning, in whatever way its pruner compares."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch_pruning as tp
from torch import nn

from importances_for_tests import EXAMPLE, LABELLED, convolutions
from networks_for_tests import Depthwise, Grouped, Residual
from secateur import CriterionImportance, GradientImportance, ReconstructionImportance, WeightImportance
from secateur.channel_graph.importance import ScoreImportance
from secateur.criteria import CRITERIA, GRADIENT_CRITERIA, WEIGHT_CRITERIA
from secateur.errors import SecateurWarning


def every_importance() -> dict[str, ScoreImportance]:
    return (
        {name: CriterionImportance(name, LABELLED) for name in CRITERIA}
        | {name: WeightImportance(name, example_inputs=LABELLED[0][0]) for name in WEIGHT_CRITERIA}
        | {name: GradientImportance(LABELLED, name) for name in GRADIENT_CRITERIA}
        | {"reconstruction": ReconstructionImportance(LABELLED, rows=500)}
    )


@pytest.mark.parametrize("settings", [{}, {"global_pruning": True}, {"global_pruning": True, "isomorphic": True}])
@pytest.mark.parametrize(
    ("network", "name"),
    [
        (n, name)
        for n in (Residual, Depthwise, Grouped)
        for name in every_importance()
        if (n, name) != (Grouped, "bn_scale")
    ],
)
def test_every_criterion_prunes_inside_torch_pruning(
    network: type[nn.Module], name: str, settings: dict[str, Any]
) -> None:
    net = network()
    before = sum(convolutions(net).values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecateurWarning)  # bn_scale has no score for layers without batch norm
        tp.pruner.BasePruner(net, EXAMPLE, importance=every_importance()[name], iterative_steps=2, **settings).step()
    assert net(LABELLED[0][0]).shape == (16, 5)
    assert sum(convolutions(net).values()) < before or name == "bn_scale"
