"""The figures of a comparison: axes with units, intervals, and markers that tell apart without colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from secateur_cli.comparison.tables import SHORT
from secateur_cli.comparison.verdicts import called
from secateur_cli.report.drawing import BLUE, COLUMN, GREY, INK, PANEL, RUST, drawn, logarithmic, name_rows
from secateur_cli.wording import percent

Row = Mapping[str, Any]
STAGES: dict[str, dict[str, Any]] = {
    "cut": {"marker": "x", "color": RUST, "markersize": 5},
    "recalibrated": {"marker": "o", "color": GREY, "markerfacecolor": "white", "markersize": 5.5},
    "compensated": {"marker": "s", "color": BLUE, "markersize": 5},
    "fine-tuned": {"marker": "^", "color": INK, "markersize": 5.5},
}
SEARCHES: dict[str, dict[str, Any]] = {
    "uniform": {"marker": "o", "linestyle": "--", "color": GREY, "markerfacecolor": "white", "markersize": 4.5},
    "curves": {"marker": "s", "linestyle": "-", "color": BLUE, "markersize": 4},
    "greedy": {"marker": "^", "linestyle": ":", "color": RUST, "markersize": 4.5},
    "cross_layer": {"marker": "D", "linestyle": "-.", "color": INK, "markersize": 4},
}
ROW = 0.27  # inches
DODGE = 0.16  # of a row, between the stages of a criterion, whose bars may overlap


def stages_plot(rows: Sequence[Row], stages: Sequence[str], *, dense: float | None, name: str) -> str:
    """Return the accuracy of each criterion at each stage, with its interval over seeds; the dashed line is dense."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(axis="x")
        if dense is not None:
            axes.axvline(100 * dense, color=INK, linestyle="--", linewidth=1)
        for number, stage in enumerate(stages):
            shift = DODGE * (number - (len(stages) - 1) / 2)
            found = [(y + shift, row["accuracy"][stage]) for y, row in enumerate(rows) if row["accuracy"][stage]]
            if not found:
                continue
            axes.errorbar(
                [100 * share["value"] for _, share in found],
                [place for place, _ in found],
                xerr=reaches([share for _, share in found]),
                capsize=2.5,
                linestyle="",
                label=stage,
                **STAGES[stage],
            )
        name_rows(axes, [f"{row['criterion']}, {SHORT[row['house']]}" for row in rows])
        axes.set_xlabel("top-1 accuracy (%; dashed: dense)")
        figure.legend(loc="outside upper right", ncols=len(stages), columnspacing=1.0, handletextpad=0.2)

    last = stages[-1]
    said = "; ".join(f"{called(r)} {percent(r['accuracy'][last]['value'])}" for r in rows if r["accuracy"][last])
    return drawn(name, f"Accuracy by criterion, {last}: {said}", (COLUMN, 1.15 + ROW * len(rows)), draw)


def reaches(shares: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return how far intervals reach below and above, in percent, as far as there are shares: from 0 to 100%.

    Where there is none, as of a single measurement, it is NaN, which draws no bar.

    Example:
        >>> reaches([{"value": 0.5, "reach": 0.75}, {"value": 0.5, "reach": None}])
        [[50.0, nan], [50.0, nan]]
    """
    own = [(100 * share["value"], math.nan if share["reach"] is None else 100 * share["reach"]) for share in shares]
    return [[min(reach, value) for value, reach in own], [min(reach, 100 - value) for value, reach in own]]


def cost_panels(rows: Sequence[Row], stage: str, *, dense: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return a panel for each criterion: accuracy at a stage against MACs, a line for each search, on one scale."""
    by_criterion: dict[str, list[Row]] = {}
    for row in rows:
        if row["accuracy"][stage] and row["macs"]:
            by_criterion.setdefault(called(row), []).append(row)
    shares = [row["accuracy"][stage] for found in by_criterion.values() for row in found]
    if not shares:
        return []
    low = min(max(0.0, share["value"] - (share["reach"] or 0.0)) for share in shares)
    high = max(min(1.0, share["value"] + (share["reach"] or 0.0)) for share in shares)
    limits = (100 * low - 2, 100 * max(high, dense["accuracy"] or 0.0) + 2)
    spent = [100 * row["macs"]["value"] / dense["macs"] for found in by_criterion.values() for row in found]
    reach = (min(spent) - 3, max(spent) + 3)
    return [
        (criterion, _cost_panel(found, stage, dense["macs"], (reach, limits), f"cost-{number}"))
        for number, (criterion, found) in enumerate(by_criterion.items())
    ]


def _cost_panel(
    rows: Sequence[Row], stage: str, macs: float, scale: tuple[tuple[float, float], tuple[float, float]], name: str
) -> str:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid()
        for search in dict.fromkeys(row["search"] for row in rows):
            _line(axes, [row for row in rows if row["search"] == search], stage, macs, search)
        axes.set_xlim(*scale[0])
        axes.set_ylim(*scale[1])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("MACs (% of dense)")
        axes.set_ylabel("top-1 (%)")

    said = "; ".join(
        f"{row['search']} {percent(row['macs']['value'] / macs)} of the MACs {percent(row['accuracy'][stage]['value'])}"
        for row in rows
    )
    return drawn(name, f"{called(rows[0])}, {stage}: {said}", (PANEL, 1.75), draw)


def _line(axes: Axes, rows: Sequence[Row], stage: str, macs: float, search: str) -> None:
    points = sorted(rows, key=lambda row: float(row["macs"]["value"]))
    shares = [row["accuracy"][stage] for row in points]
    axes.errorbar(
        [100 * row["macs"]["value"] / macs for row in points],
        [100 * share["value"] for share in shares],
        yerr=reaches(shares),
        capsize=2,
        linewidth=1,
        **SEARCHES[search],
    )


def scoring_plot(rows: Sequence[Row]) -> str:
    """Return how long each criterion takes to score, on a logarithmic scale, with its interval over seeds."""
    known = sorted(
        (row for row in rows if row["score_processor_seconds"]),
        key=lambda r: float(r["score_processor_seconds"]["value"]),
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(axis="x")
        for place, row in enumerate(known):
            took = row["score_processor_seconds"]
            low = min(took["reach"] or 0.0, 0.9 * took["value"])  # what lies below zero has no place on the scale
            reach = [[low], [took["reach"] or 0.0]]
            axes.errorbar(took["value"], place, xerr=reach, capsize=2.5, **STAGES["compensated"])
        logarithmic(axes)
        name_rows(axes, [f"{row['criterion']}, {SHORT[row['house']]}" for row in known])
        axes.set_xlabel("processor time of scoring (s)")

    said = "; ".join(f"{called(row)} {row['score_processor_seconds']['value']:.2g} s" for row in known)
    return drawn("scoring", f"Time of scoring: {said}", (COLUMN, 0.8 + ROW * len(known)), draw)
