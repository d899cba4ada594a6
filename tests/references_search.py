"""Naive twins of the searches: loops anyone can check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence


def ranked_widths_by_loops(
    allowed: Mapping[str, Sequence[int]],
    scores: Mapping[str, Sequence[float]],
    cost: Callable[[Mapping[str, int]], float],
    largest: float,
) -> dict[str, int]:
    """All channels in one list: raise a bar from value to value until the budget is met; round up what is left."""
    bars = [float("-inf"), *sorted(value for values in scores.values() for value in values)]
    for bar in bars:
        above = {name: sum(value > bar for value in values) for name, values in scores.items()}
        widths = {name: min(w for w in allowed[name] if w >= above[name]) for name in scores}
        if cost(widths) <= largest:
            return widths
    raise AssertionError("the budget cannot be met")
