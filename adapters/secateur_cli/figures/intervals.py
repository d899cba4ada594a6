"""How sure a share is: over the seeds, and over the images that it was counted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.errors import ConfigError
from secateur_cli.intervals import mean
from secateur_cli.wording import wilson_interval


@dataclass(frozen=True)
class Spread:
    """A mean, the interval that should hold it, and over how many runs it was taken."""

    mean: float
    low: float
    high: float
    runs: int


def spread_of(values: Sequence[float]) -> Spread:
    """Return the mean with its 95% interval over independent runs.

    As `secateur_cli.intervals.mean`; one run has no interval: both ends are the value.

    Raises:
        ConfigError: no value.

    Example:
        >>> spread = spread_of([0.8, 0.82, 0.84])
        >>> round(spread.mean, 3), round(spread.low, 3), round(spread.high, 3)
        (0.82, 0.77, 0.87)
    """
    found = mean(values)
    if found is None:
        raise ConfigError("an interval is taken over at least one run; found none")
    return Spread(found.value, *found.ends, found.count)


def spread_of_shares(shares: Sequence[float], images: int) -> Spread:
    """Return the mean of accuracies with its 95% interval over runs, or over images at either end where that is wider.

    Runs that are judged on the same images may agree by chance, or because nothing in them depends on the seed: what
    they leave open for other images, the Wilson interval of the mean, is never left out. Both ends lie in 0..1.

    Args:
        shares: the accuracy of each run.
        images: how many images each is judged on.

    Example:
        >>> [round(end, 3) for end in (spread_of_shares([0.975], 400).low, spread_of_shares([0.9, 1.0], 400).high)]
        [0.955, 1.0]
    """
    spread = spread_of(shares)
    low, high = wilson_interval(spread.mean, images)
    return Spread(spread.mean, max(0.0, min(low, spread.low)), min(1.0, max(high, spread.high)), spread.runs)
