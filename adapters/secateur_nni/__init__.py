"""NNI 3.0 for secateur: pruners in NNI's own shape, and the removal of what NNI's masks say.

    pruner = HRankPruner(model, config_list, batches=loader)    or DIPruner, FeatureMapPruner(criterion=...)
    _, masks = pruner.compress()                                NNI's wrapped model, NNI's masks
    pruner.unwrap_model()
    pruned = apply_masks(model, masks, images)                  a smaller network

Searches and whole runs as experiments of NNI: `secateur_nni.experiments`.

NNI is imported when one of these names is first used, never by importing this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur_nni.budget import BudgetPruner
    from secateur_nni.completion import complete_config_list
    from secateur_nni.evaluators import EvaluatorWorth, torch_evaluator
    from secateur_nni.experiments.tuner import GreedyTuner
    from secateur_nni.feature_map_pruner import FeatureMapPruner
    from secateur_nni.host import check_nnictl
    from secateur_nni.known_pruners import OWN_PRUNERS
    from secateur_nni.own_pruners import own_choice
    from secateur_nni.pruners import DIPruner, HRankPruner
    from secateur_nni.removal import apply_masks, plan_of_masks

_HOMES = {
    "BudgetPruner": "budget",
    "DIPruner": "pruners",
    "EvaluatorWorth": "evaluators",
    "FeatureMapPruner": "feature_map_pruner",
    "GreedyTuner": "experiments.tuner",
    "HRankPruner": "pruners",
    "OWN_PRUNERS": "known_pruners",
    "apply_masks": "removal",
    "check_nnictl": "host",
    "complete_config_list": "completion",
    "own_choice": "own_pruners",
    "plan_of_masks": "removal",
    "torch_evaluator": "evaluators",
}

__all__ = [
    "OWN_PRUNERS",
    "BudgetPruner",
    "DIPruner",
    "EvaluatorWorth",
    "FeatureMapPruner",
    "GreedyTuner",
    "HRankPruner",
    "apply_masks",
    "check_nnictl",
    "complete_config_list",
    "own_choice",
    "plan_of_masks",
    "torch_evaluator",
]


def __getattr__(name: str) -> Any:
    """Return a public name. Raises MissingDependencyError where NNI is not installed."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
