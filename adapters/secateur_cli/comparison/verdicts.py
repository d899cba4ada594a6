"""Who leads, in words: the first of each table against the best of the other houses, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur_cli.intervals import mean
from secateur_cli.wording import percent

Row = Mapping[str, Any]


def blocks_of(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return budget and search -> their rows, in the order of the rows."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["budget"], row["search"]), []).append(row)
    return found


def is_measured(row: Row) -> bool:
    """Return whether any accuracy of a row is known."""
    return any(share is not None for share in row["accuracy"].values())


def verdicts(rows: Sequence[Row], stages: Sequence[str]) -> list[str]:
    """Return a sentence for each budget and search: who is first at the last stage, and by how much.

    A difference is taken seed by seed, since all criteria of a seed read the same images, and its interval is that of
    these differences. Rows of which fewer seeds have been measured than of others are left out.

    Example:
        >>> row = {"budget": "50% of the MACs", "search": "uniform"}
        >>> share = {"cut": {"value": 0.9, "reach": None, "count": 1}}
        >>> row |= {"accuracy": share, "by_seed": {"cut": {"0": 0.9}}}
        >>> verdicts([row | {"criterion": "hrank", "house": "secateur"}], ["cut"])
        ['50% of the MACs, uniform: hrank (secateur) alone was measured (cut): 90.0%.']
    """
    return [_verdict(budget, search, block, stages[-1]) for (budget, search), block in blocks_of(rows).items()]


def called(row: Row) -> str:
    """Return what a row's criterion is called."""
    return f"{row['criterion']} ({row['house']})"


def _verdict(budget: str, search: str, block: Sequence[Row], stage: str) -> str:
    seeds = {id(row): sum(share is not None for share in row["by_seed"][stage].values()) for row in block}
    known = [row for row in block if seeds[id(row)] and seeds[id(row)] == max(seeds.values())]
    start = f"{budget}, {search}"
    if not known:
        return f"{start}: nothing has been measured yet."
    first = known[0]
    share = percent(first["accuracy"][stage]["value"])
    others = [row for row in known if row["house"] != first["house"]] or known[1:]
    if not others:
        return f"{start}: {called(first)} alone was measured ({stage}): {share}."
    second = others[0]
    return f"{start}: {called(first)} leads ({stage}: {share}), {_difference(first, second, stage)} {called(second)}."


def _difference(first: Row, second: Row, stage: str) -> str:
    """Return how far the first is ahead of the second, in points, and whether the seeds agree on it."""
    ours, theirs = first["by_seed"][stage], second["by_seed"][stage]
    differences = [
        100 * (ours[seed] - theirs[seed]) for seed in ours if ours[seed] is not None and theirs.get(seed) is not None
    ]
    if first["plans"] == second["plans"]:
        return "by the same channels as"
    found = mean(differences)
    if found is None:
        return "on other seeds than"
    ahead = f"{found.value:.1f} points ahead of"
    if found.reach is None:
        return f"in one seed {ahead}"
    low, high = found.ends
    chance = "" if low > 0 else ", which may be chance,"
    return f"{found.value:.1f} points ({low:.1f} to {high:.1f} over {found.count} seeds){chance} ahead of"
