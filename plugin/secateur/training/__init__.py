"""Accuracy back with gradients."""

from secateur.training.distilling import distilling, feature_loss, logit_loss
from secateur.training.fine_tune import Epoch, History, fine_tune
from secateur.training.freezing import frozen, highest_filters
from secateur.training.recipe import Recipe
from secateur.training.schedules import prune_layer_by_layer, restart_batch_norm
from secateur.training.soft_clusters import SoftClustered, prune_by_soft_clusters

__all__ = [
    "Epoch",
    "History",
    "Recipe",
    "SoftClustered",
    "distilling",
    "feature_loss",
    "fine_tune",
    "frozen",
    "highest_filters",
    "logit_loss",
    "prune_by_soft_clusters",
    "prune_layer_by_layer",
    "restart_batch_norm",
]
