"""Naive twins of quantization: one number after another."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantized_by_loops(row: Sequence[float], bits: int, threshold: float) -> tuple[list[int], float]:
    """code = round(clip(w, -t, t) / s), half to even, s = t / (2^(bits - 1) - 1); zeros where t is zero."""
    scale = threshold / (2 ** (bits - 1) - 1)
    if scale == 0:
        return [0] * len(row), 0.0
    return [round(min(max(w, -threshold), threshold) / scale) for w in row], scale


def kl_threshold_by_loops(sizes: Sequence[float], bits: int, *, bins: int) -> float:
    """The threshold at the end of the bin whose clipped histogram diverges least from its quantized form.

    One that clips more than half of the sizes is none.
    """
    levels, largest = 2 ** (bits - 1), max(sizes)
    if largest == 0:
        return 0.0
    counts = [0.0] * bins
    for size in sizes:
        counts[min(int(size / largest * bins), bins - 1)] += 1
    best, found = math.inf, largest
    for i in range(levels, bins + 1):
        clipped = counts[:i]
        clipped[-1] += sum(counts[i:])
        owners = [round((k + 0.5) / i * (levels - 1)) for k in range(i)]
        spread = [0.0] * i
        for level in range(levels):
            own = [k for k in range(i) if owners[k] == level and counts[k] > 0]
            for k in own:
                spread[k] = sum(counts[j] for j in own) / len(own)
        P = [p / sum(clipped) for p in clipped]
        Q = [q / max(sum(spread), 1) for q in spread]
        floor = 2.0**-52
        divergence = sum(p * math.log(max(p, floor) / max(q, floor)) for p, q in zip(P, Q, strict=True) if p > 0)
        if divergence < best - 1e-12 and sum(counts[i:]) <= len(sizes) / 2:
            best, found = divergence, largest * i / bins
    return found


def squared_error_by_loops(row: Sequence[float], bits: int, threshold: float) -> float:
    """What rounding at a threshold leaves: the sum of (w - s * code)^2."""
    codes, scale = quantized_by_loops(row, bits, threshold)
    return sum((w - scale * code) ** 2 for w, code in zip(row, codes, strict=True))


def least_squares_threshold_by_loops(sizes: Sequence[float], bits: int) -> float:
    """Of the hundredths of the maximum the one of least error, then the scale that suits its codes best."""
    most, largest = 2 ** (bits - 1) - 1, max(sizes)
    if largest == 0:
        return 0.0
    errors = [squared_error_by_loops(sizes, bits, largest * k / 100) for k in range(1, 101)]
    codes, _ = quantized_by_loops(sizes, bits, largest * (errors.index(min(errors)) + 1) / 100)
    return most * sum(w * c for w, c in zip(sizes, codes, strict=True)) / sum(c * c for c in codes)


def ternary_scale_by_loops(sizes: Sequence[float]) -> float:
    """The best {-s, 0, s}: of the k largest weights, whose mean is s, those for which sum^2 / k is largest."""
    falling = sorted(sizes, reverse=True)
    best = max(range(1, len(falling) + 1), key=lambda k: sum(falling[:k]) ** 2 / k)
    return sum(falling[:best]) / best


def packed_by_loops(values: Sequence[int], bits: int) -> list[int]:
    """Lowest bit first, in one stream, cut into bytes of eight, lowest bit first."""
    stream = [(value % 2**bits) >> k & 1 for value in values for k in range(bits)]
    stream += [0] * (-len(stream) % 8)
    return [sum(bit << k for k, bit in enumerate(stream[n : n + 8])) for n in range(0, len(stream), 8)]


def rounded_activation_by_loops(values: Sequence[float], bits: int, threshold: float, *, signed: bool) -> list[float]:
    """s = t / the largest code, x <- s * round(x / s), half to even, within the codes of a type of so many bits."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    scale = threshold / high
    return [scale * min(max(round(value / scale), low), high) for value in values]
