"""Torch-Pruning's dependency graph as records: groups, masks, surgery, verification and importance objects."""

from secateur.channel_graph.groups import channel_groups
from secateur.channel_graph.masks import masked
from secateur.channel_graph.surgery import apply_plan
from secateur.channel_graph.verify import Verification, verify_pruning

__all__ = ["Verification", "apply_plan", "channel_groups", "masked", "verify_pruning"]
