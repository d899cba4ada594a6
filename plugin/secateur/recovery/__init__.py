"""Accuracy back without gradients."""

from secateur.recovery.batch_norm import recalibrate_batch_norm
from secateur.recovery.compensation import compensate
from secateur.recovery.fits import Compensation, LayerFit
from secateur.recovery.reconstruction import Reconstructed, reconstruct

__all__ = [
    "Compensation",
    "LayerFit",
    "Reconstructed",
    "compensate",
    "recalibrate_batch_norm",
    "reconstruct",
]
