"""The drawings: what stands on their axes, intervals that are those of the numbers, lines told apart without colour."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import imread

from references_figures import student_interval
from secateur_cli.figures.catalogue import FIGURES
from secateur_cli.figures.drawings import DRAWINGS
from secateur_cli.figures.order import Found
from secateur_cli.figures.paper import MOST_LINES, look, paper, save
from secateur_cli.figures.tables import table_of
from secateur_cli.report.drawing import logarithmic

SEEDS = (0, 1, 2)
LABELS = {
    "rank-stability": [
        ("channel", ""),
        ("layer, from the first to the last", "rank correlation of a\nbatch with the others"),
    ],
    "di-stability": [
        ("", "rank correlation"),
        ("images that the scores are read from", "relative change of\nthe scores (%)"),
    ],
    "accuracy-against-delta": [
        ("", "top-1 accuracy (%)"),
        (r"$\delta$: least share of the cost freed by a step (%)", "candidates judged"),
    ],
    "accuracy-against-rho": [(r"$\rho$: ridge of DI (sum of squares of a batch)", "top-1 accuracy (%)")],
    "criteria-over-ratios": [
        ("MACs (% of the dense network)", "top-1 accuracy (%)"),
        ("time of scoring (s)", ""),
    ],
    "allocations": [("MACs (% of the dense network)", "top-1 accuracy (%)")],
    "selection-variants": [("channels that go, by score", "top-1 accuracy (%)")],
    "widths": [("", "channels kept (%)"), ("layer, from the first to the last", "channels kept")],
    "frozen-shares": [("filters left as they are, highest scores (%)", "top-1 accuracy (%)")],
}


def accuracies(lines: tuple[str, ...], points: tuple[float | None, ...], stages: tuple[str, ...], **more: Any) -> Found:
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        rows.append({"line": "", "at": None, "seed": seed, "stage": "dense", "accuracy": 0.95, "images": 40_000})
        for (number, line), at, (step, stage) in itertools.product(enumerate(lines), points, enumerate(stages)):
            share = 0.4 + 0.02 * number + 0.1 * step + 0.013 * seed + (at or 0) / 1e4
            macs = {"macs": 100 * (at or 0.5), "dense_macs": 100.0}
            judged = {"stage": stage, "accuracy": share, "images": 40_000}
            further = {key: value * (1 + seed) for key, value in more.items()}
            rows.append({"line": line, "at": at, "seed": seed, **judged, **macs, **further})
    return Found(rows, {})


def invented(name: str) -> Found:
    """Return numbers of the shape that a figure's measuring gives."""
    stages = ("channels removed", "compensated")
    if name == "rank-stability":
        layers = [f"layer{number}.$conv$" for number in range(8)]
        rows = [
            {"layer": layer, "channel": c, "batch 1": 3.0 + c, "batch 2": 3.1 + c, "all": 3.05 + c}
            for layer in layers
            for c in range(5)
        ]
        agreement = [
            {"layer": layer, "channels": 5, "largest": 7.05, "median": 0.9 if i else None, "least": 0.8, "most": 1.0}
            for i, layer in enumerate(layers)
        ]
        return Found(rows, {"batches": 2, "layers": agreement})
    if name == "di-stability":
        keys = ("correlation", "change", "correlation with others", "change from others")
        values = [dict.fromkeys(keys, 0.1 * layer + number / 1e4) for layer in range(5) for number in (128, 256, 384)]
        places = [{"layer": str(layer), "images": n} for layer in range(5) for n in (128, 256, 384)]
        rows = [place | value for place, value in zip(places, values, strict=True)]
        rows[0] |= {"correlation": None}
        return Found(rows, {})
    if name == "widths":
        facts = [("uniform", 16, 8), ("curves", 16, 12), ("uniform", 32, 16), ("curves", 32, 10)]
        rows = [
            {"line": line, "seed": s, "layer": f"conv{w}", "width": w, "kept": kept - s, "cost": "macs", "share": 0.49}
            for s in SEEDS
            for line, w, kept in facts
        ]
        return Found(rows, {"costs": ["macs"]})
    return {
        "accuracy-against-delta": lambda: accuracies(("",), (0.04, 0.01), stages, evaluations=30),
        "accuracy-against-rho": lambda: accuracies(("full maps", "averages"), (1e-3, 0.1, 10), stages[:1]),
        "criteria-over-ratios": lambda: accuracies(("hrank", "di", "l1"), (0.7, 0.5), stages[:1], scoring_seconds=0.1),
        "allocations": lambda: accuracies(("uniform", "curves"), (0.7, 0.5, 0.3), stages),
        "selection-variants": lambda: accuracies(("low", "edge", "random"), (None,), stages),
        "frozen-shares": lambda: accuracies(("",), (0.0, 0.15), (*stages, "fine-tuned")),
    }[name]()


@cache
def drawn(name: str) -> Figure:
    """Return a figure; only to be looked at."""
    with paper():
        figure = DRAWINGS[name](invented(name))
        figure.draw_without_rendering()
    return figure


def bars(axes: Axes) -> list[ErrorbarContainer]:
    return [container for container in axes.containers if isinstance(container, ErrorbarContainer)]


def test_every_figure_has_a_drawing_and_is_tested() -> None:
    assert set(FIGURES) == set(DRAWINGS) == set(LABELS)


def test_the_table_tells_how_long_each_point_was_scored() -> None:
    found = invented("accuracy-against-rho")
    rows = [row | {"scoring_seconds": 10 * row["at"]} if row["at"] else row for row in found.rows]
    column = table_of("accuracy-against-rho", Found(rows, found.about)).columns[-1]
    assert list(column.cells) == ["", *(["0.01 s", "1.00 s", "100.00 s"] * 2)]


@pytest.mark.parametrize("name", list(FIGURES))
def test_axes_say_what_stands_on_them_and_every_line_is_named(name: str) -> None:
    figure = drawn(name)
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    for expected in LABELS[name]:
        assert expected in labels
    named = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
    for axes in figure.axes:
        assert set(axes.get_legend_handles_labels()[1]) <= named


@pytest.mark.parametrize("name", list(FIGURES))
def test_everything_lies_within_the_axes(name: str) -> None:
    for axes in drawn(name).axes:
        low, high = sorted(axes.get_ylim())
        left, right = sorted(axes.get_xlim())
        for container in bars(axes):
            x, y = container.lines[0].get_data()
            for a, b in zip(x, y, strict=True):
                assert math.isnan(b) or (low <= b <= high and left <= a <= right)
            for segments in container.lines[2]:
                for (_, start), (_, end) in segments.get_segments():
                    assert math.isnan(start) or (low <= start <= high and low <= end <= high)


def test_bars_are_the_intervals_over_seeds() -> None:
    found = invented("allocations")
    shares = [
        r["accuracy"] for r in found.rows if r["line"] == "curves" and r["at"] == 0.5 and r["stage"] == "compensated"
    ]
    panel = drawn("allocations").axes[1]
    assert panel.get_title() == "compensated"
    container = bars(panel)[1]
    assert container.get_label() == "curves"
    ends = container.lines[2][0].get_segments()[1][:, 1] / 100
    assert sorted(ends) == pytest.approx(student_interval(shares), abs=1e-3)
    assert container.lines[0].get_xdata() == pytest.approx([30, 50, 70])
    assert panel.xaxis_inverted()


def test_one_scale_for_panels_and_logarithms_where_they_belong() -> None:
    first, second = drawn("allocations").axes
    assert first.get_ylim() == second.get_ylim()
    assert drawn("accuracy-against-rho").axes[0].get_xscale() == "log"
    upper, lower = drawn("accuracy-against-delta").axes
    assert upper.get_xscale() == lower.get_xscale() == "log"
    times = drawn("criteria-over-ratios").axes[1]
    assert times.get_xscale() == "log"
    for figure in ("accuracy-against-rho", "criteria-over-ratios"):
        for axes in drawn(figure).axes:
            assert not [t for t in axes.get_xticklabels() if "$" in t.get_text()]


@given(low=st.floats(1e-4, 1e3), ratio=st.floats(1.05, 1e4))
def test_a_logarithmic_axis_has_two_numbers_or_more_and_few_enough_to_read(low: float, ratio: float) -> None:
    axes = Figure().subplots()
    axes.plot([low, low * ratio], [0, 1])
    logarithmic(axes)
    left, right = axes.get_xlim()
    assert 2 <= sum(left <= place <= right for place in axes.get_xticks()) <= 9
    assert all(float(axes.xaxis.get_major_formatter()(place)) > 0 for place in axes.get_xticks())


def test_the_highest_marker_is_seen_whole_without_an_interval() -> None:
    found = invented("accuracy-against-delta")
    single = [row | {"evaluations": 30} for row in found.rows if row["seed"] == 0]
    with paper():
        figure = DRAWINGS["accuracy-against-delta"](Found(single, found.about))
        figure.draw_without_rendering()
    lower = figure.axes[1]
    (line,) = [container.lines[0] for container in bars(lower)]
    x, y = line.get_data()
    middle = max(lower.transData.transform((a, b))[1] for a, b in zip(x, y, strict=True))
    assert middle + line.get_markersize() / 2 * figure.dpi / 72 < lower.bbox.y1


@pytest.mark.parametrize(
    ("name", "least"),
    [
        *((name, 0.8) for name in FIGURES),
        pytest.param("rank-stability", 0.817, marks=pytest.mark.thorough),
        ("rank-stability", -0.31),
    ],
)
def test_nothing_is_cut_off_at_the_edges(name: str, least: float, tmp_path: Path) -> None:
    """What the ticks of the correlations are decides how wide their labels are."""
    found = invented(name)
    for layer in found.about.get("layers", ()):
        layer["least"] = least
        layer["median"] = layer["median"] and 0.85
        layer["most"] = 0.97
    with paper():
        DRAWINGS[name](found).savefig(tmp_path / f"{name}.png")
    image = imread(tmp_path / f"{name}.png")[..., :3]
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == 1).all()


def test_ranks_are_shades_of_grey_batches_down_and_channels_across() -> None:
    figure = drawn("rank-stability")
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 6
    image = panels[0].images[0]
    assert image.get_cmap().name == "gray"
    assert image.get_array().shape == (2, 5)
    assert image.get_array()[1, 2] == pytest.approx(5.1 / 7.05)
    assert panels[0].get_title() == "layer0.$conv$, up to 7.05"
    assert "layer7.$conv$, up to 7.05" in [axes.get_title() for axes in panels]


def test_lines_differ_without_their_colours() -> None:
    looks = [look(number) for number in range(MOST_LINES)]
    seen = {(style["marker"], style["markerfacecolor"] == "white", style["linestyle"]) for style in looks}
    assert len(seen) == MOST_LINES


def test_files_are_complete_and_the_same_each_time(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    texts = []
    for turn in ("a", "b"):
        (tmp_path / turn).mkdir()
        with paper():
            files = save(DRAWINGS["allocations"](invented("allocations")), tmp_path / turn, "allocations")
        assert [path.name for path in files] == ["allocations.svg", "allocations.pdf", "allocations.png"]
        assert sorted((tmp_path / turn).iterdir()) == sorted(files)
        texts.append([path.read_bytes() for path in files])
    assert texts[0] == texts[1]
    svg, pdf, _ = texts[0]
    assert b"top-1 accuracy (%)</text>" in svg
    assert pdf.startswith(b"%PDF")
    assert imread(tmp_path / "a" / "allocations.png").shape[1] > 1000
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["accuracy-against-delta", "accuracy-against-rho", "allocations"])
def test_a_line_goes_from_left_to_right_whatever_the_order_of_its_points(name: str) -> None:
    found = invented(name)
    turned = Found(sorted(found.rows, key=lambda row: (row["at"] != 10, row["at"] != 0.5)), found.about)
    with paper():
        figure = DRAWINGS[name](turned)
    for container in bars(figure.axes[0]):
        x = [float(value) for value in container.lines[0].get_xdata()]
        assert x == sorted(x)


def test_a_layer_that_keeps_the_same_in_all_seeds_is_drawn_beside_one_that_does_not() -> None:
    """The mean of three times 8 of 36 is not 8 of 36: the bar would reach below nothing."""
    rows = [
        {"line": "curves", "seed": s, "layer": name, "width": 36, "kept": kept, "cost": "macs", "share": 0.5}
        for s in SEEDS
        for name, kept in (("a", 8), ("b", 8 + s))
    ]
    assert sum([100 * 8 / 36] * 3) / 3 != 100 * 8 / 36
    with paper():
        figure = DRAWINGS["widths"](Found(rows, {"costs": ["macs"]}))
    assert len(bars(figure.axes[0])) == 1


def test_lines_of_a_layer_stay_beside_its_place() -> None:
    names = [f"plan {number}" for number in range(MOST_LINES)]
    row = {"seed": 0, "layer": "a", "width": 16, "kept": 8, "cost": "macs", "share": 0.5}
    with paper():
        figure = DRAWINGS["widths"](Found([row | {"line": name} for name in names], {"costs": ["macs"]}))
    places = [float(container.lines[0].get_xdata()[0]) for container in bars(figure.axes[0])]
    assert len({*places}) == MOST_LINES
    assert 0.5 < min(places) < max(places) < 1.5
