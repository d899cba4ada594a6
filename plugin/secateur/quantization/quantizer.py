"""Linear symmetric quantization, with a threshold for each filter.

.. [Wang2019] K. Wang, Z. Liu, Y. Lin, J. Lin, S. Han. HAQ: hardware-aware automated quantization with mixed precision.
   CVPR 2019, section 3.4.
.. [Migacz2017] S. Migacz. 8-bit inference with TensorRT. GPU Technology Conference 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import ConfigError, ScoreError

LEAST, MOST = 2, 16
BINS = 128  # of the histogram of one filter's absolute weights
BY_MAXIMUM = 5  # from so many bits on nothing is clipped


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
    """Refuse bits outside 2..16. Raises ConfigError."""
    if len(bits) and not LEAST <= int(bits.min()) <= int(bits.max()) <= MOST:
        raise ConfigError(f"bits must be whole numbers in {LEAST}..{MOST}; found {sorted(set(bits.tolist()))}")


def thresholds_of(weight: Tensor, bits: Tensor) -> Tensor:
    """Return the threshold t of each filter of weights (C, ...), (C,) float32: beyond it weights are clipped.

    From 5 bits on it is max |w|; below, the one whose quantized histogram is nearest to the weights' own, see
    `kl_thresholds` [Wang2019]_.

    Raises:
        ConfigError: bits outside 2..16.
        ScoreError: weights that are not floating or not finite.

    Example:
        >>> thresholds_of(torch.tensor([[1.0, -3.0], [0.0, 0.0]]), torch.tensor([8, 8])).tolist()
        [3.0, 0.0]
    """
    check_bits(bits)
    if not weight.is_floating_point() or not bool(torch.isfinite(weight).all()):
        raise ScoreError(f"weights of the shape {tuple(weight.shape)} must be finite floating numbers")
    sizes = weight.detach().float().flatten(1).abs()
    found = sizes.amax(1)
    for few in sorted({b for b in bits.tolist() if b < BY_MAXIMUM}):
        rows = (bits == few).to(weight.device)
        found[rows] = kl_thresholds(sizes[rows], few)
    return found


def kl_thresholds(sizes: Tensor, bits: int) -> Tensor:
    """Return the threshold of each row of absolute weights (C, D) with the least divergence [Migacz2017]_.

    Formula: the row's histogram has bins 0..B-1 up to its maximum. A threshold at bin i clips what lies above into bin
    i - 1, which gives P; Q spreads what falls to each of the L = 2^(bits - 1) levels, code j owning the bins that round
    to it, evenly over those of its bins that hold anything. Chosen is the i >= L that minimises
    sum P log(P / Q), the first of equals.

    Cost: O(B^2) a row.

    Example:
        >>> sizes = torch.cat([torch.linspace(0, 1, 999), torch.tensor([10.0])])[None]
        >>> kl_thresholds(sizes, 4).item() < 2
        True

    Deviations: one histogram a filter, of 128 bins, with levels where this quantizer rounds; HAQ takes one a layer.
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
        P = counts[:, :i].clone()
        P[:, -1] += counts[:, i:].sum(1)
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
        better = divergence < best
        best = torch.where(better, divergence, best)
        found = torch.where(better, largest * i / BINS, found)
    return found


def quantize(weight: Tensor, bits: Tensor, thresholds: Tensor | None = None) -> Quantized:
    """Return weights (C, ...) as whole numbers, filter c with bits[c] bits [Wang2019]_.

    Formula: s = t / (2^(b - 1) - 1), code = round(clip(w, -t, t) / s), half to even; a filter of zeros has s = 0.

    Args:
        weight: floating, one row a filter.
        bits: (C,), whole numbers in 2..16.
        thresholds: (C,) >= 0; None: `thresholds_of`.

    Raises:
        ConfigError: bits outside 2..16, or not one a filter.
        ScoreError: weights that are not floating or not finite.

    Example:
        >>> found = quantize(torch.tensor([[1.0, -0.4], [0.0, 0.0]]), torch.tensor([8, 8]))
        >>> found.codes.tolist(), dequantize(found)[0, 0].item()
        ([[127, -51], [0, 0]], 1.0)
    """
    if bits.shape != (len(weight),):
        raise ConfigError(f"{tuple(bits.shape)} bits are given for {len(weight)} filters; each filter takes one number")
    limits = thresholds_of(weight, bits) if thresholds is None else thresholds.float()
    most = (2 ** (bits.to(weight.device) - 1) - 1).float()
    scales = limits / most
    rows = weight.detach().float().flatten(1)
    safe = torch.where(scales > 0, scales, 1.0)[:, None]
    codes = (rows / safe).round().clamp(-most[:, None], most[:, None])
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
