"""RNF: keep the filters that all others count among their nearest.

Every filter of a layer lists all filters by distance, itself first. Let a number k grow from m on until at least m
filters are among the first k of everybody's list; these are kept. As published that is a search; its closed form is

    worst_j = max over i of the position of filter j in the list of filter i             score_j = -worst_j

because filter j is in the intersection for k exactly if worst_j < k. The m largest scores are the filters that the
search finds, and the score does not depend on m. Nothing but the order of the distances counts.

A filter in the middle of the cloud is near to everybody, and with Euclidean distances that is as a rule one of small
norm: the criterion prefers what norm criteria remove. `distance="cosine"` compares directions instead.

Deviations from the published code:

* *Distances, not similarities.* It sorts exp(-|w_i - w_j|^2), which in float32 is 0 for all squared distances above
  103, so that the order of far filters is arbitrary there.
* *Equal distances share the better position*, so that the score does not depend on the order of the channels.
* *Ties.* Where the last step finds more than m filters, it keeps those of the step before and fills up with whatever a
  set gives first. Here equal scores stay equal, and whoever cuts breaks ties by a stated rule.

.. [Lin2022] M. Lin, L. Cao, Y. Zhang, L. Shao, C.-W. Lin, R. Ji. Pruning networks with cross-layer ranking and
   k-reciprocal nearest filters. arXiv:2202.07190, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.criteria.filters import Distance, Reads, filter_distances, require_distance


def worst_positions(distances: Tensor) -> Tensor:
    """Return for each filter its worst position in the lists of all filters: (C, C) -> (C,), int64, 0..C-1.

    Formula: worst_j = max over i of the number of filters l with distance[i, l] < distance[i, j].

    Cost: O(C^2 log C).

    Example:
        >>> worst_positions(torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 4.0], [5.0, 4.0, 0.0]]))
        tensor([2, 1, 2])
    """
    ordered = torch.sort(distances, dim=1).values
    return torch.searchsorted(ordered, distances.contiguous(), side="left").amax(0)


@dataclass(frozen=True)
class ReciprocalNearestFilters:
    """Minus the worst position of a filter among everybody's nearest [Lin2022]_, -(C-1)..0; larger = keep.

    Args:
        distance: "euclidean" as published, or "cosine".

    Raises: ConfigError: another distance. ScoreError: weights that cannot be used.

    Cost: O(C^2 (D + log C)).

    Example:
        >>> ReciprocalNearestFilters()(torch.tensor([[0.0], [1.0], [5.0]]))
        tensor([-2., -1., -2.], dtype=torch.float64)
    """

    name: str = field(default="rnf", init=False)
    reads: Reads = field(default="filters", init=False)
    distance: Distance = "euclidean"

    def __post_init__(self) -> None:
        require_distance(self.name, self.distance)

    def __call__(self, weight: Tensor) -> Tensor:
        return -worst_positions(filter_distances(weight, distance=self.distance)).double()
