"""Scoring a network by the weights of its layers, by weights and gradients, or by what the next layers can do without.

`secateur.feature_maps` does the same for criteria that read feature maps. All return a ScoreTable.
"""

from secateur.scoring.by_name import scores_by_name
from secateur.scoring.gradients import Loss, gradient_scores
from secateur.scoring.reconstruction import reconstruction_scores
from secateur.scoring.weights import weight_scores

__all__ = ["Loss", "gradient_scores", "reconstruction_scores", "scores_by_name", "weight_scores"]
