"""Two calls timed against each other in alternation, so that whatever slows the machine slows both."""

from __future__ import annotations

import time
from collections.abc import Callable

from secateur_onnx.bootstrap import MIN_ROUNDS

MIN_WARM_UPS = 2
MAX_WARM_UPS = 20
WARM_UP_SHARE = 0.2


def time_alternating(
    dense: Callable[[], object],
    pruned: Callable[[], object],
    *,
    rounds: int = 100,
    seconds: float = 5.0,
    least: int = MIN_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
    on_round: Callable[[int], None] | None = None,
) -> tuple[list[float], list[float]]:
    """Return the times in seconds of both calls, one of each per round.

    Even rounds run dense then pruned, odd rounds pruned then dense, so neither gains from its place. Before the first
    round both are run untimed, at least 2 and at most 20 times each, for a fifth of `seconds`: memory is allocated
    and kernels are chosen in the first runs of a shape.

    Args:
        dense, pruned: run one batch and return when its result is there.
        rounds: at most so many rounds.
        seconds: start no further round after so long, but never stop before `least` rounds (or `rounds`, if fewer).
        clock: gives the time in seconds.
        on_round: called after each round with the rounds done, or, where the seconds will run out first, with that
            share of the rounds; with `rounds` at the end.

    Example:
        >>> ticks = iter(range(1000))
        >>> times = time_alternating(lambda: None, lambda: next(ticks), rounds=6, clock=lambda: float(next(ticks)))
        >>> times == ([1.0] * 6, [2.0] * 6)
        True
    """
    started = clock()
    for run in range(MAX_WARM_UPS):
        if run >= MIN_WARM_UPS and clock() - started >= WARM_UP_SHARE * seconds:
            break
        dense()
        pruned()

    dense_times: list[float] = []
    pruned_times: list[float] = []
    first, second = (dense, dense_times), (pruned, pruned_times)
    started = clock()
    elapsed = 0.0
    while len(dense_times) < rounds and (len(dense_times) < least or elapsed < seconds):
        for call, times in (first, second):
            before = clock()
            call()
            times.append(clock() - before)
        first, second = second, first
        elapsed = clock() - started
        if on_round is not None:
            on_round(min(rounds, max(len(dense_times), int(rounds * elapsed / seconds))))
    if on_round is not None:
        on_round(rounds)
    return dense_times, pruned_times
