"""How sure a speedup is: a bootstrap interval of the ratio of two medians, from rounds that timed both networks.

References:
    [Efron1993]_ B. Efron and R. Tibshirani. An Introduction to the Bootstrap. Chapman & Hall, 1993. Chapter 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.errors import ConfigError, DataError

MIN_ROUNDS = 6
"""The range of six independent measurements holds the true median with probability 1 - 2 / 2^6 = 96.9%, that of five
with 93.8%: below six no interval of 95% can be honest."""


@dataclass(frozen=True)
class RatioInterval:
    """The ratio dense / pruned (above 1: the pruned network is faster) and the interval that holds it."""

    ratio: float
    lower: float
    upper: float
    confidence: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"ratio": self.ratio, "lower": self.lower, "upper": self.upper, "confidence": self.confidence}


def ratio_interval(
    dense_times: Sequence[float],
    pruned_times: Sequence[float],
    *,
    sessions: Sequence[int] | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> RatioInterval:
    """Return median(dense) / median(pruned) with its percentile bootstrap interval over paired rounds.

    Formula: round r gives the pair (d_r, p_r). Each resample draws R rounds with replacement, the same rounds for both
    networks, and takes median(d) / median(p); the interval runs from the (1 - confidence) / 2 quantile of these ratios
    to the (1 + confidence) / 2 quantile. Resample i uses row i of
    `numpy.random.default_rng(seed).integers(R, size=(resamples, R))`. Drawing whole rounds keeps what disturbs both
    networks of a round (another process, a clock that drops) out of the width of the interval.

    With `sessions`, resample i draws as many of them as there are, with replacement, and then as many rounds of each as
    it has: the place where a session happens to put its memory moves all of its times together. Round j of place s is
    floor(u[i, s, j] * its number of rounds), with u from `random((resamples, S, largest number of rounds))` after
    `integers(S, size=(resamples, S))` for the sessions.

    Args:
        dense_times, pruned_times: R times each, in any common unit; entry r of both was measured in round r.
        sessions: how many rounds each pair of sessions ran, one after the other; None: one pair ran all of them.
        resamples: how many ratios are drawn.
        confidence: the share of repetitions in which the interval should hold the true ratio.

    Raises:
        DataError: the numbers of rounds differ, are below MIN_ROUNDS or do not add up over the sessions, or a time is
            not positive and finite.
        ConfigError: `resamples` is below 1 or `confidence` is not between 0 and 1.

    Cost: O(resamples * R) time and memory.

    Example:
        >>> ratio_interval([4.0, 4.2, 3.9, 4.1, 4.0, 4.0], [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]).ratio
        2.0

    Reference: [Efron1993]_, the percentile interval; sessions are its clusters.

    Deviations: rounds of a session are treated as independent. Load that outlasts several rounds breaks this, and the
    interval is then too narrow; alternating the two networks in every round keeps most of such load out of the ratio.
    """
    dense, pruned = np.asarray(dense_times, dtype=np.float64), np.asarray(pruned_times, dtype=np.float64)
    if dense.ndim != 1 or dense.shape != pruned.shape or len(dense) < MIN_ROUNDS:
        raise DataError(
            f"an interval needs one time of each network per round and at least {MIN_ROUNDS} rounds; "
            f"found {dense.size} times of the dense and {pruned.size} of the pruned network"
        )
    if not all(bool(np.isfinite(times).all() and (times > 0).all()) for times in (dense, pruned)):
        raise DataError("times must be positive and finite")
    if resamples < 1 or not 0 < confidence < 1:
        raise ConfigError(
            f"resamples must be at least 1 and confidence between 0 and 1; found {resamples} and {confidence}"
        )
    sizes = np.array([len(dense)] if sessions is None else sessions)
    if sizes.sum() != len(dense) or not (sizes > 0).all():
        raise DataError(f"sessions of {sizes.tolist()} rounds do not make up {len(dense)} rounds")
    random = np.random.default_rng(seed)
    if len(sizes) == 1:
        rounds = random.integers(len(dense), size=(resamples, len(dense)))
        ratios = np.median(dense[rounds], axis=1) / np.median(pruned[rounds], axis=1)
    else:
        drawn = random.integers(len(sizes), size=(resamples, len(sizes)))
        share = random.random((resamples, len(sizes), sizes.max()))
        rounds = (np.cumsum(sizes) - sizes)[drawn][..., None] + (share * sizes[drawn][..., None]).astype(np.int64)
        absent = np.arange(sizes.max()) >= sizes[drawn][..., None]
        times = [np.where(absent, np.nan, each[rounds]).reshape(resamples, -1) for each in (dense, pruned)]
        ratios = np.nanmedian(times[0], axis=1) / np.nanmedian(times[1], axis=1)
    lower, upper = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return RatioInterval(float(np.median(dense) / np.median(pruned)), float(lower), float(upper), confidence)
