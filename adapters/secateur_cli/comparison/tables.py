"""The tables that end a comparison in the terminal: one for each budget and search, within 80 or 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from secateur_cli.comparison.verdicts import FEWEST_IMAGES, blocks_of, called, is_measured
from secateur_cli.wording import NONE, amount, duration, percent

SHORT = {"secateur": "ours", "Torch-Pruning": "TP", "NNI": "NNI"}
SHORTENED = {"recalibrated": "recalib.", "compensated": "compens.", "fine-tuned": "tuned"}
ROOMY = 8  # columns of numbers that leave room for whole words
LEADS = (
    "who leads is ahead of every other criterion by an interval of the seeds' differences that lies above zero, by one "
    f"of the images' differences that does, and by {FEWEST_IMAGES} held-out images or more; else the first may be so "
    "by chance, having been chosen by these figures."
)
WIDE = 96  # characters from which the costs of scoring and the parameters find room


def tables(found: Mapping[str, Any], *, width: int = WIDE) -> Iterator[Table]:
    """Yield a table for each budget and search of which anything has been measured.

    Args:
        found: see `secateur_cli.comparison.results.results`.
        width: of the terminal in characters; in a narrow one less is told.
    """
    for (budget, search), rows in blocks_of(found["rows"]).items():
        if not any(map(is_measured, rows)):
            continue
        timed = sorted({batch for row in rows for batch in row["speed"] or ()}, key=int)[:1]
        headings = ["MACs", *found["stages"], *(f"speed, {batch}" for batch in timed)]
        headings += ["param.", "score s", "MiB"] if width >= WIDE else []
        roomy = len(headings) <= ROOMY
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, int(roomy)), collapse_padding=True)
        table.title, table.title_justify = Text(f"{budget}, {search}", style="bold"), "left"
        table.add_column("criterion", overflow="fold", max_width=22 if roomy else 17)
        table.add_column("by", no_wrap=True)
        for heading in headings:
            table.add_column(heading if roomy else SHORTENED.get(heading, heading), justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*_row(row, found, timed)[: 2 + len(headings)])
        yield table


def notes(found: Mapping[str, Any], *, width: int = WIDE) -> list[str]:
    """Return what tables of this width leave to be said: how to read them, who chooses alike, what is not there."""
    seeds = found["seeds"]
    over = (
        f"the mean over the seeds {', '.join(map(str, seeds))} ± half of its 95% t-interval over these, not over "
        "images; without ± it is one measurement, which all seeds share where neither the channels nor what is done "
        "with them depends on the seed."
    )
    dense = percent(found["dense"]["accuracy"])
    lines = [
        f"dense: {dense} of {found['dense']['images'] or 0:,} held-out images, {amount(found['dense']['macs'])} MACs, "
        f"{amount(found['dense']['parameters'])} parameters.",
        f"top-1 in percent: {over if len(seeds) > 1 else f'one measurement, of seed {seeds[0]}.'}",
        LEADS,
    ]
    lines.append(
        "score s, MiB: processor seconds and most memory that the scores take, on top of what was held."
        if width >= WIDE
        else "parameters, and what the scores take, are told in a wider terminal and in the files."
    )
    for (budget, search), rows in blocks_of(found["rows"]).items():
        lines += [f"{budget}, {search}: {said}" for said in (*alike(rows), *trained_before(rows))]
    return lines + untouched(found["rows"]) + missing(found)


def alike(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which criteria choose the same channels under every seed, each set once."""
    return [
        f"{called(row)} chooses the same channels as {', '.join(row['same_channels_as'])}."
        for row in rows
        if row["same_channels_as"] and called(row) < min(row["same_channels_as"])
    ]


def trained_before(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which networks were trained before the cut, since their channels were learnt along, and for how long."""
    lines = []
    for row in rows:
        if epochs := row["learnt_epochs"]:
            number = "1 epoch" if epochs == 1 else f"{epochs} epochs"
            lines.append(
                f"{called(row)}: its network was trained along with its gates before the cut, for {number} in "
                f"{duration(row['plan_seconds']['value'])}, so that its accuracy when cut is not one without training; "
                "where others are compensated, its batch norm is measured afresh."
            )
    return lines


def untouched(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which criteria leave groups as they are since they cannot score them, and why."""
    lines = []
    for row in rows:
        if row["unscored"]:
            reasons = "; ".join(f"{group}: {reason}" for group, reason in row["unscored"].items())
            lines.append(f"{called(row)} leaves groups as they are ({reasons}).")
    return list(dict.fromkeys(lines))


def missing(found: Mapping[str, Any]) -> list[str]:
    """Return which cells are not measured, and why, alike ones in one line."""
    why: dict[tuple[str, str], list[str]] = {}
    for row in found["rows"]:
        for seed, reason in row["not_measured"].items():
            why.setdefault((called(row), reason), []).append(f"{row['budget']}, {row['search']}, seed {seed}")
    waiting = sum(len(cells) for (_, reason), cells in why.items() if reason == "not measured yet")
    total = sum(len(row["plans"]) for row in found["rows"])
    lines = [f"{waiting} of {total} cells are not measured yet."] if waiting else []
    if beside := found.get("accuracies_beside"):
        lines.append(
            f"The journal holds {beside:,} accuracies more, of criteria, searches, budgets, seeds or stages that are "
            "not named this time; named beside these, they are shown again."
        )
    return lines + [
        f"not measured: {name} ({'; '.join(cells)}): {reason}"
        for (name, reason), cells in why.items()
        if reason != "not measured yet"
    ]


def share(accuracy: Mapping[str, Any] | None) -> str:
    """Return a mean share in percent with half of its interval.

    Example:
        >>> share({"value": 0.85504, "reach": 0.00317, "count": 3}), share({"value": 1, "reach": None, "count": 1})
        ('85.5 ±0.3', '100.0')
    """
    if accuracy is None:
        return NONE
    reach = "" if accuracy["reach"] is None else f" ±{100 * accuracy['reach']:.1f}"
    return f"{100 * accuracy['value']:.1f}{reach}"


def _row(row: Mapping[str, Any], found: Mapping[str, Any], timed: Sequence[str]) -> list[str]:
    dense, peak = found["dense"], row["score_peak_bytes"]
    macs, parameters = (
        NONE if row[key] is None else percent(row[key]["value"] / dense[key]) for key in ("macs", "parameters")
    )
    stages = [share(row["accuracy"][stage]) for stage in found["stages"]]
    speeds = [f"{row['speed'][batch]['ratio']:.2f}" if row["speed"] else NONE for batch in timed]
    took = row["score_processor_seconds"]
    seconds = NONE if took is None else f"{took['value']:.1f}"
    memory = NONE if peak is None else f"{peak / 2**20:,.0f}"
    return [row["criterion"], SHORT[row["house"]], macs, *stages, *speeds, parameters, seconds, memory]
