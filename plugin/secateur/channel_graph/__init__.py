"""Torch-Pruning's dependency graph as records: groups, masks, surgery, verification and importance objects."""

from secateur.channel_graph.groups import Residual, channel_groups
from secateur.channel_graph.host_count import torch_pruning_macs
from secateur.channel_graph.host_importances import HOST_IMPORTANCES, host_importance, host_importance_scores
from secateur.channel_graph.masks import masked
from secateur.channel_graph.rescoring import cut_scores
from secateur.channel_graph.scoring import importance_scores
from secateur.channel_graph.surgery import apply_plan, zero_masked
from secateur.channel_graph.verify import Verification, verify_pruning

__all__ = [
    "HOST_IMPORTANCES",
    "Residual",
    "Verification",
    "apply_plan",
    "channel_groups",
    "cut_scores",
    "host_importance",
    "host_importance_scores",
    "importance_scores",
    "masked",
    "torch_pruning_macs",
    "verify_pruning",
    "zero_masked",
]
