"""How sure a share is: over the seeds, and over the images that it was counted on.

References:
    [Student1908] Student. The probable error of a mean. Biometrika 6, 1908.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from secateur.errors import ConfigError
from secateur_cli.wording import wilson_interval

# Quantiles 0.975 of Student's t with 1, 2, ... degrees of freedom.
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
MOST_SEEDS = len(STUDENT) + 1


@dataclass(frozen=True)
class Spread:
    """A mean, the interval that should hold it, and over how many runs it was taken."""

    mean: float
    low: float
    high: float
    runs: int


def spread_of(values: Sequence[float]) -> Spread:
    """Return the mean with its 95% interval over independent runs.

    Formula: m ± t_{0.975, n-1} s / sqrt(n), s the standard deviation with n - 1 below it [Student1908]. One run has no
    interval: both ends are the value.

    Raises:
        ConfigError: no value, or more than there are quantiles for.

    Example:
        >>> spread = spread_of([0.8, 0.82, 0.84])
        >>> round(spread.mean, 3), round(spread.low, 3), round(spread.high, 3)
        (0.82, 0.77, 0.87)
    """
    n = len(values)
    if not 1 <= n <= MOST_SEEDS:
        raise ConfigError(f"an interval is taken over 1 to {MOST_SEEDS} runs; found {n}")
    mean = math.fsum(values) / n
    if n == 1:
        return Spread(mean, mean, mean, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    reach = STUDENT[n - 2] * deviation / math.sqrt(n)
    return Spread(mean, mean - reach, mean + reach, n)


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
    low, high = wilson_interval(min(1.0, spread.mean), images)
    return Spread(spread.mean, max(0.0, min(low, spread.low)), min(1.0, max(high, spread.high)), spread.runs)
