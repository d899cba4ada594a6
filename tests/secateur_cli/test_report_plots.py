"""The report's figures stand at their numbers: each drawn, and what is on it read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from secateur_cli.report import plots
from secateur_cli.wording import wilson_interval


@pytest.fixture
def figures(drawn_anew: None, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    found: list[Figure] = []

    def drawn(_name: str, said: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
        found.append(Figure(figsize=size, layout="constrained"))
        draw(found[-1])
        return said

    monkeypatch.setattr(plots, "drawn", drawn)
    return found


def bars(axes: Axes) -> dict[str, list[tuple[float, float, float, float]]]:
    """Return label -> row, value and both ends of each of its horizontal bars."""
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        (x, y), (segments,) = container.lines[0].get_data(), container.lines[2]
        ends = [sorted(float(place) for place, _ in segment) for segment in segments.get_segments()]
        own = [(float(b), float(a), *end) for a, b, end in zip(x, y, ends, strict=True)]
        label = str(container.get_label())
        found.setdefault("" if label.startswith("_") else label, []).extend(own)
    return found


def test_times_of_an_image_with_the_middle_of_its_batches(figures: list[Figure]) -> None:
    dense = {"median_ms": 8.0, "p10_ms": 6.0, "p90_ms": 12.0}
    pruned = {"median_ms": 2.0, "p10_ms": 1.0, "p90_ms": 4.0}
    plots.time_plot([{"batch_size": 4, "measured": "end to end", "dense": dense, "pruned": pruned}])
    assert bars(figures[0].axes[0]) == {
        "dense": [pytest.approx((-0.14, 2.0, 1.5, 3.0))],
        "pruned": [pytest.approx((0.14, 0.5, 0.25, 1.0))],
    }


def test_speeds_with_their_intervals_also_where_these_lie_beside(figures: list[Figure]) -> None:
    comparisons = [
        {"batch_size": 1, "ratio": 2.0, "lower": 1.5, "upper": 2.25},
        {"batch_size": 8, "ratio": 1.0, "lower": 1.1, "upper": 1.2},  # as a bootstrap of few rounds may be
        {"batch_size": 9, "ratio": 1.0, "lower": None, "upper": None},
    ]
    plots.speed_plot(comparisons)
    (axes,) = figures[0].axes
    assert bars(axes)[""] == [pytest.approx((0, 2.0, 1.5, 2.25)), pytest.approx((1, 1.0, 1.0, 1.2))]
    assert axes.lines[0].get_xdata() == [1, 1]


def test_accuracies_with_wilson_s_intervals(figures: list[Figure]) -> None:
    stages = [("dense", 0.9, 100), ("cut", None, 100), ("fine-tuned", 1.0, 400)]
    plots.accuracy_plot([{"stage": stage, "accuracy": share, "images": n} for stage, share, n in stages])
    ends = [[100 * end for end in wilson_interval(share, n)] for share, n in ((0.9, 100), (1.0, 400))]
    expected = [pytest.approx((0, 90.0, *ends[0])), pytest.approx((1, 100.0, *ends[1]))]
    assert bars(figures[0].axes[0])[""] == expected


@pytest.mark.parametrize(("measure", "worths"), [("accuracy", [90.0, 80.0]), ("loss", [0.9, 0.8])])
def test_a_path_goes_from_right_to_left_to_its_budget(figures: list[Figure], measure: str, worths: list[float]) -> None:
    steps = [{"cost": 100.0, "worth": 0.9}, {"cost": 50.0, "worth": 0.8}]
    plots.path_plot(steps, cost="macs", unit="MACs", budget=40.0, measure=measure)
    (axes,) = figures[0].axes
    path, budget = axes.lines
    assert [list(path.get_xdata()), list(path.get_ydata())] == [[100.0, 50.0], pytest.approx(worths)]
    assert list(budget.get_xdata()) == [40.0, 40.0]
    assert axes.xaxis_inverted()


def test_epochs_and_errors_and_widths(figures: list[Figure]) -> None:
    plots.epochs_plot([{"epoch": 1, "accuracy": None, "loss": 2.0}, {"epoch": 2, "accuracy": 0.5, "loss": 1.0}], "e")
    curves: list[Any] = [[list(data) for data in axes.lines[0].get_data()] for axes in figures[0].axes]
    assert curves == [[[2], [50.0]], [[1, 2], [2.0, 1.0]]]
    plots.errors_plot([{"layer": "a", "before": 0.5, "after": 0.1}])
    points = {line.get_label(): line.get_data() for line in figures[1].axes[0].lines}
    assert {label: (list(x), list(y)) for label, (x, y) in points.items()} == {
        "before": ([50.0], [0]),
        "after": ([10.0], [0]),
    }
    plots.widths_plot([{"name": "a", "width": 8, "kept": 3}])
    drawn: list[Any] = list(figures[2].axes[0].patches)
    assert [bar.get_width() for bar in drawn] == [8, 3]
