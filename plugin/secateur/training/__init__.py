"""Accuracy back with gradients."""

from secateur.training.fine_tune import Epoch, History, fine_tune
from secateur.training.recipe import Recipe

__all__ = ["Epoch", "History", "Recipe", "fine_tune"]
