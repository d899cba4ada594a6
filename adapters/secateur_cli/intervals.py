"""Means over seeds and their intervals.

References:
    [Student1908] Student. The probable error of a mean. Biometrika 6, 1908.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from secateur.quantiles import t_quantile


@dataclass(frozen=True)
class Mean:
    """A mean over measurements.

    Attributes:
        value: the mean.
        reach: half of the 95% t-interval; None where there is one measurement, which says nothing of its spread.
        count: how many measurements; where all seeds share one, it is one.
    """

    value: float
    reach: float | None
    count: int

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval; both the mean where there is none."""
        reach = self.reach or 0.0
        return self.value - reach, self.value + reach

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def geometric_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean of two or more ratios, and the ends of its 95% interval over them.

    Formula: exp of the `mean` and of its ends, of the logarithms: a ratio is as far from 1 as its inverse, and never
    below 0.

    Example:
        >>> [round(value, 3) for value in geometric_mean([1.4, 1.5, 1.6])]
        [1.498, 1.269, 1.768]
    """
    logs = [math.log(value) for value in values]
    centre, reach = statistics.fmean(logs), _reach(logs)
    return math.exp(centre), math.exp(centre - reach), math.exp(centre + reach)


def mean(values: Sequence[float]) -> Mean | None:
    """Return the mean of some measurements with its 95% interval over them; None where there are none.

    Formula: m ± t(n - 1) s / sqrt(n), with s^2 = sum (x - m)^2 / (n - 1) and t the 97.5th percentile of Student's
    distribution [Student1908]. It supposes that the measurements are drawn alike and near a normal distribution.

    Example:
        >>> found = mean([0.84, 0.85, 0.86])
        >>> round(found.value, 3), round(found.reach, 4), found.count
        (0.85, 0.0248, 3)
        >>> mean([0.84])
        Mean(value=0.84, reach=None, count=1)
    """
    if not values:
        return None
    if len(values) == 1:
        return Mean(values[0], None, 1)
    return Mean(statistics.fmean(values), _reach(values), len(values))


def _reach(values: Sequence[float]) -> float:
    return t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
