"""Naive twins of the latency model: loops that anyone can check. They import nothing of secateur."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def bilinear(
    rows: Sequence[int], columns: Sequence[int], times: Mapping[tuple[int, int], float], at: tuple[int, int]
) -> float:
    """What lies between four knots, by areas; outside the knots the nearest of them."""
    i, o = (min(max(at[0], rows[0]), rows[-1]), min(max(at[1], columns[0]), columns[-1]))
    below, left = max(r for r in rows if r <= i), max(c for c in columns if c <= o)
    above, right = min(r for r in rows if r >= i), min(c for c in columns if c >= o)
    down = (i - below) / (above - below) if above > below else 0.0
    along = (o - left) / (right - left) if right > left else 0.0
    total = 0.0
    for row, by_row in ((below, 1 - down), (above, down)):
        for column, by_column in ((left, 1 - along), (right, along)):
            total += by_row * by_column * times[row, column]
    return total


def risen(
    rows: Sequence[int], columns: Sequence[int], times: Mapping[tuple[int, int], float]
) -> dict[tuple[int, int], float]:
    """The largest time among all that are no wider."""
    return {
        (row, column): max(times[r, c] for r in rows if r <= row for c in columns if c <= column)
        for row in rows
        for column in columns
    }
