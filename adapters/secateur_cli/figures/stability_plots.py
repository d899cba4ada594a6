"""How stable scores are, drawn: ranks as shades of grey batch by batch, and agreement as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from secateur_cli.figures.order import Found
from secateur_cli.figures.paper import NARROW, WIDE, legend_above, look, sheet
from secateur_cli.report.drawing import GREY
from secateur_cli.report.picking import spread_evenly
from secateur_cli.report.shortening import shortened

ACROSS, MOST_PANELS = 3, 6
QUANTILES = (0.1, 0.5, 0.9)
CORRELATION = "rank correlation"


def ranks_plot(found: Found) -> Figure:
    """Return the ranks of at most six layers as grey maps, channels across and batches down, and all correlations.

    A filter whose rank is the same in every batch is a column of one shade. Each layer has its own scale, from zero to
    the largest that a batch gives in it.
    """
    layers = found.about["layers"]
    shown = [layers[i] for i in spread_evenly(len(layers), MOST_PANELS)]
    rows = -(-len(shown) // ACROSS)

    def draw(figure: Figure) -> None:
        grid = figure.add_gridspec(2, 1, height_ratios=(1.25 * rows, 1.5))
        panels = grid[0].subgridspec(rows, ACROSS).subplots(squeeze=False).flatten().tolist()
        for axes, layer in zip(panels, shown, strict=False):
            _greys(axes, found, layer)
        for axes in panels[len(shown) :]:
            axes.remove()
        for axes in panels[: len(shown) : ACROSS]:
            axes.set_ylabel("batch")
        for axes in panels[max(0, len(shown) - ACROSS) : len(shown)]:
            axes.set_xlabel("channel")
        bar = figure.colorbar(panels[0].images[0], ax=panels[: len(shown)], aspect=30, pad=0.02)
        bar.set_label("average rank /\nlargest of the layer")
        bar.outline.set_visible(False)
        _correlations(figure.add_subplot(grid[1]), layers)

    return sheet(draw, (WIDE, 1.25 * rows + 2.0))


def _greys(axes: Axes, found: Found, layer: Mapping[str, Any]) -> None:
    batches = found.about["batches"]
    own = [row for row in found.rows if row["layer"] == layer["layer"]]
    ranks = np.array([[row[f"batch {number}"] for row in own] for number in range(1, batches + 1)])
    axes.imshow(ranks / max(layer["largest"], 1e-12), cmap="gray", vmin=0, vmax=1, aspect="auto",
                interpolation="nearest", extent=(-0.5, len(own) - 0.5, batches + 0.5, 0.5))  # fmt: skip
    axes.set_title(f"{shortened(layer['layer'])}, up to {layer['largest']:.3g}", fontsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)


def _correlations(axes: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    known = [(place, layer) for place, layer in enumerate(layers, 1) if layer["median"] is not None]
    middle = [layer["median"] for _, layer in known]
    reach = [[m - layer["least"] for m, (_, layer) in zip(middle, known, strict=True)],
             [layer["most"] - m for m, (_, layer) in zip(middle, known, strict=True)]]  # fmt: skip
    style = look(0) | {"linestyle": "", "markersize": 3.5}
    axes.errorbar([place for place, _ in known], middle, yerr=reach, capsize=2, elinewidth=0.8, **style)
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle="--")
    axes.set_ylim(top=1.05)
    axes.set_xlim(0, len(layers) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.grid(axis="y")
    axes.set_xlabel("layer, from the first to the last")
    axes.set_ylabel("rank correlation of a\nbatch with the others")


def information_plot(found: Found) -> Figure:
    """Return correlation and relative change of DI's scores over the number of images, over all layers."""

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, key, label in (
            (upper, "correlation", CORRELATION),
            (lower, "change", "relative change of\nthe scores (%)"),
        ):
            factor = 100 if key == "change" else 1
            for number, (ending, other) in enumerate((("", "all images"), (" from others", "other images"))):
                name = key + (ending if key == "change" or not ending else " with others")
                _over_images(axes, found, name, factor, label=f"against {other}", number=number)
            axes.set_ylabel(label)
            axes.grid(axis="y")
        upper.set_ylim(top=1.02)
        lower.set_ylim(bottom=0)
        lower.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        lower.set_xlabel("images that the scores are read from")
        legend_above(figure, upper)

    return sheet(draw, (NARROW + 0.8, 3.8))


def _over_images(axes: Axes, found: Found, key: str, factor: float, *, label: str, number: int) -> None:
    """Draw median and middle 80% over the layers."""
    counts = sorted({row["images"] for row in found.rows})
    spread = []
    for count in counts:
        values = [row[key] for row in found.rows if row["images"] == count and row[key] is not None]
        spread.append(np.quantile(values, QUANTILES) * factor if values else np.full(3, np.nan))
    low, middle, high = np.array(spread).T
    shift = (counts[1] - counts[0]) * 0.06 * (2 * number - 1) if len(counts) > 1 else 0
    x = [count + shift for count in counts]
    axes.errorbar(x, middle, yerr=[middle - low, high - middle], capsize=2, elinewidth=0.8, label=label, **look(number))
