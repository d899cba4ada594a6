"""How a figure for a paper looks, and its files: SVG and PDF for print, PNG to look at.

Lines differ by marker, filling and stroke before they differ by colour, so that they can be told apart without it. Same
numbers, same files: nothing depends on time, chance or settings of matplotlib on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from secateur.files import replacing
from secateur_cli.figures.intervals import Spread
from secateur_cli.report.drawing import BLUE, GREY, INK, RUST, styled

WIDE, NARROW = 7.0, 3.4  # inches: both columns of a page, and one
ASIDE = 2.4  # points between the lines of one figure, so that their bars are seen side by side
DOTS_PER_INCH = 200
SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "secateur figure",
    "pdf.fonttype": 42,  # letters that can be searched and copied
    "savefig.dpi": DOTS_PER_INCH,
    "axes.titlesize": 9,
    "figure.facecolor": "white",
}
METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": "secateur"},
    "pdf": {"CreationDate": None, "Creator": "secateur", "Producer": "matplotlib"},
    "png": {"Software": "secateur"},
}
Stroke = str | tuple[int, tuple[int, ...]]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STROKES: tuple[Stroke, ...] = ("-", "--", ":", "-.", (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
COLOURS = (BLUE, RUST, INK, GREY)
MOST_LINES = len(MARKERS) * 2


@contextmanager
def paper() -> Iterator[None]:
    """Within the block, matplotlib has the settings of these figures; both drawing and saving read them."""
    with styled(SETTINGS):
        yield


def look(number: int) -> dict[str, Any]:
    """Return how the n-th line looks.

    Example:
        >>> (look(0)["marker"], look(0)["linestyle"]), (look(1)["marker"], look(1)["linestyle"])
        (('o', '-'), ('s', '--'))
    """
    colour = COLOURS[number % len(COLOURS)]
    return {
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": STROKES[number % len(STROKES)],
        "color": colour,
        "markerfacecolor": "white" if (number + number // len(MARKERS)) % 2 else colour,
        "markersize": 4.5,
        "linewidth": 1.1,
    }


def with_bars(
    axes: Axes, x: Sequence[float], spreads: Sequence[Spread], *, label: str, number: int, lines: int = 1
) -> None:
    """Draw accuracies in percent over x, with the intervals as bars; each of several lines a little aside.

    Args:
        axes: where.
        x, spreads: the points.
        label: what the line is called.
        number: which of the lines it is, from 0.
        lines: how many there are.
    """
    y = [100 * spread.mean for spread in spreads]
    reach = [
        [100 * (spread.mean - spread.low) for spread in spreads],
        [100 * (spread.high - spread.mean) for spread in spreads],
    ]
    points = ASIDE * (number - (lines - 1) / 2)
    aside = ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)
    style = {"capsize": 2, "elinewidth": 0.8, "transform": axes.transData + aside, **look(number)}
    axes.errorbar(x, y, yerr=reach, label=label, **style)
    ends = [100 * end for spread in spreads for end in (spread.low, spread.high)]
    axes.update_datalim(
        list(zip([place for place in x for _ in range(2)], ends, strict=True))
    )  # not seen by matplotlib
    axes.autoscale_view()


def legend_above(figure: Figure, *axes: Axes) -> None:
    """Add one legend of everything named in the axes, above them, in as few rows as the width allows."""
    named = [axis.get_legend_handles_labels() for axis in axes]
    handles, labels = ([entry for part in found for entry in part] for found in zip(*named, strict=True))
    for columns in range(len(labels), 0, -1):
        legend = figure.legend(handles, labels, loc="outside upper center", ncols=columns, handlelength=2.6)
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            return
        legend.remove()


def sheet(draw: Callable[[Figure], None], size: tuple[float, float]) -> Figure:
    """Return a figure of this size, in inches, on which `draw` has drawn."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write the figure as SVG, PDF and PNG; each file appears whole or not at all."""
    paths = []
    for kind, metadata in METADATA.items():
        path = folder / f"{name}.{kind}"
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
        paths.append(path)
    return paths
