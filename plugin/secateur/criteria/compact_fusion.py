"""DCFF's importance: how far a filter's neighbourhood differs from those of the others.

Each filter j has a distribution over all filters of its layer, itself included, that prefers the near ones:

    P_j = softmax over k of (-|w_j - w_k| / t)               score_j = (1 / C) * sum over k of KL(P_j || P_k)

As the temperature t falls, P_j becomes certain of j alone, and the score tends to the mean distance to the others over
t: the order of FPGM.

Deviations from the published system: it trains from scratch with filters fused by P, and cools t from 1 to 1e-4 within
a few epochs. This is its importance alone, at one temperature.

.. [Lin2021] M. Lin, R. Ji, B. Chen, F. Chao, J. Liu, W. Zeng, Y. Tian, Q. Tian. Training compact CNNs for image
   classification using dynamic-coded filter fusion. arXiv:2107.06916, 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.criteria.filters import Reads, filter_distances
from secateur.errors import ConfigError


@dataclass(frozen=True)
class CompactFusion:
    """The mean divergence of a filter's neighbourhood from those of all filters [Lin2021]_; larger = keep.

    Args:
        temperature: t > 0, in the unit of the distances.

    Raises: ConfigError: no such temperature. ScoreError: weights that cannot be used.

    Cost: O(C^2 (C + D)).

    Example:
        >>> CompactFusion()(torch.tensor([[0.0], [0.0], [9.0]])).round(decimals=2).tolist()
        [2.77, 2.77, 6.46]
    """

    name: str = field(default="dcff", init=False)
    reads: Reads = field(default="filters", init=False)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"dcff: the temperature is {self.temperature}; it must be a number > 0")

    def __call__(self, weight: Tensor) -> Tensor:
        logarithms = torch.log_softmax(-filter_distances(weight) / self.temperature, dim=1)
        return (logarithms.exp() * (logarithms - logarithms.mean(0))).sum(1)
