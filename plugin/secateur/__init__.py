"""Pruning by feature maps, as a plugin for Torch-Pruning, NNI and ONNX Runtime.

The steps, each a function that can be called by itself:

    groups = channel_groups(model, images)                      which channels fall together
    scores = collect_scores(model, batches, "hrank")            what each of them is worth
    plan = uniform_plan(groups, scores, cost, "50%")            which of them stay, within a budget
    pruned = apply_plan(model, plan)                            a smaller network

or, inside Torch-Pruning, `importance=HRankImportance(loader)`.
"""

from secateur.channel_graph import apply_plan, channel_groups, verify_pruning
from secateur.checkpoint import load_plan, load_pruned, save_pruned
from secateur.cost import ByteCost, MacsCost, ParameterCost, cost_model
from secateur.evaluation import CandidateWorth, MaskedAccuracy, accuracy
from secateur.feature_maps import collect_scores
from secateur.gates import autoprune
from secateur.importance import (
    CriterionImportance,
    DIImportance,
    GradientImportance,
    HRankImportance,
    ReconstructionImportance,
    WeightImportance,
)
from secateur.pruning import PruneResult, prune
from secateur.records import ChannelGroup, ChannelGroups, PruningPlan, ScoreTable
from secateur.recovery import (
    Compensation,
    Reconstructed,
    compensate,
    recalibrate_batch_norm,
    reconstruct,
    sketch_filters,
)
from secateur.scoring import gradient_scores, reconstruction_scores, weight_scores
from secateur.search import (
    cross_layer_plan,
    curve_plan,
    distilled_plan,
    global_ranking_plan,
    greedy_plan,
    rate_plan,
    refine_plan,
    stages_of,
    uniform_plan,
)
from secateur.training import fine_tune, prune_by_soft_clusters

__all__ = [
    "ByteCost",
    "CandidateWorth",
    "ChannelGroup",
    "ChannelGroups",
    "Compensation",
    "CriterionImportance",
    "DIImportance",
    "GradientImportance",
    "HRankImportance",
    "MacsCost",
    "MaskedAccuracy",
    "ParameterCost",
    "PruneResult",
    "PruningPlan",
    "Reconstructed",
    "ReconstructionImportance",
    "ScoreTable",
    "WeightImportance",
    "accuracy",
    "apply_plan",
    "autoprune",
    "channel_groups",
    "collect_scores",
    "compensate",
    "cost_model",
    "cross_layer_plan",
    "curve_plan",
    "distilled_plan",
    "fine_tune",
    "global_ranking_plan",
    "gradient_scores",
    "greedy_plan",
    "load_plan",
    "load_pruned",
    "prune",
    "prune_by_soft_clusters",
    "rate_plan",
    "recalibrate_batch_norm",
    "reconstruct",
    "reconstruction_scores",
    "refine_plan",
    "save_pruned",
    "sketch_filters",
    "stages_of",
    "uniform_plan",
    "verify_pruning",
    "weight_scores",
]
