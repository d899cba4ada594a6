"""Naive twins of the related systems: frequent directions, k-means, the number of soft clusters."""

from __future__ import annotations

import numpy as np


def sketch_row_by_row(rows, count):
    """B takes a row at a time; when it is full and enough are left, its directions shrink by the one at half."""
    half, filled, b = count // 2, 0, np.zeros((count, len(rows[0])))
    for number, row in enumerate(rows):
        if filled == count:
            if len(rows) - number < count - half:
                return b, number
            eigenvalues, vectors = np.linalg.eigh(b.T @ b)
            order = np.argsort(eigenvalues)[::-1]
            squares = [max(eigenvalues[i], 0.0) for i in order[:count]]
            cut = squares[half] if half < len(squares) else 0.0
            b = np.zeros_like(b)
            for place in range(min(half, len(squares))):
                b[place] = max(squares[place] - cut, 0.0) ** 0.5 * vectors[:, order[place]]
            filled = half
        b[filled] = row
        filled += 1
    return b, len(rows)


def k_means(rows, count):
    """Sets of positions: centres far apart first, then the nearest centre and the mean until nothing changes."""

    def distance(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5

    def mean(chosen):
        return [sum(column) / len(chosen) for column in zip(*chosen, strict=True)]

    middle = mean(rows)
    centres = [max(range(len(rows)), key=lambda i: (distance(rows[i], middle), -i))]
    while len(centres) < count:
        left = [i for i in range(len(rows)) if i not in centres]
        centres.append(max(left, key=lambda i: (min(distance(rows[i], rows[c]) for c in centres), -i)))
    points, before = [rows[c] for c in centres], None
    while True:
        owner = [min(range(count), key=lambda c: (distance(row, points[c]), c)) for row in rows]
        if owner == before:
            return sorted(tuple(i for i in range(len(rows)) if owner[i] == c) for c in range(count))
        before = owner
        points = [mean([rows[i] for i in range(len(rows)) if owner[i] == c]) for c in range(count)]


def soft_counts(epochs, width, keep):
    """Clusters after each epoch: what goes grows by a cube that flattens out."""
    counts = []
    for epoch in range(1, epochs + 1):
        rest = (epochs - epoch) / epochs
        counts.append(width - round((width - keep) * (1 - rest * rest * rest)))
    return counts
