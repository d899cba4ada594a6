"""Which of many are shown where there is room for few."""

from __future__ import annotations


def spread_evenly(count: int, most: int) -> list[int]:
    """Return at most so many of the numbers 0 .. count - 1, first and last among them.

    Example:
        >>> spread_evenly(9, 3), spread_evenly(2, 6)
        ([0, 4, 8], [0, 1])
    """
    number = min(most, count)
    return [round(i * (count - 1) / max(1, number - 1)) for i in range(number)]
