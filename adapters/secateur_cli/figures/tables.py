"""What a figure says, as a small table in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from types import MappingProxyType

from rich import box
from rich.table import Table

from secateur_cli.figures.cells import summarised
from secateur_cli.figures.intervals import Spread
from secateur_cli.figures.names import name_of
from secateur_cli.figures.order import Found, Row
from secateur_cli.wording import NONE, percent

Rows = list[list[str]]
SHORT = 12  # layers, spread evenly


def table_of(name: str, found: Found) -> Table:
    """Return the table of a figure."""
    heads, rows = TABLES.get(name, _accuracies)(found)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for head in heads:
        table.add_column(head, justify="left" if head == heads[0] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def interval(spread: Spread) -> str:
    """Return both ends of an interval of accuracies.

    Example:
        >>> interval(Spread(0.5, 0.412, 0.59, 3))
        '41.2 to 59.0%'
    """
    return f"{100 * spread.low:.1f} to {percent(spread.high)}"


def _accuracies(found: Found) -> tuple[list[str], Rows]:
    points = summarised(found.rows)
    stages = {point["stage"] for point in points if point["stage"] != "dense"}
    seconds = _seconds(found.rows)
    columns: dict[str, list[str]] = {
        "": [name_of(point["line"]) or "dense" * (point["stage"] == "dense") for point in points],
        "at": ["" if point["at"] is None else f"{point['at']:g}" for point in points],
        "after": [point["stage"] for point in points],
        "MACs": ["" if point["macs"] is None else percent(point["macs"]) for point in points],
        "top-1": [percent(point["accuracy"].mean) for point in points],
        "95% interval": [interval(point["accuracy"]) for point in points],
        "scored in": [seconds.get((point["line"], point["at"]), "") for point in points],
    }
    filled = {head: cells for head, cells in columns.items() if any(cells)}
    if len(stages) == 1:
        del filled["after"]
    return list(filled), [list(row) for row in zip(*filled.values(), strict=True)]


def _seconds(rows: Sequence[Row]) -> dict[tuple[str, float | None], str]:
    taken: dict[tuple[str, float | None], dict[int, float]] = {}
    for row in rows:
        if "scoring_seconds" in row:
            taken.setdefault((row["line"], row["at"]), {})[row["seed"]] = row["scoring_seconds"]
    return {point: f"{sum(own.values()) / len(own):.2f} s" for point, own in taken.items()}


def _ranks(found: Found) -> tuple[list[str], Rows]:
    layers = found.about["layers"]
    step = max(1, -(-len(layers) // SHORT))
    rows = [
        [layer["layer"], str(layer["channels"]), *(_number(layer[key]) for key in ("median", "least", "most"))]
        for layer in layers[::step]
    ]
    known = [layer["median"] for layer in layers if layer["median"] is not None]
    rows.append([f"all {len(layers)} layers, median", "", _number(median(known) if known else None), "", ""])
    return ["layer", "channels", "rank correlation", "least", "most"], rows


def _information(found: Found) -> tuple[list[str], Rows]:
    keys = ("correlation", "correlation with others", "change", "change from others")
    rows = []
    for count in sorted({row["images"] for row in found.rows}):
        values: list[str] = []
        for key in keys:
            own = [row[key] for row in found.rows if row["images"] == count and row[key] is not None]
            middle = median(own) if own else None
            values.append(percent(middle) if "change" in key else _number(middle))
        rows.append([str(count), *values])
    return ["images", "correlation with all", "with others", "change from all", "from others"], rows


def _widths(found: Found) -> tuple[list[str], Rows]:
    rows = []
    for line, seed in dict.fromkeys((row["line"], row["seed"]) for row in found.rows):
        own = [row for row in found.rows if (row["line"], row["seed"]) == (line, seed)]
        least = min(own, key=lambda row: row["kept"] / row["width"])
        channels = f"{sum(row['kept'] for row in own):,} of {sum(row['width'] for row in own):,}"
        narrowest = f"{least['layer']}: {least['kept']} of {least['width']}"
        rows.append([name_of(line), str(seed), percent(own[0]["share"]), channels, narrowest])
    return ["", "seed", f"{'/'.join(found.about['costs'])} kept", "channels", "narrowest"], rows


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


TABLES: Mapping[str, Callable[[Found], tuple[list[str], Rows]]] = MappingProxyType(
    {"rank-stability": _ranks, "di-stability": _information, "widths": _widths}
)
"""Figures that are not about accuracy, and what makes their tables."""
