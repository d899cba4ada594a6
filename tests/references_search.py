"""Naive twins of the searches: loops anyone can check. They import nothing of secateur."""

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


def widths_by_trying(width: int, *, min_keep: int, round_to: int) -> list[int]:
    """Every width from 1 up that is the full one, or at least `min_keep` and a multiple of `round_to`."""
    return [w for w in range(1, width + 1) if w == width or (w >= min_keep and w % round_to == 0)]


def keep_by_fractions(width: int, removed: int, of: int) -> int:
    """Channels that stay when the exact share removed / of goes: that share of the width, rounded down, goes."""
    gone = 0
    while (gone + 1) * of <= removed * width:
        gone += 1
    return width - gone


def select_by_removing(scores: list[float], keep: int) -> list[int]:
    """Remove the smallest score again and again, the first of equals."""
    left = list(range(len(scores)))
    while len(left) > keep:
        worst = left[0]
        for channel in left:
            if scores[channel] < scores[worst]:
                worst = channel
        left.remove(worst)
    return left


def uniform_by_trying(dense: dict[str, int], allowed: dict[str, list[int]], cost, largest: float) -> dict[str, int]:
    """Try every share removed / width of every group from small to large; return the first widths within the budget."""
    shares = sorted({(r, w) for w in dense.values() for r in range(w + 1)}, key=lambda s: s[0] / s[1])
    for removed, of in shares:
        widths = {}
        for name, width in dense.items():
            exact = keep_by_fractions(width, removed, of)
            widths[name] = min(w for w in allowed[name] if w >= exact)
        if cost(widths) <= largest:
            return widths
    raise ValueError("out of reach")


def algorithm_1(  # the greedy search of the DI paper, literally, with delta halved where nothing frees it
    dense: dict[str, int],
    allowed: dict[str, list[int]],
    scores: dict[str, list[float]],
    cost,
    evaluate,
    *,
    largest: float,
    delta: float,
    left: dict[str, list[int]] | None = None,
) -> tuple[dict[str, int], list[tuple[str, int]]]:
    """Return the final widths and the accepted cuts in order; `left`: the channels that a start has left."""
    left = left or {name: list(range(width)) for name, width in dense.items()}
    widths = {name: len(left[name]) for name in dense}
    steps = []
    while cost(widths) > largest:
        candidates = []
        share = delta
        while not candidates:
            for name in dense:
                for w in [w for w in reversed(allowed[name]) if w < widths[name]]:
                    tried = dict(widths)
                    tried[name] = w
                    freed = cost(widths) - cost(tried)
                    if freed >= share * cost(dense) * (1 - 1e-9):
                        kept = {}
                        for n in dense:
                            if tried[n] < dense[n]:
                                stay = select_by_removing([scores[n][c] for c in left[n]], tried[n])
                                kept[n] = tuple(left[n][c] for c in stay)
                        candidates.append((evaluate(kept), freed / (widths[name] - w), name, w))
                        break
            share /= 2
        best = candidates[0]
        for candidate in candidates:
            if candidate[0] > best[0] or (candidate[0] == best[0] and candidate[1] > best[1]):
                best = candidate
        widths[best[2]] = best[3]
        steps.append((best[2], best[3]))
    return widths, steps


def prune_by_ranking(
    scores: dict[str, list[float]], ratio: float, most: float, *, together: bool
) -> dict[str, list[int]]:
    """Remove one channel at a time, always the worst that may go, until the share of each scope has gone."""
    kept = {name: list(range(len(values))) for name, values in scores.items()}
    for scope in [list(scores)] if together else [[name] for name in scores]:
        total = sum(len(scores[name]) for name in scope)
        for _ in range(int(ratio * total + 1e-9)):
            best = None
            for name in scope:
                spare = len(kept[name]) > 1 and len(scores[name]) - len(kept[name]) < int(
                    most * len(scores[name]) + 1e-9
                )
                for channel in kept[name] if spare else []:
                    if best is None or scores[name][channel] < scores[best[0]][best[1]]:
                        best = (name, channel)
            if best is not None:
                kept[best[0]].remove(best[1])
    return kept
