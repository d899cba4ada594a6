"""What the times of a dense and a pruned network say, in numbers and in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from secateur_onnx.bootstrap import RatioInterval, ratio_interval

Measured = Literal["end to end", "device bound"]
UNSTEADY = 1.5
"""p90 / p10 above which the times of one network say more about the machine than about the network."""


@dataclass(frozen=True)
class Timing:
    """The times of one network for one batch size, in milliseconds per batch, in the order they were taken."""

    batch_size: int
    times_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The median time of a batch."""
        return float(np.median(self.times_ms))

    @property
    def p10_ms(self) -> float:
        """The time that a tenth of the batches stay below."""
        return float(np.quantile(self.times_ms, 0.1))

    @property
    def p90_ms(self) -> float:
        """The time that a tenth of the batches exceed."""
        return float(np.quantile(self.times_ms, 0.9))

    @property
    def images_per_second(self) -> float:
        """The throughput at the median time."""
        return 1000 * self.batch_size / self.median_ms

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "median_ms": self.median_ms,
            "p10_ms": self.p10_ms,
            "p90_ms": self.p90_ms,
            "images_per_second": self.images_per_second,
            "times_ms": list(self.times_ms),
        }


@dataclass(frozen=True)
class Comparison:
    """Dense against pruned for one batch size.

    Attributes:
        batch_size: images per run.
        measured: "end to end" (from an array to an array, copies included) or "device bound" (inputs and outputs stay
            on the device).
        dense, pruned: their times; entry r of both was taken in round r.
        interval: the ratio of the medians, dense / pruned, and its interval.
        sessions: how many of the rounds each pair of sessions ran, one pair after the other.
    """

    batch_size: int
    measured: Measured
    dense: Timing
    pruned: Timing
    interval: RatioInterval
    sessions: tuple[int, ...]

    @property
    def faster(self) -> bool:
        """Whether the pruned network is faster: only if the whole interval lies above 1."""
        return self.interval.lower > 1

    @property
    def slower(self) -> bool:
        """Whether the pruned network is slower: only if the whole interval lies below 1."""
        return self.interval.upper < 1

    @property
    def verdict(self) -> str:
        """The comparison in plain words: faster, not faster, or slower, with the interval."""
        ends = (self.interval.lower, self.interval.upper)
        digits = 2 if min(abs(end - 1) for end in ends) >= 0.01 else 4  # never "faster (1.00 to 1.00)"
        ratio, lower, upper = (f"{value:.{digits}f}" for value in (self.interval.ratio, *ends))
        spread = f"{self.interval.confidence:.0%} interval {lower} to {upper}"
        if self.faster:
            return f"{ratio}x faster ({spread})"
        if self.slower:
            return f"slower: {ratio}x as fast ({spread})"
        return f"not faster ({ratio}x, {spread})"

    @property
    def caution(self) -> str | None:
        """Why the ratio should not be trusted much: a busy machine halts long runs more often than short ones."""
        for name, timing in (("dense", self.dense), ("pruned", self.pruned)):
            if timing.p90_ms > UNSTEADY * timing.p10_ms:
                return (
                    f"the times of the {name} network scatter from {milliseconds(timing.p10_ms)} to "
                    f"{milliseconds(timing.p90_ms)} (p10 to p90), as on a busy machine; measure again on an idle one"
                )
        return None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "batch_size": self.batch_size,
            "measured": self.measured,
            "dense": self.dense.to_json(),
            "pruned": self.pruned.to_json(),
            **self.interval.to_json(),
            "sessions": list(self.sessions),
            "faster": self.faster,
            "slower": self.slower,
            "verdict": self.verdict,
            "caution": self.caution,
        }


def compare(
    dense_seconds: list[float],
    pruned_seconds: list[float],
    *,
    batch_size: int,
    measured: Measured = "end to end",
    sessions: Sequence[int] | None = None,
    seed: int = 0,
) -> Comparison:
    """Return the comparison of paired times in seconds. Raises DataError as `ratio_interval` does.

    Example:
        >>> compare([0.2] * 6, [0.1] * 6, batch_size=8).verdict
        '2.00x faster (95% interval 2.00 to 2.00)'
    """
    return Comparison(
        batch_size=batch_size,
        measured=measured,
        dense=Timing(batch_size, tuple(1000 * t for t in dense_seconds)),
        pruned=Timing(batch_size, tuple(1000 * t for t in pruned_seconds)),
        interval=ratio_interval(dense_seconds, pruned_seconds, sessions=sessions, seed=seed),
        sessions=(len(dense_seconds),) if sessions is None else tuple(sessions),
    )


def milliseconds(value: float) -> str:
    """Return a time with three digits, in seconds from one second on.

    Example:
        >>> milliseconds(0.071234), milliseconds(26.61), milliseconds(1234.5)
        ('0.0712 ms', '26.6 ms', '1.23 s')
    """
    if value >= 999.5:
        return f"{value / 1000:.2f} s"
    return f"{value:.{min(6, max(0, 2 - math.floor(math.log10(value or 1))))}f} ms"
