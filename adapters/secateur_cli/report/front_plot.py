"""The front of an experiment as SVG text: what every run costs and is worth, and those that no other beats."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from secateur_cli.report.drawing import COLUMN, DENSE, PRUNED, drawn
from secateur_cli.wording import amount

NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def front_plot(
    points: Sequence[tuple[float, float]], front: Sequence[tuple[float, float]], *, cost: str, worth: str
) -> str:
    """Return all trials as hollow circles, and the front as a line of squares.

    Args:
        points: cost and worth of each trial.
        front: those of the front, cheapest first.
        cost: name of the horizontal axis.
        worth: name of the vertical axis; shares are shown in percent.
    """
    shares = all(0 <= value <= 1 for _, value in points)
    factor = 100 if shares else 1
    large = max((abs(x) for x, _ in points), default=0) >= 1000  # a prefix serves MACs; milliseconds need their digits
    told = amount if large else "{:.4g}".format

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid()
        axes.plot([x for x, _ in points], [factor * y for _, y in points], linestyle="", label="trials", **DENSE)
        axes.plot([x for x, _ in front], [factor * y for _, y in front], linewidth=1, label="front", **PRUNED)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: told(value))
        axes.set_xlabel(_label(cost))
        axes.set_ylabel(f"{_label(worth)} (%)" if shares else _label(worth))
        figure.legend(loc="outside upper right", ncols=2)

    said = "; ".join(f"{told(x)} {factor * y:.4g}" for x, y in front)
    svg = drawn("front", f"Front of {worth} against {cost}: {said}", (COLUMN, 3.2), draw)
    return svg.replace("<svg ", f"<svg {NAMESPACES} ", 1)


def _label(name: str) -> str:
    """Return a metric's name as one writes it: "macs" as MACs, "latency_ms" as latency (ms)."""
    text = {"macs": "MACs"}.get(name, name.replace("_", " "))
    return f"{text.removesuffix(' ms')} (ms)" if text.endswith(" ms") else text
