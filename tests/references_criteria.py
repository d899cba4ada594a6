"""Naive twins of the criteria beyond HRank and DI: loops anyone can check. They import nothing of secateur."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

# --- two-class statistics ---------------------------------------------------------------------------------------------


def mean_and_variance(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / len(values)


def snr(m1: float, m2: float, v1: float, v2: float, n1: int, n2: int, e: float = 1e-4) -> float:
    return abs(m1 - m2) / (math.sqrt(v1) + math.sqrt(v2) + e)


def fisher(m1: float, m2: float, v1: float, v2: float, n1: int, n2: int, e: float = 1e-4) -> float:
    return (m1 - m2) ** 2 / (v1 + v2 + e)


def symmetric_divergence(m1: float, m2: float, v1: float, v2: float, n1: int, n2: int, e: float = 0.05) -> float:
    return 0.5 * (v1 / (v2 + e) + v2 / (v1 + e)) + 0.5 * (m1 - m2) ** 2 / (v1 + v2 + e) - 1


def kl_of_normals(m1: float, m2: float, v1: float, v2: float) -> float:
    """KL(N(m1, v1) || N(m2, v2)), the textbook form."""
    return 0.5 * (v1 / v2 + (m2 - m1) ** 2 / v2 - 1 + math.log(v2 / v1))


def symmetric_kl(m1: float, m2: float, v1: float, v2: float, n1: int, n2: int, e: float = 0.05) -> float:
    return kl_of_normals(m1, m2, v1 + e, v2 + e) + kl_of_normals(m2, m1, v2 + e, v1 + e)


def welch_t(m1: float, m2: float, v1: float, v2: float, n1: int, n2: int, e: float = 1e-4) -> float:
    return abs(m1 - m2) / math.sqrt(v1 / n1 + v2 / n2 + e)


def one_vs_rest_by_loops(
    statistic: Callable[..., float], maps: Tensor, labels: Tensor, *, reduce: str = "pixels", aggregate: str = "mean"
) -> list[float]:
    """Collect the values of each class and of all other images, channel by channel."""
    scores = []
    for c in range(maps.shape[1]):
        values = []
        for k in sorted(set(labels.tolist())):
            sides: dict[bool, list[float]] = {True: [], False: []}
            images = {True: 0, False: 0}
            for n in range(len(maps)):
                pixels = maps[n, c].double().flatten().tolist()
                side = int(labels[n]) == k
                sides[side] += [math.fsum(pixels) / len(pixels)] if reduce == "gap" else pixels
                images[side] += 1
            (m1, v1), (m2, v2) = mean_and_variance(sides[True]), mean_and_variance(sides[False])
            values.append(statistic(m1, m2, v1, v2, images[True], images[False]))
        combine = {"mean": lambda v: sum(v) / len(v), "max": max, "sum": sum}[aggregate]
        scores.append(combine(values))
    return scores


# --- statistics of maps -----------------------------------------------------------------------------------------------


def mean_activation_by_loops(maps: Tensor) -> list[float]:
    return [
        mean_and_variance([abs(v) for v in maps[:, c].double().flatten().tolist()])[0] for c in range(maps.shape[1])
    ]


def variance_by_loops(maps: Tensor, *, centred: bool = True) -> list[float]:
    """Position by position: the variance over the images, or their mean square."""
    scores = []
    for c in range(maps.shape[1]):
        positions = maps[:, c].double().flatten(1).T.tolist()
        if centred:
            scores.append(sum(mean_and_variance(values)[1] for values in positions) / len(positions))
        else:
            scores.append(sum(sum(v * v for v in values) / len(values) for values in positions) / len(positions))
    return scores


# --- filters ----------------------------------------------------------------------------------------------------------


def neighbourhood_divergence_by_loops(filters: Tensor, temperature: float) -> list[float]:
    """Mean Kullback-Leibler divergence of softmax(-distance / temperature) of a filter from those of all filters."""
    logarithms = []
    for row in distances_by_loops(filters):
        logits = [-d / temperature for d in row]
        total = max(logits) + math.log(sum(math.exp(z - max(logits)) for z in logits))
        logarithms.append([z - total for z in logits])
    return [
        sum(sum(math.exp(p) * (p - q) for p, q in zip(mine, other, strict=True)) for other in logarithms) / len(filters)
        for mine in logarithms
    ]


def distances_by_loops(filters: Tensor, *, distance: str = "euclidean") -> list[list[float]]:
    rows = filters.double().flatten(1).tolist()

    def between(i: int, j: int) -> float:
        a, b = rows[i], rows[j]
        if distance == "euclidean":
            return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
        if i == j:
            return 0.0
        lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
        return 1 - (sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0)

    return [[between(i, j) for j in range(len(rows))] for i in range(len(rows))]


def reciprocal_search(distances: Sequence[Sequence[float]], m: int) -> tuple[set[int], set[int]]:
    """RNF as published: grow k until everybody's k nearest share m filters. Returns the share before and then."""
    C = len(distances)
    lists = [sorted(range(C), key=lambda j, i=i: (distances[i][j], j)) for i in range(C)]
    before: set[int] = set()
    for k in range(m, C + 1):
        shared = set(range(C))
        for nearest in lists:
            shared &= set(nearest[:k])
        if len(shared) >= m:
            return before, shared
        before = shared
    raise AssertionError("everybody's whole list holds all filters")


def taylor_by_loops(weight: Tensor, gradient: Tensor, *, mode: str) -> list[float]:
    scores = []
    for w, g in zip(weight.double().flatten(1).tolist(), gradient.double().flatten(1).tolist(), strict=True):
        products = [x * y for x, y in zip(w, g, strict=True)]
        whole = math.fsum(products)
        scores.append({"squared": sum(p * p for p in products), "joint": whole**2, "absolute": abs(whole)}[mode])
    return scores


# --- cross-layer ranking ----------------------------------------------------------------------------------------------


def cross_layer_by_loops(
    weights: dict[str, Tensor], costs: dict[str, float], share: float, exponent: float
) -> dict[str, int]:
    """CLR: rank the weights of all units in one list, each divided by its unit's cost, and count survivors by unit."""
    ranked = sorted(
        (
            abs(value) / costs[unit] ** exponent
            for unit, weight in weights.items()
            for value in weight.flatten().tolist()
        ),
        reverse=True,
    )
    count = math.floor(len(ranked) * (1 - share) + 1e-9)
    threshold = ranked[count - 1] if count else math.inf
    widths = {}
    for unit, weight in weights.items():
        values = [abs(value) / costs[unit] ** exponent for value in weight.flatten().tolist()]
        below = sum(1 for value in values if value < threshold)
        widths[unit] = max(1, len(weight) * (len(values) - below) // len(values))
    return widths
