"""Kept channels of each layer, by plan: shares over the layers, in the order of the network."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from secateur_cli.figures.names import name_of
from secateur_cli.figures.order import Found, Row
from secateur_cli.figures.paper import WIDE, legend_above, look, sheet
from secateur_cli.report.shortening import told_apart

MOST_NAMES = 40  # beyond them layers are numbered


def widths_plot(found: Found) -> Figure:
    """Return the share of its channels that each layer keeps: the mean over the seeds, and from least to most.

    Below it the channels themselves, with those of the dense network.
    """
    lines = list(dict.fromkeys(row["line"] for row in found.rows))
    layers = list(dict.fromkeys(row["layer"] for row in found.rows))
    kept: dict[str, dict[str, list[Row]]] = {line: {layer: [] for layer in layers} for line in lines}
    for row in found.rows:
        kept[row["line"]][row["layer"]].append(row)
    named = len(layers) <= MOST_NAMES
    names = told_apart(layers) if named else []
    longest = max(map(len, names), default=0)

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        widths = [kept[lines[0]][layer][0]["width"] for layer in layers]
        lower.bar(range(1, len(layers) + 1), widths, width=0.8, facecolor="white", edgecolor="#9ca3af", linewidth=0.8,
                  label="dense network")  # fmt: skip
        for number, line in enumerate(lines):
            shift = min(0.18, 0.8 / len(lines)) * (number - (len(lines) - 1) / 2)
            share = fmean(row["share"] for row in kept[line][layers[0]])
            label = (
                f"{name_of(line)} ({100 * share:.1f}% of the MACs)"
                if found.about["costs"] == ["macs"]
                else name_of(line)
            )
            _draw(upper, kept[line], number, shift, whole=True, label=label)
            _draw(lower, kept[line], number, shift, whole=False)
        upper.set_ylabel("channels kept (%)")
        upper.set_ylim(0, 104)
        lower.set_ylabel("channels kept")
        lower.set_ylim(bottom=0)
        for axes in (upper, lower):
            axes.grid(axis="y")
            axes.set_xlim(0.3, len(layers) + 0.7)
        if named:
            lower.set_xticks(range(1, len(layers) + 1), names, rotation=90)
        lower.set_xlabel("layer, from the first to the last")
        legend_above(figure, upper, lower)

    return sheet(draw, (WIDE, 4.2 + 0.06 * longest))


def _draw(
    axes: Axes, kept: Mapping[str, list[Row]], number: int, shift: float, *, whole: bool, label: str | None = None
) -> None:
    """Draw a line through what each layer keeps, with a bar from the least to the most over the seeds."""
    values = [[100 * row["kept"] / row["width"] if whole else row["kept"] for row in rows] for rows in kept.values()]
    y = [sum(own) / len(own) for own in values]
    reach = [
        [max(0.0, m - min(own)) for m, own in zip(y, values, strict=True)],
        [max(0.0, max(own) - m) for m, own in zip(y, values, strict=True)],
    ]
    x = [place + shift for place in range(1, len(y) + 1)]
    style = look(number) | {"markersize": 3.2, "linewidth": 0.8}
    axes.errorbar(x, y, yerr=reach if max(map(max, reach)) else None, elinewidth=0.8, label=label, **style)
