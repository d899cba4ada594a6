"""AutoPruner's formulas as loops, to compare with."""

from __future__ import annotations

import math


def code_by_loops(
    maps: list[list[list[list[float]]]], weight: list[list[float]], bias: list[float], alpha: float, *, pool: int
) -> list[float]:
    """v = sigmoid(alpha * (W max_pool(mean over the batch) + b)); the pool rounds up."""
    channels, height, width = len(maps[0]), len(maps[0][0]), len(maps[0][0][0])
    features = []
    for c in range(channels):
        mean = [[sum(image[c][y][x] for image in maps) / len(maps) for x in range(width)] for y in range(height)]
        for top in range(0, height, pool):
            for left in range(0, width, pool):
                window = [
                    mean[y][x]
                    for y in range(top, min(top + pool, height))
                    for x in range(left, min(left + pool, width))
                ]
                features.append(max(window))
    scores = [sum(w * f for w, f in zip(row, features, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
    return [1 / (1 + math.exp(-alpha * z)) if alpha * z > -700 else 0.0 for z in scores]


def alpha_by_hand(first: float, last: float, *, step: int, steps: int, every: int, bumps: float) -> float:
    """The value of a list of equal steps from first to last, one entry every `every` steps, plus the bumps."""
    entries = math.ceil(steps / every)
    values = [first + (last - first) * k / (entries - 1) for k in range(entries)]
    return values[step // every] + bumps
