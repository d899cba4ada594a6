"""Which tensor is a layer's feature map (tap, trail), and streaming it into a criterion (collect)."""

from secateur.feature_maps.collect import collect_scores
from secateur.feature_maps.tap import Tap, tapped

__all__ = ["Tap", "collect_scores", "tapped"]
