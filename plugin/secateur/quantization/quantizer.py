"""Linear symmetric quantization, with a threshold for each filter.

.. [Choukroun2019] Y. Choukroun, E. Kravchik, F. Yang, P. Kisilev. Low-bit quantization of neural networks for efficient
   inference. ICCV Workshops 2019, arXiv:1902.06822.
.. [Li2016] F. Li, B. Zhang, B. Liu. Ternary weight networks. arXiv:1605.04711, 2016.
.. [Wang2019] K. Wang, Z. Liu, Y. Lin, J. Lin, S. Han. HAQ: hardware-aware automated quantization with mixed precision.
   CVPR 2019, section 3.4.
.. [Migacz2017] S. Migacz. 8-bit inference with TensorRT. GPU Technology Conference 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from secateur.errors import ConfigError, ScoreError

LEAST, MOST = 2, 16
BINS = 128  # of the histogram of one filter's absolute weights
BY_MAXIMUM = 5  # from so many bits on the published rule clips nothing
FRACTIONS = 100  # of a filter's maximum that are tried as its threshold of least squares

ThresholdRule = Literal["published", "largest", "least_squares"]


@dataclass(frozen=True)
class Quantized:
    """The weights of one layer as whole numbers.

    Attributes:
        codes: (C, ...), int32; |code| < 2^(bits - 1).
        scales: (C,), float32: what a code of one is worth in its filter; 0 for a filter of zeros.
        bits: (C,), int64: of each filter's codes.
    """

    codes: Tensor
    scales: Tensor
    bits: Tensor


def check_bits(bits: Tensor) -> None:
    """Refuse bits that are not whole or outside 2..16. Raises ConfigError."""
    if bits.is_floating_point():
        raise ConfigError(f"bits must be whole numbers in {LEAST}..{MOST}; found {bits.dtype}")
    if len(bits) and not LEAST <= int(bits.min()) <= int(bits.max()) <= MOST:
        raise ConfigError(f"bits must be whole numbers in {LEAST}..{MOST}; found {sorted(set(bits.tolist()))}")


def check_rule(rule: str) -> None:
    """Refuse a rule of thresholds that there is not. Raises ConfigError."""
    if rule not in get_args(ThresholdRule):
        raise ConfigError(f"unknown rule of thresholds {rule!r}; allowed: {', '.join(get_args(ThresholdRule))}")


def check_weight(weight: Tensor) -> None:
    """Refuse weights that are not floating or not finite. Raises ScoreError."""
    if not weight.is_floating_point() or not bool(torch.isfinite(weight).all()):
        raise ScoreError(f"weights of the shape {tuple(weight.shape)} must be finite floating numbers")


def thresholds_of(weight: Tensor, bits: Tensor, rule: ThresholdRule = "published") -> Tensor:
    """Return the threshold t of each filter of weights (C, ...), (C,) float32: beyond it weights are clipped.

    The rules, and what others call them:

    * "published": max |w| from 5 bits on; below, the one whose quantized histogram is nearest to the weights' own, see
      `kl_thresholds` [Wang2019]_ (entropy).
    * "largest": max |w| for any bits (min-max, max). Two bits then leave little but zeros.
    * "least_squares": the one at which the rounded weights are nearest to the weights, see `least_squares_thresholds`
      [Choukroun2019]_ (MSE, MMSE).

    Args:
        weight: floating, one row a filter.
        bits: (C,), whole numbers in 2..16.
        rule: one for all filters.

    Raises:
        ConfigError: bits outside 2..16, or an unknown rule.
        ScoreError: weights that are not floating or not finite.

    Example:
        >>> weight = torch.tensor([[1.0, -3.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
        >>> thresholds_of(weight, torch.tensor([8, 8])).tolist()
        [3.0, 0.0]
        >>> thresholds_of(weight, torch.tensor([2, 2]), "least_squares").tolist()
        [1.5, 0.0]
    """
    check_bits(bits)
    check_rule(rule)
    check_weight(weight)
    sizes = weight.detach().float().flatten(1).abs()
    found = sizes.amax(1)
    for few in sorted(set(bits.tolist())):
        rows = (bits == few).to(weight.device)
        if rule == "least_squares":
            found[rows] = least_squares_thresholds(sizes[rows], few)
        elif rule == "published" and few < BY_MAXIMUM:
            found[rows] = kl_thresholds(sizes[rows], few)
    return found


def kl_thresholds(sizes: Tensor, bits: int) -> Tensor:
    """Return the threshold of each row of absolute weights (C, D) with the least divergence [Migacz2017]_.

    Formula: the row's histogram has bins 0..B-1 up to its maximum. A threshold at bin i clips what lies above into bin
    i - 1, which gives P; Q spreads what falls to each of the L = 2^(bits - 1) levels, code j owning the bins that round
    to it, evenly over those of its bins that hold anything. Chosen is the i >= L that minimises
    sum P log(P / Q), the first of equals, of those below which at least half of the row lies.

    Cost: O(B^2) a row.

    Example:
        >>> sizes = torch.cat([torch.linspace(0, 1, 999), torch.tensor([10.0])])[None]
        >>> kl_thresholds(sizes, 4).item() < 2
        True

    Deviations: one histogram a filter, of 128 bins, with levels where this quantizer rounds; HAQ takes one a layer. In
    those of the few weights of a depthwise convolution, P and Q agree where all but the smallest weight are clipped:
    hence the half.
    """
    largest = sizes.amax(1)
    place = (sizes / largest.clamp(min=torch.finfo(torch.float32).tiny)[:, None] * BINS).long().clamp(max=BINS - 1)
    counts = torch.zeros(len(sizes), BINS, dtype=torch.float64, device=sizes.device)
    counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float64))
    return least_divergence(counts, largest, 2 ** (bits - 1))


def least_divergence(counts: Tensor, largest: Tensor, levels: int) -> Tensor:
    """Return the threshold of each histogram (C, BINS) of sizes up to `largest` (C,); see `kl_thresholds`."""
    C = len(counts)
    best = torch.full((C,), torch.inf, dtype=torch.float64, device=counts.device)
    found = largest.clone()
    for i in range(levels, BINS + 1):
        P, clipped = counts[:, :i].clone(), counts[:, i:].sum(1)
        P[:, -1] += clipped
        middles = (torch.arange(i, device=counts.device) + 0.5) / i * (levels - 1)
        code = middles.round().long().expand(C, i)
        filled = (counts[:, :i] > 0).double()
        zeros = torch.zeros(C, levels, dtype=torch.float64, device=counts.device)
        mass, bins = zeros.scatter_add(1, code, counts[:, :i]), zeros.scatter_add(1, code, filled)
        Q = filled * (mass / bins.clamp(min=1)).gather(1, code)
        total = Q.sum(1, keepdim=True).clamp(min=1)
        P, Q = P / P.sum(1, keepdim=True), Q / total
        floor = torch.finfo(torch.float64).eps  # clipped mass in an empty bin: far, not infinitely far
        divergence = torch.where(P > 0, P * (P.clamp(min=floor) / Q.clamp(min=floor)).log(), 0.0).sum(1)
        better = (divergence < best) & (clipped <= counts.sum(1) / 2)
        best = torch.where(better, divergence, best)
        found = torch.where(better, largest * i / BINS, found)
    return found


def least_squares_thresholds(sizes: Tensor, bits: int) -> Tensor:
    """Return the threshold of each row of absolute weights (C, D) that leaves the least squared error, (C,) float32.

    Formula: with L = 2^(b - 1) - 1, codes c(t) = min(round(L |w| / t), L) and the error E(t) = sum (|w| - c(t) t / L)^2
    [Choukroun2019]_: of t = max |w| * k / 100, k = 1..100, that of the least E, the first of equals; then the one that
    suits its codes best, t = L sum(|w| c) / sum(c^2), with which E is no larger. For two bits that is the scale of
    ternary weights, the mean of those that do not become zero [Li2016]_. A row of zeros has t = 0.

    Cost: 100 passes over the weights, in the memory of three times as many.

    Example:
        >>> sizes = torch.tensor([[0.1, 0.2, 0.9, 1.0, 1.1]])
        >>> round(least_squares_thresholds(sizes, 2).item(), 6)
        1.0

    Deviations: one threshold a filter; the second step is ours. Up to 4 bits a finer grid would gain less than 1% of E;
    with many bits it gains more, of an error that clipping hardly changes.
    """
    most = 2 ** (bits - 1) - 1
    largest = sizes.amax(1).float()
    units = sizes / largest.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    least, chosen = torch.full_like(largest, torch.inf), torch.ones_like(largest)
    for k in range(1, FRACTIONS + 1):
        steps = most * FRACTIONS / k  # codes that the largest weight would take, were none clipped
        places = units * steps
        error = (places.round().clamp(max=most) - places).square().sum(1) / steps**2
        better = error < least
        least, chosen = torch.where(better, error, least), torch.where(better, steps, chosen)
    codes = (units * chosen[:, None]).round().clamp(max=most).double()
    fitting = (units * codes).sum(1) / codes.square().sum(1).clamp(min=1)
    found: Tensor = most * fitting * largest
    return found.float()


def quantize(weight: Tensor, bits: Tensor, thresholds: Tensor | None = None) -> Quantized:
    """Return weights (C, ...) as whole numbers, filter c with bits[c] bits [Wang2019]_.

    Formula: s = t / (2^(b - 1) - 1), code = round(clip(w, -t, t) / s), half to even; a filter of zeros has s = 0.

    Args:
        weight: floating, one row a filter.
        bits: (C,), whole numbers in 2..16.
        thresholds: (C,), finite, >= 0; None: `thresholds_of`.

    Raises:
        ConfigError: bits outside 2..16, or not one a filter; thresholds likewise.
        ScoreError: weights that are not floating or not finite.

    Example:
        >>> found = quantize(torch.tensor([[1.0, -0.4], [0.0, 0.0]]), torch.tensor([8, 8]))
        >>> found.codes.tolist(), dequantize(found)[0, 0].item()
        ([[127, -51], [0, 0]], 1.0)
    """
    if bits.shape != (len(weight),):
        raise ConfigError(f"{tuple(bits.shape)} bits are given for {len(weight)} filters; each filter takes one number")
    if thresholds is None:
        return rounded(weight, bits, thresholds_of(weight, bits))
    check_bits(bits)
    check_weight(weight)
    fit = (thresholds >= 0) & thresholds.isfinite()
    if fit.shape != bits.shape or not bool(fit.all()):
        raise ConfigError(
            f"{len(weight)} filters take as many thresholds, finite and at least 0; found {tuple(fit.shape)} numbers, "
            f"of which {int((~fit).sum())} are negative, NaN or infinite"
        )
    return rounded(weight, bits, thresholds)


def rounded(weight: Tensor, bits: Tensor, thresholds: Tensor) -> Quantized:
    """Return what `quantize` does, of weights, bits and thresholds that are known to fit: checks cost time in training.

    Example:
        >>> rounded(torch.tensor([[1.0, 0.2]]), torch.tensor([2]), torch.tensor([0.9])).codes.tolist()
        [[1, 0]]
    """
    most = (2 ** (bits.to(weight.device) - 1) - 1).float()
    scales = thresholds.to(weight.device).float() / most
    rows = weight.detach().float().flatten(1)
    codes = (rows / scales[:, None]).round().clamp(-most[:, None], most[:, None])
    codes = torch.where(scales[:, None] > 0, codes, 0.0)
    return Quantized(codes.to(torch.int32).view(weight.shape), scales, bits.to(torch.int64))


def dequantize(quantized: Quantized) -> Tensor:
    """Return the weights that the codes of `quantized` stand for, float32: code * scale.

    Example:
        >>> dequantize(Quantized(torch.tensor([[2, -1]]), torch.tensor([0.5]), torch.tensor([3]))).tolist()
        [[1.0, -0.5]]
    """
    scales = quantized.scales.view(-1, *[1] * (quantized.codes.ndim - 1))
    return quantized.codes.to(torch.float32) * scales
