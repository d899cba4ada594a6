"""Accuracy back without gradients."""

from secateur.recovery.batch_norm import recalibrate_batch_norm
from secateur.recovery.compensation import compensate
from secateur.recovery.fits import Compensation, LayerFit
from secateur.recovery.reconstruction import Reconstructed, reconstruct
from secateur.recovery.sketch import Sketched, sketch_filters

__all__ = [
    "Compensation",
    "LayerFit",
    "Reconstructed",
    "Sketched",
    "compensate",
    "recalibrate_batch_norm",
    "reconstruct",
    "sketch_filters",
]
