"""Which filters of a layer are alike: k-means that always ends the same.

.. [Lloyd1982] S. Lloyd. Least squares quantization in PCM. IEEE Transactions on Information Theory 28, 1982.
.. [Gonzalez1985] T. Gonzalez. Clustering to minimize the maximum intercluster distance. Theoretical Computer Science,
   1985.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.errors import ConfigError, ScoreError

ROUNDS = 100


def clusters(rows: Tensor, count: int) -> tuple[tuple[int, ...], ...]:
    """Return `count` clusters of rows, none of them empty: the positions in each, ascending, the lowest first.

    Formula: the first centre is the row farthest from the mean of all, each next one the row farthest from the centres
    so far [Gonzalez1985]_. Then, until nothing changes, each row joins the nearest centre, and each centre becomes the
    mean of its rows [Lloyd1982]_. A cluster that has lost all of its rows gets the one farthest from its own centre,
    of those that are not alone. Among equals the lower position is taken.

    Args:
        rows: (C, D), filters flattened; computed in float64.
        count: in 1..C.

    Raises:
        ConfigError: no such count.
        ScoreError: rows that are not finite.

    Cost: O(C * count * D) a round, at most 100 rounds.

    Example:
        >>> clusters(torch.tensor([[0.0], [9.0], [1.0], [10.0]]), 2)
        ((0, 2), (1, 3))
    """
    if not 1 <= count <= len(rows):
        raise ConfigError(f"{len(rows)} filters make 1..{len(rows)} clusters; asked for {count}")
    rows = rows.detach().double().cpu().flatten(1)
    if not bool(torch.isfinite(rows).all()):
        raise ScoreError("filters that hold NaN or infinity have no clusters")
    centres = rows[_spread(rows, count)]
    owner = torch.full((len(rows),), -1)
    for _ in range(ROUNDS):
        distances = torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = _filled(distances.argmin(1), distances, count)
        if torch.equal(nearest, owner):
            break
        owner = nearest
        centres = torch.stack([rows[owner == cluster].mean(0) for cluster in range(count)])
    found = [tuple(torch.nonzero(owner == cluster).flatten().tolist()) for cluster in range(count)]
    return tuple(sorted(found))


def _spread(rows: Tensor, count: int) -> list[int]:
    """Return the positions of rows that lie far from one another."""
    chosen = [int((rows - rows.mean(0)).norm(dim=1).argmax())]
    far = (rows - rows[chosen[0]]).norm(dim=1)
    while len(chosen) < count:
        far[chosen] = -1.0  # also where all others are equal to one that was chosen
        chosen.append(int(far.argmax()))
        far = torch.minimum(far, (rows - rows[chosen[-1]]).norm(dim=1))
    return chosen


def _filled(owner: Tensor, distances: Tensor, count: int) -> Tensor:
    """Give every cluster without a row one."""
    for cluster in range(count):
        sizes = torch.bincount(owner, minlength=count)
        if not sizes[cluster]:
            own = distances.gather(1, owner[:, None])[:, 0].masked_fill(sizes[owner] < 2, -1.0)
            owner[int(own.argmax())] = cluster
    return owner
