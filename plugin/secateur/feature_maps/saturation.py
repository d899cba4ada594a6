"""Where a criterion says nothing: layers in which many channels share one score.

The feature maps of a wide, early layer are often all of full rank, so that their average ranks are one number, and the
order of equal channels decides what is pruned.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from secateur.errors import SaturationWarning

SATURATED = 0.25
NAMED = 6


def largest_tie(scores: Tensor) -> int:
    """Return how many channels share the most frequent score other than zero; 0 where no two do.

    Zero is the score of dead channels, whose order does not matter.

    Example:
        >>> import torch
        >>> largest_tie(torch.tensor([8.0, 8.0, 8.0, 7.5, 0.0, 0.0, 0.0, 0.0])), largest_tie(torch.tensor([1.0, 2.0]))
        (3, 0)
    """
    counts = Counter(value for value in scores.tolist() if value)
    return max((count for count in counts.values() if count > 1), default=0)


def saturated_layers(scores: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the layers in which more than a quarter of the channels share one score other than zero, and how many.

    Example:
        >>> import torch
        >>> saturated_layers({"wide": torch.tensor([8.0, 8.0, 7.0, 6.0]), "fine": torch.tensor([1.0, 2.0, 3.0, 4.0])})
        {'wide': 2}
    """
    ties = {layer: largest_tie(values) for layer, values in scores.items()}
    return {layer: tie for layer, tie in ties.items() if tie > SATURATED * len(scores[layer])}


def warn_of_saturation(criterion: str, tap: str, scores: Mapping[str, Tensor], saturated: Mapping[str, int]) -> None:
    """Say in which layers ties decide, if there are any."""
    if not saturated:
        return
    said = [f"{layer} ({tie} of {len(scores[layer])})" for layer, tie in list(saturated.items())[:NAMED]]
    elsewhere = "" if tap == "act" else ", the tap 'act'"
    more = f" and {len(saturated) - NAMED} more" if len(saturated) > NAMED else ""
    warnings.warn(
        f"{criterion} gives more than a quarter of the channels the same score in {len(saturated)} of {len(scores)} "
        f"layers, where their order decides: {', '.join(said)}{more}; "
        f"more images{elsewhere} or another criterion may tell them apart",
        SaturationWarning,
        stacklevel=4,
    )
