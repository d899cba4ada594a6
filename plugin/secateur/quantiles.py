"""How far the interval of a mean of few measurements reaches.

References:
    [Student1908] Student. The probable error of a mean. Biometrika 6, 1908.
    [Abramowitz1964] M. Abramowitz and I. Stegun. Handbook of Mathematical Functions, 26.7.3 and 26.7.4, 1964.
"""

from __future__ import annotations

import math


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """Return how many standard errors the interval of a mean reaches to either side: Student's t [Student1908].

    Formula: the t at which the probability of |T| <= t, T of `freedom` degrees of freedom, is `confidence`. That
    probability is a finite sum in cos(theta), theta = atan(t / sqrt(freedom)) [Abramowitz1964]; t is found by halving.

    Args:
        freedom: degrees of freedom, one less than there are measurements; at least 1.
        confidence: above 0 and below 1.

    Cost: about a hundred sums of freedom / 2 terms.

    Example:
        >>> round(t_quantile(1), 3), round(t_quantile(2), 3), round(t_quantile(10**4), 3)
        (12.706, 4.303, 1.96)
    """
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan(high)


def _within(theta: float, freedom: int) -> float:
    """Return the probability of |T| <= sqrt(freedom) tan(theta)."""
    cos, odd = math.cos(theta), freedom % 2
    term = total = cos if odd else 1.0
    for power in range(2 + odd, freedom - 1, 2):
        term *= cos**2 * (power - 1) / power
        total += term
    if not odd:
        return math.sin(theta) * total
    return 2 / math.pi * (theta + (math.sin(theta) * total if freedom > 1 else 0.0))
