"""Naive twins of what the figures compute: loops that anyone can check. They import nothing of secateur."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats


def spearman_by_counting(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Give each value its place by counting those below it, and half of its equals; then correlate the places."""

    def places(values: Sequence[float]) -> list[float]:
        return [1 + sum(b < a for b in values) + (sum(b == a for b in values) - 1) / 2 for a in values]

    x, y = places(first), places(second)
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    below = math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))
    return above / below if below else None


def change_by_loops(scores: Sequence[float], reference: Sequence[float]) -> float:
    """Add up how far each score is from its reference, and divide by the sum of the reference."""
    moved = whole = 0.0
    for score, value in zip(scores, reference, strict=True):
        moved += abs(score - value)
        whole += abs(value)
    return moved / whole


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the mean, by scipy."""
    mean = sum(values) / len(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
    return float(low), float(high)
