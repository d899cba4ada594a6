"""How far two sets of scores agree: in the order of the channels, and in the scores themselves.

References:
    [Spearman1904] C. Spearman. The proof and measurement of association between two things. American Journal of
        Psychology 15, 1904.
"""

from __future__ import annotations

import torch
from torch import Tensor


def places(values: Tensor) -> Tensor:
    """Return the place of each value in ascending order from 1 on, (C,) float64; equal values share their mean place.

    Example:
        >>> places(torch.tensor([5.0, 1.0, 5.0, 9.0])).tolist()
        [2.5, 1.0, 2.5, 4.0]
    """
    _, which, counts = torch.unique(values, return_inverse=True, return_counts=True)
    found: Tensor = (counts.cumsum(0) - (counts - 1) / 2).double()[which]
    return found


def rank_correlation(first: Tensor, second: Tensor) -> float | None:
    """Return Spearman's rank correlation of two vectors (C,), in [-1, 1]; None where one of them is constant.

    Formula: the correlation of the `places`, ties at their mean [Spearman1904].

    Example:
        >>> rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 0.5, 0.3]))
        0.5
        >>> rank_correlation(torch.tensor([1.0, 2.0]), torch.tensor([7.0, 7.0])) is None
        True
    """
    x, y = (places(values) - places(values).mean() for values in (first, second))
    scale = float((x.square().sum() * y.square().sum()).sqrt())
    return round(float((x * y).sum()) / scale, 12) if scale else None


def relative_change(scores: Tensor, reference: Tensor) -> float | None:
    """Return sum |s - r| / sum |r| of scores s and their reference r, (C,); None where the reference is zero.

    Example:
        >>> relative_change(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]))
        0.75
    """
    whole = float(reference.abs().sum())
    return float((scores - reference).abs().sum()) / whole if whole else None
