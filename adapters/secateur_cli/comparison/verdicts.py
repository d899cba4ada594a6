"""Who leads, in words: the first of each table against the best of the other houses, and whether that may be chance.

The first is chosen by the same figures that show its lead, so that an interval against one other proves little: the
best of ten that are all alike is always ahead. It *leads* where it is ahead of every other criterion beyond chance,
which for normal figures of equal spread needs no correction for how many there are [Hung2019]_; else it *is first*,
and those that may be as good are named. Chance is that of the seeds, and that of the images that were held out.

.. [Hung2019] K. Hung, W. Fithian. Rank verification for exponential families. Annals of Statistics 47(2), 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur_cli.comparison.paired import over_images
from secateur_cli.intervals import Mean, mean
from secateur_cli.wording import percent

Row = Mapping[str, Any]
FEWEST_IMAGES = 6
"""A lead of fewer images counts as chance: five that one of two equal networks alone gets right are all on one side in
2 * 2^-5, a sixteenth, of all cases; six in a thirty-second."""
NAMED = 4
ROUNDING = 1e-7  # of 100: differences of shares are not exact, and six images are six


@dataclass(frozen=True)
class Lead:
    """How far a row is ahead of another, in points.

    Attributes:
        seeds: the mean with its interval over seeds, the images held still.
        images: the same with its interval over images, the seeds held still; None where it is not known of each network
            which images it has right.
    """

    seeds: Mean
    images: Mean | None

    def may_be_chance(self, least: float) -> bool:
        """Return whether it may be chance: of the seeds, of the images, or of fewer points than `least`."""
        over = [by for by in (self.seeds, self.images) if by is not None and by.reach is not None]
        return any(by.ends[0] <= 0 for by in over) or self.seeds.value < least

    def told(self) -> str:
        """Return it in points, without its sign, with the intervals that it has."""
        value, sign = abs(self.seeds.value), -1 if self.seeds.value < 0 else 1
        intervals = []
        for over, what in ((self.seeds, "seeds"), (self.images, "images")):
            if over is not None and over.reach is not None:
                low, high = sorted(sign * end for end in over.ends)
                intervals.append(f"{low:.1f} to {high:.1f} over {over.count:,} {what}")
        single = "in one measurement " if self.seeds.reach is None else ""
        return f"{single}{value:.1f} points" + (f" ({', '.join(intervals)})" if intervals else "")


@dataclass(frozen=True)
class Standing:
    """How a table stands at a stage.

    Attributes:
        first: the row of the highest accuracy; None where nothing has been measured.
        second: the best of the other houses, or the next where there is no other house; None where there is no other.
        within: the others, best first, ahead of which the first may be by chance; those of its channels are left out.
        others: how many others there are, those of its channels left out.
        once: ahead of how many of these it is in a single measurement, which has no interval.
        houses: whose criteria are first: its own, and those that choose the same channels.
    """

    first: Row | None
    second: Row | None = None
    within: tuple[Row, ...] = ()
    others: int = 0
    once: int = 0
    houses: frozenset[str] = frozenset()

    @property
    def leads(self) -> bool:
        """Whether the first is ahead of all others beyond chance, of each by an interval."""
        return self.others > 0 and not self.once and not self.within


def blocks_of(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return budget and search -> their rows, in the order of the rows."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["budget"], row["search"]), []).append(row)
    return found


def is_measured(row: Row) -> bool:
    """Return whether any accuracy of a row is known."""
    return any(share is not None for share in row["accuracy"].values())


def standing(block: Sequence[Row], stage: str, *, images: int | None = None) -> Standing:
    """Return how a table stands at a stage; two rows are compared on the seeds of which both have been measured.

    Args:
        block: the rows of one budget and search, best first.
        stage: by whose accuracy.
        images: how many are held out; a lead of fewer than `FEWEST_IMAGES` of them may be chance. None leaves that out.
    """
    known = [row for row in block if row["accuracy"][stage] is not None]
    if not known:
        return Standing(None)
    first = known[0]
    rest = [row for row in known if row["house"] != first["house"]] or known[1:]
    second = rest[0] if rest else None
    others = [row for row in known[1:] if row["plans"] != first["plans"]]
    least = 0.0 if images is None else (100 - ROUNDING) * FEWEST_IMAGES / images
    leads = [lead(first, row, stage) for row in others]
    within = tuple(row for row, ahead in zip(others, leads, strict=True) if ahead is None or ahead.may_be_chance(least))
    return Standing(
        first,
        second,
        within,
        others=len(others),
        once=sum(ahead is None or ahead.seeds.reach is None for ahead in leads),
        houses=frozenset(row["house"] for row in known if row["plans"] == first["plans"]),
    )


def lead(first: Row, other: Row, stage: str) -> Lead | None:
    """Return how far a row is ahead of another, seed by seed, since all of a seed read the same images.

    Where neither changes with the seed it is one difference. None where they have no seed in common.
    """
    ours, theirs = first["by_seed"][stage], other["by_seed"][stage]
    seeds = [seed for seed in ours if ours[seed] is not None and theirs.get(seed) is not None]
    if first["accuracy"][stage]["count"] == other["accuracy"][stage]["count"] == 1:
        seeds = seeds[:1]
    by = mean([100 * (ours[seed] - theirs[seed]) for seed in seeds])
    right = ([row["right"][stage][seed] for seed in seeds] for row in (first, other))
    return None if by is None else Lead(by, over_images(*right))


def verdicts(rows: Sequence[Row], stages: Sequence[str], *, images: int | None = None) -> list[str]:
    """Return a sentence or two for each budget and search: who is first at the last stage, by how much, and how surely.

    Where nothing has come to the last stage yet, it is said of the last one before it that something has come to.

    Args:
        rows: see `secateur_cli.comparison.results.rows_of`.
        stages: of the comparison.
        images: see `standing`.

    Example:
        >>> row = {"budget": "50% of the MACs", "search": "uniform"}
        >>> share = {"cut": {"value": 0.9, "reach": None, "count": 1}}
        >>> row |= {"accuracy": share, "by_seed": {"cut": {"0": 0.9}}, "right": {"cut": {"0": None}}}
        >>> verdicts([row | {"criterion": "hrank", "house": "secateur", "plans": ["a"]}], ["cut"])
        ['50% of the MACs, uniform: hrank (secateur) alone was measured (cut): 90.0%.']
    """
    return [
        f"{budget}, {search}: {_verdict(block, stages, images=images)}"
        for (budget, search), block in blocks_of(rows).items()
    ]


def called(row: Row) -> str:
    """Return what a row's criterion is called."""
    return f"{row['criterion']} ({row['house']})"


def _verdict(block: Sequence[Row], stages: Sequence[str], *, images: int | None) -> str:
    for stage in reversed(stages):
        table = standing(block, stage, images=images)
        if table.first is not None:
            begun = "" if stage == stages[-1] else f"nothing has been {stages[-1]} yet; "
            return begun + _said(table, table.first, stage)
    return "nothing has been measured yet."


def _said(table: Standing, first: Row, stage: str) -> str:
    share = percent(first["accuracy"][stage]["value"])
    if table.second is None:
        return f"{called(first)} alone was measured ({stage}): {share}."
    verb = "leads" if table.leads else "is first"
    return f"{called(first)} {verb} ({stage}: {share}), {_ahead(table, stage)} {called(table.second)}.{_more(table)}"


def _ahead(table: Standing, stage: str) -> str:
    """Return how far the first is ahead of the second."""
    first, second = table.first, table.second
    if first is None or second is None or first["plans"] == second["plans"]:
        return "by the same channels as"
    ahead = lead(first, second, stage)
    if ahead is None:
        return "on other seeds than"
    if ahead.seeds.value < 0:  # the first by the mean over seeds that the second lacks, or the other way round
        return f"but on the seeds of both {ahead.told()} behind"
    chance = ", which may be chance," if any(row is second for row in table.within) else ""
    return f"{ahead.told()}{chance} ahead of"


def _more(table: Standing) -> str:
    """Return who else may be as good as the first."""
    within = [called(row) for row in table.within if row is not table.second]
    if not within or table.once == table.others:
        return ""
    more = f" and {len(within) - NAMED} more" if len(within) > NAMED else ""
    return f" Within chance of it: {', '.join(within[:NAMED])}{more}, of {table.others} others."
