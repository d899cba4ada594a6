"""Naive twins of HRank, DI, training and intervals: loops that anyone can check. They import nothing of secateur."""

from __future__ import annotations

import math
import statistics

import numpy as np
import torch
from torch import Tensor

# --- criteria -------------------------------------------------------------------------------------------------------


def average_ranks(feature_maps: Tensor) -> list[float]:
    """HRank: count the singular values above sigma_max * max(H, W) * eps, map by map, and average over the images."""
    averages = []
    for c in range(feature_maps.shape[1]):
        ranks = []
        for n in range(feature_maps.shape[0]):
            matrix = feature_maps[n, c].to(torch.float32).numpy()
            singular = np.linalg.svd(matrix, compute_uv=False)
            tolerance = singular[0] * np.float32(max(matrix.shape)) * np.finfo(np.float32).eps
            ranks.append(sum(1 for value in singular if value > tolerance))
        averages.append(sum(ranks) / len(ranks))
    return averages


def scatter_matrices(features: Tensor, labels: Tensor, scaled: bool = False) -> tuple[Tensor, Tensor]:
    """DI: the total scatter K and the between-class matrix K_B, sample by sample and class by class, both (D, D)."""
    X = features.double()
    mean = X.mean(0)
    K, K_B = torch.zeros(X.shape[1], X.shape[1]).double(), torch.zeros(X.shape[1], X.shape[1]).double()
    for x in X:
        K = K + torch.outer(x - mean, x - mean)
    for k in sorted(set(labels.tolist())):
        members = X[labels == k]
        weight = len(members) if scaled else len(members) ** 2
        K_B = K_B + weight * torch.outer(members.mean(0) - mean, members.mean(0) - mean)
    return K, K_B


def di_by_definition(features: Tensor, labels: Tensor, rho: float, scaled: bool = False) -> Tensor:
    """DI = tr((K + rho I)^-1 K_B)."""
    K, K_B = scatter_matrices(features, labels, scaled)
    return torch.trace(torch.linalg.inv(K + rho * torch.eye(len(K)).double()) @ K_B)


def di_by_ridge(features: Tensor, labels: Tensor, rho: float) -> float:
    """DI = |Y|^2 - min over (F, b) of |X F + 1 b' - Y|^2 + rho |F|^2, as one least-squares problem with extra rows."""
    N, D = features.shape
    marks = np.array([[float(y == k) for k in sorted(set(labels.tolist()))] for y in labels.tolist()])
    design = np.block([[features.double().numpy(), np.ones((N, 1))], [np.sqrt(rho) * np.eye(D), np.zeros((D, 1))]])
    targets = np.vstack([marks, np.zeros((D, marks.shape[1]))])
    solution = np.linalg.lstsq(design, targets, rcond=None)[0]
    return float(((marks - marks.mean(0)) ** 2).sum() - ((design @ solution - targets) ** 2).sum())


def di_mask_gradient(feature_maps: Tensor, labels: Tensor, rho: float) -> Tensor:
    """DI eq. (6): differentiate DI with respect to one factor per channel, at one."""
    masks = torch.ones(feature_maps.shape[1], dtype=torch.float64, requires_grad=True)
    masked = feature_maps.double() * masks[None, :, None, None]
    return torch.autograd.grad(di_by_definition(masked.flatten(1), labels, rho), masks)[0]


def di_batch_gradient(feature_maps: Tensor, labels: Tensor, rho: float) -> Tensor:
    """DI as later code has it: |d/dm tr(Y Y' (X X' + rho I)^-1)|, X and Y centred, by an N x N kernel."""
    N, C = feature_maps.shape[:2]
    masks = torch.ones(C, dtype=torch.float64, requires_grad=True)
    X = (feature_maps.double() * masks[None, :, None, None]).flatten(1)
    Y = torch.stack([(labels == k).double() for k in sorted(set(labels.tolist()))], dim=1)
    X, Y = X - X.mean(0), Y - Y.mean(0)
    trace = torch.trace(Y @ Y.T @ torch.linalg.inv(X @ X.T + rho * torch.eye(N).double()))
    return torch.autograd.grad(trace, masks)[0].abs()


def di_removal(feature_maps: Tensor, labels: Tensor, rho: float) -> Tensor:
    """DI eq. (5): take one channel away and compute DI again."""
    C = feature_maps.shape[1]
    whole = di_by_definition(feature_maps.flatten(1), labels, rho)
    losses = []
    for c in range(C):
        rest = feature_maps[:, [k for k in range(C) if k != c]]
        losses.append(whole - di_by_definition(rest.flatten(1), labels, rho) if C > 1 else whole)
    return torch.stack(losses)


# --- training and parity ------------------------------------------------------------------------------------


def top1_accuracy(outputs, labels):
    """Share of rows whose first largest entry stands at the label."""
    hits = 0
    for row, label in zip(outputs, labels, strict=True):
        largest = 0
        for k in range(len(row)):
            if row[k] > row[largest]:
                largest = k
        hits += largest == label
    return hits / len(labels)


def mean_batch_statistics(batches):
    """Mean over batches of each channel's mean and of its unbiased variance; batches as [image][channel][pixel]."""
    means, variances = [], []
    for channel in range(len(batches[0][0])):
        mean_sum = variance_sum = 0.0
        for batch in batches:
            values = [pixel for image in batch for pixel in image[channel]]
            mean = sum(values) / len(values)
            mean_sum += mean
            variance_sum += sum((v - mean) ** 2 for v in values) / (len(values) - 1)
        means.append(mean_sum / len(batches))
        variances.append(variance_sum / len(batches))
    return means, variances


def cosine_rates(largest, steps, warmup):
    """Learning rate of every step: up a line of `warmup` steps, then down half a cosine."""
    rates = []
    for step in range(steps):
        if step < warmup:
            rates.append(largest * (step + 1) / warmup)
        else:
            share = (step - warmup) / (steps - warmup)
            rates.append(largest * 0.5 * (1 + math.cos(math.pi * share)))
    return rates


def nesterov_descent(weight, gradient, rates, momentum, decay):
    """The weight after one step per rate, for a single number and its gradient as a function of it."""
    velocity = 0.0
    for rate in rates:
        g = gradient(weight) + decay * weight
        velocity = momentum * velocity + g
        weight = weight - rate * (g + momentum * velocity)
    return weight


def parity_by_loops(expected: list[list[float]], found: list[list[float]]) -> dict[str, float]:
    """Differences of two tables of outputs, row = sample, as check_parity defines them."""
    differences, magnitudes, agreeing = [], [], 0
    for row, other in zip(expected, found, strict=True):
        for a, b in zip(row, other, strict=True):
            differences.append(abs(b - a))
            magnitudes.append(abs(a))
        agreeing += row.index(max(row)) == other.index(max(other))
    return {
        "max_abs": max(differences),
        "mean_abs": sum(differences) / len(differences),
        "max_relative": max(differences) / max(magnitudes),
        "top1_agreement": agreeing / len(expected),
    }


def ratio_interval_by_loops(
    dense: list[float], pruned: list[float], *, resamples: int, confidence: float, seed: int
) -> tuple[float, float, float]:
    """Ratio of medians and the ends of its percentile bootstrap interval over paired rounds [Efron1993, ch. 13]."""

    def quantile(values: list[float], share: float) -> float:
        ordered = sorted(values)
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    rows = np.random.default_rng(seed).integers(len(dense), size=(resamples, len(dense)))
    ratios = [statistics.median(dense[r] for r in row) / statistics.median(pruned[r] for r in row) for row in rows]
    ends = quantile(ratios, (1 - confidence) / 2), quantile(ratios, (1 + confidence) / 2)
    return statistics.median(dense) / statistics.median(pruned), *ends


def ratio_interval_over_sessions(
    sessions: list[list[tuple[float, float]]], quantile: float
) -> tuple[float, float, float]:
    """Ratio of medians of all rounds, and `quantile` standard errors of the sessions' log-ratios to either side."""
    own = [statistics.median(d for d, _ in pairs) / statistics.median(p for _, p in pairs) for pairs in sessions]
    error = statistics.stdev(math.log(ratio) for ratio in own) / math.sqrt(len(own))
    rounds = [pair for pairs in sessions for pair in pairs]
    ratio = statistics.median(d for d, _ in rounds) / statistics.median(p for _, p in rounds)
    return ratio, ratio * math.exp(-quantile * error), ratio * math.exp(quantile * error)


def logistic_gradient(weight):
    """Derivative of -log(e^w / (e^w + 1)), the cross entropy of the logits (w, 0) for the first class."""
    return -1 / (1 + math.exp(weight))


# --- report ---------------------------------------------------------------------------------------------------------


def wilson_bounds(share: float, trials: int) -> tuple[float, float]:
    """Wilson: the smallest and largest p whose normal test at 5% does not refuse the share, found by bisection."""

    def refused(p: float) -> bool:
        return (share - p) ** 2 > 1.959963984540054**2 * p * (1 - p) / trials

    bounds = []
    for outside in (0.0, 1.0):
        inside, out = share, outside
        if outside == share:
            bounds.append(outside)
            continue
        for _ in range(200):
            middle = (inside + out) / 2
            inside, out = (inside, middle) if refused(middle) else (middle, out)
        bounds.append(inside)
    return bounds[0], bounds[1]
