"""Accuracy back without gradients."""

from secateur.recovery.batch_norm import recalibrate_batch_norm

__all__ = ["recalibrate_batch_norm"]
