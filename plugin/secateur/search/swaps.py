"""Swaps: one group of a plan wider, another narrower, so that every budget is still met."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from secateur.search.problem import Problem

Promise = Literal["curves", "scores"]
Swap = Mapping[str, int]
"""Group -> new width, of one or two groups; the wider first."""


def losses_of(scores: Sequence[float], promise: Promise) -> list[float]:
    """Return the loss L(k) that scores promise when k = 0 .. width channels are kept, the lowest gone.

    Formula: with the scores ascending as s_1 .. s_W,

        L(k) = s_(W - k)                               "curves": scores are error curves; L(W) = 0
        L(k) = (s_1 + ... + s_(W - k)) / sum |s_i|     "scores"

    Example:
        >>> losses_of([3.0, 1.0, 4.0], "curves"), losses_of([3.0, 1.0, 4.0], "scores")
        ([4.0, 3.0, 1.0, 0.0], [1.0, 0.5, 0.125, 0.0])
    """
    going = sorted(scores)
    if promise == "curves":
        return [*reversed(going), 0.0]
    whole = sum(map(abs, going)) or 1.0
    return [sum(going[:removed]) / whole for removed in range(len(going), -1, -1)]


def swaps_from(
    problem: Problem,
    widths: Mapping[str, int],
    losses: Mapping[str, Sequence[float]],
    *,
    refused: Mapping[tuple[str, ...], int],
    judged: Collection[tuple[int, ...]],
) -> list[Swap]:
    """Return the swaps that are possible at these widths, in the order in which they should be tried.

    For each pair of groups there is one: the first goes up to its next allowed width; where the budgets are not met
    then, the second goes down until they are, and the first goes up as far as that has paid for.

    Args:
        widths: of all groups; the budgets are met.
        losses: group -> its loss at each width from 0.
        refused: the groups of a swap -> how often such a swap was refused. Those refused least come first, among them
            those that lower the loss most, among these those of the first groups.
        judged: `widths_key` of the widths to leave out.

    Cost: O(G^2 log W) evaluations of the cost, for G groups of W widths.
    """
    swaps: list[Swap] = []
    for wide, allowed in problem.widths.items():
        wider = [width for width in allowed if width > widths[wide]]
        if wider and problem.met({**widths, wide: wider[0]}):
            swaps.append({wide: wider[0]})
        elif wider:
            paid = (_paid(problem, widths, wide, wider, narrow) for narrow in problem.widths if narrow != wide)
            swaps += [swap for swap in paid if swap is not None]

    def place(swap: Swap) -> tuple[int, float]:
        return refused.get(tuple(swap), 0), sum(losses[g][width] - losses[g][widths[g]] for g, width in swap.items())

    return sorted((swap for swap in swaps if widths_key({**widths, **swap}) not in judged), key=place)


def widths_key(widths: Mapping[str, int]) -> tuple[int, ...]:
    """Return widths as what can be looked up; of mappings with their groups in one order.

    Example:
        >>> widths_key({"a": 3, "b": 5})
        (3, 5)
    """
    return tuple(widths.values())


def _paid(
    problem: Problem, widths: Mapping[str, int], wide: str, wider: Sequence[int], narrow: str
) -> dict[str, int] | None:
    """Return the swap in which `narrow` pays for the widening of `wide`, None where it cannot."""
    narrower = [width for width in reversed(problem.widths[narrow]) if width < widths[narrow]]
    after = {**widths, wide: wider[0]}
    least = bisect.bisect_left(narrower, True, key=lambda width: problem.met({**after, narrow: width}))
    if least == len(narrower):
        return None
    after[narrow] = narrower[least]
    beyond = bisect.bisect_left(wider, True, key=lambda width: not problem.met({**after, wide: width}))
    return {wide: wider[beyond - 1], narrow: narrower[least]}
