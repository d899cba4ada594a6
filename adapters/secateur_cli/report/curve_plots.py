"""The error curves of a plan as one figure of small panels: what each width of each group would cost, and the choice.

All panels share one scale, so that what they say can be compared: errors are shares of one kind of variance. It is
logarithmic, since a search weighs errors of a thousandth against those of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from secateur_cli.report.drawing import BLUE, COLUMN, GREY, INK, drawn
from secateur_cli.report.plots import MAX_ROWS
from secateur_cli.report.shortening import told_apart
from secateur_cli.wording import percent

ACROSS = 3  # panels side by side
ROWS = 10  # of panels in a figure, so that two figures stand side by side on a screen
LEFT, GAP = 0.47, 0.14  # inches: for the labels of the errors, between panels
NAME, CURVE, BELOW = 0.18, 0.5, 0.15  # inches, from the top of a panel down
HEAD, FOOT = 0.06, 0.26
LETTERS = 18  # of a name, which has the room of its panel
FLOOR = 1e-3  # errors below it lie on the ground
RULE = "#e5e7eb"


def curves_plots(groups: Sequence[Mapping[str, Any]]) -> list[tuple[Sequence[Mapping[str, Any]], str]]:
    """Return figures with a panel for each of the first groups that have error curves, each with its groups.

    Args:
        groups: name, width, kept, and errors: what the readers of the group lose, as a share, when 0 .. width channels
            are kept.
    """
    known = [group for group in groups if group.get("errors")][:MAX_ROWS]
    highest = max((group["errors"][0] for group in known), default=1.0)
    decades = max(1.0, math.log10(max(highest, FLOOR) / FLOOR))
    figures = max(1, math.ceil(len(known) / (ACROSS * ROWS)))
    each = ACROSS * math.ceil(len(known) / figures / ACROSS)
    parts = [known[begin : begin + each] for begin in range(0, len(known), each or 1)]
    return [(part, _figure(part, decades, f"curves-{number}")) for number, part in enumerate(parts)]


def _figure(groups: Sequence[Mapping[str, Any]], decades: float, name: str) -> str:
    rows = math.ceil(len(groups) / ACROSS)
    height = rows * (NAME + CURVE + BELOW) + HEAD + FOOT
    width = (COLUMN - LEFT - ACROSS * GAP) / ACROSS

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, COLUMN)
        axes.set_ylim(0, height)
        axes.axis("off")
        titles = told_apart([str(group["name"]) for group in groups], LETTERS)
        for number, (title, group) in enumerate(zip(titles, groups, strict=True)):
            row, column = divmod(number, ACROSS)
            ground = height - HEAD - row * (NAME + CURVE + BELOW) - NAME - CURVE
            _panel(axes, title, group, LEFT + column * (width + GAP), ground, width, decades, labelled=not column)
        axes.annotate(
            "across: channels kept, none to all; upwards: error of the layers that read them",
            (COLUMN / 2, FOOT / 2), ha="center", va="center", fontsize=7.5, color=INK,
        )  # fmt: skip

    said = "; ".join(f"{g['name']} {percent(g['errors'][g['kept']])} at {g['kept']} of {g['width']}" for g in groups)
    return drawn(name, f"Error curves: {said}", (COLUMN, height), draw)


def _panel(
    axes: Axes,
    title: str,
    group: Mapping[str, Any],
    left: float,
    ground: float,
    width: float,
    decades: float,
    *,
    labelled: bool,
) -> None:
    """Draw a group in inches: a rule for each decade, the curve, and where it was cut."""

    def x(kept: float) -> float:
        return left + width * kept / int(group["width"])

    def y(error: float) -> float:
        height = math.log10(max(error, FLOOR) / FLOOR) / decades
        return ground + CURVE * min(1.0, height)

    for decade in range(math.floor(decades) + 1):
        error = FLOOR * 10**decade
        axes.hlines(y(error), left, left + width, color=RULE if decade else GREY, linewidth=0.7)
        if labelled:
            axes.annotate(f"{100 * error:g}%", (left - 0.05, y(error)), ha="right", va="center", fontsize=7, color=INK)
    errors, kept = group["errors"], group["kept"]
    axes.plot([x(k) for k in range(len(errors))], [y(error) for error in errors], color=INK, linewidth=0.9)
    axes.vlines(x(kept), ground, y(errors[kept]), color=BLUE, linewidth=1.2)
    axes.plot([x(kept)], [y(errors[kept])], marker="o", markersize=3.6, color=BLUE, linestyle="", clip_on=False)
    axes.annotate(title, (left, ground + CURVE + 0.05), fontsize=8, color=INK)
    inside = (left + width, ground + CURVE - 0.02)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}  # so that no line runs through it
    axes.annotate(f"{kept} of {group['width']}", inside, ha="right", va="top", fontsize=7.5, color=BLUE, bbox=box)
