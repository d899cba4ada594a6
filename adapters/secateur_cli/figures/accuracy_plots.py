"""Accuracy of pruned networks: as lines over a setting, or side by side for choices that have no order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from secateur_cli.figures.cells import spread_at, summarised
from secateur_cli.figures.intervals import spread_of
from secateur_cli.figures.names import name_of
from secateur_cli.figures.order import Found
from secateur_cli.figures.paper import WIDE, legend_above, look, sheet, with_bars
from secateur_cli.report.drawing import GREY, logarithmic

ACCURACY = "top-1 accuracy (%)"
HEIGHT = 2.7
HEADROOM = 1.12  # above the highest bar, so that its marker is seen whole
DODGE = 0.16  # of the room between two choices, between the steps of one
Point = Mapping[str, Any]


def delta_plot(found: Found) -> Figure:
    """Return accuracy over delta, and below it how many candidates the searches judged."""

    def draw(figure: Figure) -> None:
        points = summarised(found.rows)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        _dense(upper, points)
        for number, stage in enumerate(stages(points)):
            own = sorted((p for p in points if p["stage"] == stage), key=lambda p: float(p["at"]))
            with_bars(upper, [100 * p["at"] for p in own], [p["accuracy"] for p in own], label=stage, number=number)
        upper.set_ylabel(ACCURACY)
        deltas = sorted({row["at"] for row in found.rows if row["at"] is not None})
        judged = [spread_of(list(_by_seed(found, delta, "evaluations").values())) for delta in deltas]
        reach = [[s.mean - max(s.low, 0) for s in judged], [s.high - s.mean for s in judged]]
        x = [100 * delta for delta in deltas]
        bars = reach if any(map(any, reach)) else None  # a single seed has no interval
        lower.errorbar(x, [s.mean for s in judged], yerr=bars, capsize=2.5, elinewidth=0.8, **look(2))
        lower.set_ylim(0, HEADROOM * max(s.high for s in judged))
        lower.set_ylabel("candidates judged")
        lower.set_xscale("log")
        lower.set_xticks(x, [f"{value:g}" for value in x])
        lower.xaxis.set_minor_locator(NullLocator())
        lower.set_xlabel(r"$\delta$: least share of the cost freed by a step (%)", parse_math=True)
        _finish(figure, (upper, lower), upper)

    return sheet(draw, (WIDE / 2 + 0.6, 4.0))


def rho_plot(found: Found) -> Figure:
    """Return accuracy over the ridge of DI, a panel for each step."""

    def dress(axes: Axes) -> None:
        logarithmic(axes)
        axes.set_xlabel(r"$\rho$: ridge of DI (sum of squares of a batch)", parse_math=True)

    return _lines(found, x=lambda point: float(point["at"]), dress=dress)


def criteria_plot(found: Found) -> Figure:
    """Return accuracy over the MACs that are kept, a panel for each step, and the time that scoring takes."""
    lines = _lines_of(summarised(found.rows))
    seconds = {
        line: spread_of([row["scoring_seconds"] for row in _firsts(found, line)]) for line in lines
    }  # fmt: skip

    def times(axes: Axes) -> None:
        for number, line in enumerate(lines):
            spread, style = seconds[line], look(number) | {"linestyle": ""}
            low = max(spread.low, spread.mean / 10)  # a bar to below zero has no end on this scale
            reach = [[spread.mean - low], [spread.high - spread.mean]] if spread.runs > 1 else None
            axes.errorbar(spread.mean, number, xerr=reach, capsize=2.5, **style)
        logarithmic(axes)
        axes.set_yticks(range(len(lines)), [name_of(line) for line in lines])
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlabel("time of scoring (s)")
        axes.set_title("scoring")
        axes.grid(axis="x")

    return _lines(found, x=lambda point: 100 * point["macs"], dress=_macs, beside=times)


def allocations_plot(found: Found) -> Figure:
    """Return accuracy over the MACs that are kept, a panel for each step."""
    return _lines(found, x=lambda point: 100 * point["macs"], dress=_macs)


def variants_plot(found: Found) -> Figure:
    """Return the accuracy of each selection after each step, single seeds as small circles."""
    names = {"low": "lowest\n(the method)", "reverse": "highest", "edge": "both ends"}
    return _choices(found, key="line", named=lambda line: names.get(line, line), label="channels that go, by score")


def frozen_plot(found: Found) -> Figure:
    """Return the accuracy after fine-tuning at each share, single seeds as small circles."""
    last = Found([row for row in found.rows if row["stage"] in ("dense", "fine-tuned")], found.about)
    return _choices(
        last, key="at", named=lambda share: f"{100 * share:g}", label="filters left as they are, highest scores (%)"
    )


def stages(points: Sequence[Point]) -> list[str]:
    """Return the steps after the dense network, in order."""
    return list(dict.fromkeys(str(point["stage"]) for point in points if point["stage"] != "dense"))


def _lines(
    found: Found,
    *,
    x: Callable[[Point], float],
    dress: Callable[[Axes], None],
    beside: Callable[[Axes], None] | None = None,
) -> Figure:
    """Return a panel with a line for each of the lines, for each step, and one more where there is something beside."""
    points = summarised(found.rows)
    steps, lines = stages(points), _lines_of(points)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(steps) + (beside is not None), squeeze=False)[0].tolist()
        for axes, stage in zip(panels, steps, strict=False):
            _dense(axes, points)
            for number, line in enumerate(lines):
                own = sorted((p for p in points if p["line"] == line and p["stage"] == stage), key=x)
                spreads = [p["accuracy"] for p in own]
                label = name_of(line)
                with_bars(axes, [x(p) for p in own], spreads, label=label, number=number, lines=len(lines))
            axes.set_title(stage)
            axes.margins(x=0.08)
            dress(axes)
            axes.sharey(panels[0])
        panels[0].set_ylabel(ACCURACY)
        if beside is not None:
            beside(panels[-1])
        _finish(figure, panels[: len(steps)], panels[0])

    across = max(2, len(steps) + (beside is not None))
    return sheet(draw, (WIDE * across / 2 if across > 2 else WIDE * (0.55 + 0.45 * (across > 1)), HEIGHT + 0.4))


def _choices(found: Found, *, key: str, named: Callable[[Any], str], label: str) -> Figure:
    points = [point for point in summarised(found.rows) if point["stage"] != "dense"]
    steps, choices = stages(points), list(dict.fromkeys(point[key] for point in points))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _dense(axes, summarised(found.rows))
        for number, stage in enumerate(steps):
            shift = DODGE * (number - (len(steps) - 1) / 2)
            own = [p for p in points if p["stage"] == stage]
            style = look(number) | {"linestyle": ""}
            for point in own:
                at = choices.index(point[key]) + shift
                seeds = [r["accuracy"] for r in found.rows if r["stage"] == stage and r[key] == point[key]]
                if len(seeds) > 1:
                    single: dict[str, Any] = {"marker": "o", "linestyle": "", "color": GREY, "markerfacecolor": "none"}
                    axes.plot([at + 0.06] * len(seeds), [100 * s for s in seeds], markersize=2.5, **single)
                spread = point["accuracy"]
                reach = [[100 * (spread.mean - spread.low)], [100 * (spread.high - spread.mean)]]
                first = stage if point is own[0] else None
                axes.errorbar(at, 100 * spread.mean, yerr=reach, capsize=3, elinewidth=0.8, label=first, **style)
        axes.set_xticks(range(len(choices)), [named(choice) for choice in choices])
        axes.set_xlim(-0.5, len(choices) - 0.5)
        axes.set_xlabel(label)
        axes.set_ylabel(ACCURACY)
        _finish(figure, (axes,), axes)

    return sheet(draw, (max(WIDE / 2, 0.9 + 0.9 * len(choices)), HEIGHT + 0.3))


def _macs(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(PercentFormatter(symbol="", decimals=0))
    axes.set_xlabel("MACs (% of the dense network)")
    if not axes.xaxis_inverted():
        axes.invert_xaxis()


def _dense(axes: Axes, points: Sequence[Point]) -> None:
    spread = spread_at(points, stage="dense")
    if spread is not None:
        axes.axhline(100 * spread.mean, color=GREY, linewidth=1, linestyle=(0, (2, 2)), label="dense network")


def _finish(figure: Figure, panels: Sequence[Axes], labelled: Axes) -> None:
    """Add the grid, and one legend above all panels."""
    for axes in panels:
        axes.grid(axis="y")
    legend_above(figure, labelled)


def _lines_of(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(str(point["line"]) for point in points if point["stage"] != "dense"))


def _by_seed(found: Found, at: float, key: str) -> dict[int, float]:
    return {row["seed"]: row[key] for row in found.rows if row["at"] == at and key in row}


def _firsts(found: Found, line: str) -> list[Mapping[str, Any]]:
    """Return one row of a line for each seed: its scores were made once."""
    return list({row["seed"]: row for row in found.rows if row["line"] == line}.values())
