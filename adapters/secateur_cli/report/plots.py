"""The report's figures: axes with units, intervals, and markers that tell apart without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from secateur_cli.report.drawing import BLUE, COLUMN, DENSE, GREY, INK, PANEL, PRUNED, ROW, RUST, drawn, name_rows
from secateur_cli.report.picking import spread_evenly
from secateur_cli.wording import amount, batch, percent, wilson_interval

MAX_ROWS, MAX_PANELS = 60, 12


def accuracy_plot(stages: Sequence[Mapping[str, Any]]) -> str:
    """Return accuracy after each step, from the top down, with 95% Wilson intervals."""
    known = [(s, float(s["accuracy"])) for s in stages if s.get("accuracy") is not None]

    def draw(figure: Figure) -> None:
        axes = _axes(figure, grid="x")
        for row, (stage, share) in enumerate(known):
            low, high = wilson_interval(share, int(stage.get("images") or 0))
            style = DENSE if stage.get("stage") == "dense" else PRUNED
            axes.errorbar(100 * share, row, xerr=[[100 * (share - low)], [100 * (high - share)]], capsize=3, **style)
            _label(axes, percent(share), 100 * share, row)
        name_rows(axes, [str(stage.get("stage")) for stage, _ in known])
        axes.set_xlabel("top-1 accuracy on held-out images (%)")

    said = "; ".join(f"{stage.get('stage')} {percent(share)}" for stage, share in known)
    return drawn("accuracy", f"Accuracy after each step: {said}", (COLUMN, 0.75 + 0.42 * len(known)), draw)


def widths_plot(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return kept against dense channels, one row for each of the first groups."""
    shown = groups[:MAX_ROWS]

    def draw(figure: Figure) -> None:
        axes = _axes(figure, grid="x")
        for row, group in enumerate(shown):
            axes.barh(row, group["width"], height=0.72, facecolor="white", edgecolor=GREY, linewidth=0.8)
            axes.barh(row, group["kept"], height=0.72, facecolor=BLUE, edgecolor=BLUE, linewidth=0.8)
            axes.annotate(
                f"{group['kept']} of {group['width']}",
                (group["width"], row),
                (3, 0),
                textcoords="offset points",
                va="center",
            )
        axes.margins(x=0.2)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        name_rows(axes, [str(group["name"]) for group in shown])
        axes.set_xlabel("channels (filled: kept, outline: dense)")

    said = "; ".join(f"{g['name']} {g['kept']} of {g['width']}" for g in shown)
    return drawn("widths", f"Channels kept: {said}", (COLUMN, 0.7 + ROW * len(shown)), draw)


def score_plots(
    groups: Sequence[Mapping[str, Any]], *, cut: bool, kept: bool = True
) -> list[tuple[Mapping[str, Any], str]]:
    """Return groups with a panel each, at most 12 spread evenly over the network: scores from best to worst.

    Args:
        groups: of the plan.
        cut: whether a line stands between what is kept and what is not.
        kept: whether some channels are kept and others removed.
    """
    known = [g for g in groups if g.get("scores") and all(s is not None for s in g["scores"])]
    picked = [known[i] for i in spread_evenly(len(known), MAX_PANELS)]
    return [
        (group, _score_panel(group, f"scores-{number}", cut=cut, marked=kept)) for number, group in enumerate(picked)
    ]


def _score_panel(group: Mapping[str, Any], name: str, *, cut: bool, marked: bool) -> str:
    scores = list(group["scores"])
    kept = set((group.get("kept_channels") or ()) if marked else range(len(scores)))
    order = sorted(range(len(scores)), key=lambda c: (-scores[c], -c))  # of equal scores the first channel goes first
    size = max(1.8, min(4.5, 90 / len(scores)))

    def draw(figure: Figure) -> None:
        axes = _axes(figure, grid="y")
        styles: dict[bool, dict[str, Any]] = {
            False: {"marker": "x", "color": RUST, "markersize": size + 0.8},
            True: {"marker": "o", "color": BLUE, "markersize": size},
        }
        if cut:
            axes.axvline(len(kept) + 0.5, color=INK, linestyle="--", linewidth=0.8)
        for inside, style in styles.items():
            at = [place for place, channel in enumerate(order) if (channel in kept) == inside]
            axes.plot([p + 1 for p in at], [scores[order[p]] for p in at], linestyle="", **style)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("channels, best first")
        axes.set_ylabel("score")

    said = f"{group['name']}: {len(scores)} scores from {max(scores):.3g} to {min(scores):.3g}"
    said += f", {len(kept)} kept" if marked else ""
    return drawn(name, f"Scores of {said}", (PANEL, 1.75), draw)


def errors_plot(layers: Sequence[Mapping[str, Any]]) -> str:
    """Return how far each of the first layers was from the dense network, before and after it was solved for."""
    shown = layers[:MAX_ROWS]

    def draw(figure: Figure) -> None:
        axes = _axes(figure, grid="x")
        rows = range(len(shown))
        before, after = ([100 * fit[key] for fit in shown] for key in ("before", "after"))
        axes.hlines(rows, after, before, color=GREY, linewidth=0.8)
        axes.plot(before, rows, linestyle="", label="before", **(DENSE | {"markersize": 4.5}))
        axes.plot(after, rows, linestyle="", label="after", **(PRUNED | {"markersize": 4}))
        name_rows(axes, [str(fit["layer"]) for fit in shown])
        axes.set_xlim(left=0)
        axes.set_xlabel("squared error (% of the variance)")
        figure.legend(loc="outside upper right", ncols=2)

    said = "; ".join(f"{f['layer']} {percent(f['before'])} before, {percent(f['after'])} after" for f in shown)
    return drawn("errors", f"Error of each layer: {said}", (COLUMN, 1.0 + ROW * len(shown)), draw)


def speed_plot(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Return how many times as fast the pruned network is, with its interval, against the line of no difference."""
    known = [c for c in comparisons if None not in (c.get("ratio"), c.get("lower"), c.get("upper"))]

    def draw(figure: Figure) -> None:
        axes = _axes(figure, grid="x")
        axes.axvline(1, color=INK, linestyle="--", linewidth=1)
        for row, c in enumerate(known):
            reach = [[max(0, c["ratio"] - c["lower"])], [max(0, c["upper"] - c["ratio"])]]
            axes.errorbar(c["ratio"], row, xerr=reach, capsize=3, **PRUNED)
            _label(axes, f"{c['ratio']:.2f}", c["ratio"], row)
        name_rows(axes, [batch(c, known) for c in known])
        axes.margins(x=0.1)
        axes.set_xlabel("speed of pruned / dense (dashed: no difference)")

    said = "; ".join(f"{batch(c, known)} {c['ratio']:.2f} ({c['lower']:.2f} to {c['upper']:.2f})" for c in known)
    return drawn("speed", f"Speed of pruned over dense: {said}", (COLUMN, 0.75 + 0.42 * len(known)), draw)


def time_plot(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Return the median time of an image, dense and pruned, with the range of the middle 80% of the batches."""

    def draw(figure: Figure) -> None:
        axes = _axes(figure, grid="x")
        for which, style, shift in (("dense", DENSE, -0.14), ("pruned", PRUNED, 0.14)):
            times = [(c[which], c["batch_size"]) for c in comparisons]
            median, low, high = ([t[key] / n for t, n in times] for key in ("median_ms", "p10_ms", "p90_ms"))
            reach = [
                [m - end for m, end in zip(median, low, strict=True)],
                [end - m for m, end in zip(median, high, strict=True)],
            ]
            rows = [row + shift for row in range(len(times))]
            axes.errorbar(median, rows, xerr=reach, capsize=3, linestyle="", label=which, **style)
        name_rows(axes, [batch(c, comparisons) for c in comparisons])
        axes.set_xlim(left=0)
        axes.set_xlabel("time of one image (ms)")
        figure.legend(loc="outside upper right", ncols=2)

    said = "; ".join(
        f"{batch(c, comparisons)} dense {c['dense']['median_ms']:.3g} ms, pruned {c['pruned']['median_ms']:.3g} ms"
        for c in comparisons
    )
    return drawn("times", f"Median time of a batch: {said}", (COLUMN, 1.0 + 0.42 * len(comparisons)), draw)


def path_plot(
    steps: Sequence[Mapping[str, Any]], *, cost: str, unit: str, budget: float | None, measure: str = "accuracy"
) -> str:
    """Return what the network was worth after each step of a search, against its cost, from right to left."""
    costs, worths = [s["cost"] for s in steps], [s["worth"] for s in steps]
    shares = measure == "accuracy"

    def draw(figure: Figure) -> None:
        axes = _axes(figure, grid="both")
        axes.plot(costs, [100 * w if shares else w for w in worths], linewidth=1, **(PRUNED | {"markersize": 3.5}))
        if budget is not None:
            axes.axvline(budget, color=INK, linestyle="--", linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: amount(value, unit))
        axes.invert_xaxis()
        axes.set_xlabel(cost if budget is None else f"{cost} (dashed: budget)")
        axes.set_ylabel("top-1 on validation images (%)" if shares else f"worth, by {measure}")

    said = f"{len(steps)} steps from {amount(costs[0], unit)} to {amount(costs[-1], unit)}, {cost}"
    return drawn("path", f"Path of the search: {said}", (COLUMN, 2.6), draw)


def epochs_plot(epochs: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return accuracy and training loss by epoch, one above the other."""

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, key, factor, label in (
            (upper, "accuracy", 100, "top-1, validation (%)"),
            (lower, "loss", 1, "training loss"),
        ):
            known = [(e["epoch"], factor * e[key]) for e in epochs if e.get(key) is not None]
            axes.plot([e for e, _ in known], [v for _, v in known], linewidth=1, **(PRUNED | {"markersize": 3.5}))
            axes.grid(axis="y")
            axes.set_ylabel(label)
        lower.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        lower.set_xlabel("epoch")

    return drawn(name, f"Accuracy and loss over {len(epochs)} epochs", (COLUMN, 2.9), draw)


def _axes(figure: Figure, *, grid: Any) -> Axes:
    axes = figure.subplots()
    axes.grid(axis=grid)
    return axes


def _label(axes: Axes, text: str, x: float, row: float) -> None:
    """Write a value above its marker, on white, so that no line runs through it."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    axes.annotate(text, (x, row), (0, 7), textcoords="offset points", ha="center", bbox=box)
