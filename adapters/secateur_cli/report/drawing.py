"""How a figure of the report becomes SVG text: our settings of matplotlib, and names that no other figure has.

Each figure is drawn for a column of about 440 pixels, so that its letters stay legible on a phone. Letters are text,
not outlines, and take the page's font. Same data, same text: nothing in it depends on time, chance or settings of
matplotlib on this machine.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from secateur_cli.report.shortening import told_apart

INK, GREY, BLUE, RUST = "#111827", "#6b7280", "#1d4e89", "#a63d0f"
DENSE: dict[str, Any] = {"marker": "o", "color": GREY, "markerfacecolor": "white", "markersize": 6}
PRUNED: dict[str, Any] = {"marker": "s", "color": BLUE, "markerfacecolor": BLUE, "markersize": 5.5}
COLUMN, PANEL, ROW = 4.6, 2.2, 0.24  # inches
PIXELS_PER_INCH = 96
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are shown as they are, dollar signs too
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#e5e7eb",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label rows 0, 1, ... from the top down."""
    axes.set_yticks(range(len(names)), told_apart(names))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.6)


class _Readable(LogLocator):
    """Ticks of a logarithmic axis: 1, 2 and 5 of each decade where it has two at most, and round numbers within one."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        low, high = sorted((vmin, vmax))
        if low <= 0 or high >= 100 * low:
            return super().tick_values(vmin, vmax)
        if high >= 10 * low:
            return LogLocator(subs=(1, 2, 5)).tick_values(vmin, vmax)
        return [value for value in MaxNLocator(4).tick_values(low, high) if value > 0]


def logarithmic(axes: Axes) -> None:
    """Give the horizontal axis a logarithmic scale, with numbers as one reads them: 0.001, and no powers of ten.

    However little of it is seen, two numbers are, since one alone tells no scale.
    """
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(_Readable())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


@contextmanager
def styled(more: Mapping[Any, Any]) -> Iterator[None]:
    """Within the block, matplotlib has our settings, and `more`; afterwards those that it had."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**STYLE, **more})
        yield


def drawn(name: str, description: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """Draw with settings of our own, leaving matplotlib's as they were, and return SVG for use within HTML."""
    transparent = {"figure.facecolor": "none", "axes.facecolor": "none"}
    with styled({"svg.hashsalt": f"secateur {name}", **transparent}):
        figure = Figure(figsize=size, layout="constrained")
        canvas: Any = FigureCanvasSVG(figure)
        text = io.StringIO()
        draw(figure)
        canvas.print_svg(text)  # `savefig` would draw everything twice, to the same end
    return _for_html(text.getvalue(), name, description, size)


def _for_html(text: str, name: str, description: str, size: tuple[float, float]) -> str:
    """Leave out metadata, style sheet and namespaces, and begin every identifier with the name of the figure."""
    root = ET.fromstring(text)
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag.endswith(("}metadata", "}style"))]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.partition("}")[2] or element.tag
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            key = key.partition("}")[2] or key
            value = f"{name}-{value}" if key == "id" else value
            value = f"#{name}-{value[1:]}" if key == "href" else value
            element.attrib[key] = re.sub(r"url\(#", f"url(#{name}-", value)
    width, height = size
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": str(round(PIXELS_PER_INCH * width)),
        "height": str(round(PIXELS_PER_INCH * height)),
        "role": "img",
        "aria-label": description,
    }
    return ET.tostring(root, encoding="unicode")
