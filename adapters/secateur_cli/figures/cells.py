"""The body of all figures of accuracy: seeds x cells, each a plan that is carried out and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from secateur.records import PruningPlan, ScoreTable
from secateur_cli.figures.bench import Bench, bench
from secateur_cli.figures.intervals import Spread, spread_of_shares
from secateur_cli.figures.order import Order, Row, Until
from secateur_cli.settings.schema import FineTuneConfig


@dataclass(frozen=True)
class Planned:
    """A plan, the scores that it was made by, and what else is to be told of it in its rows."""

    plan: PruningPlan
    scores: ScoreTable
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One point of a figure: the line that it belongs to, where it stands on it, and how its plan is found.

    `fine_tune` replaces how the run trains.
    """

    line: str
    at: float | None
    plan: Callable[[Bench], Planned]
    fine_tune: FineTuneConfig | None = None


def measure_cells(order: Order, cells: Sequence[Cell] | Callable[[Bench], Sequence[Cell]], title: str) -> list[Row]:
    """Return a row for each seed, cell and step after the removal, and one for each dense network.

    Args:
        order: what was asked for.
        cells: the points, or what gives them for a bench.
        title: what to call the work while it takes long.
    """
    rows: list[Row] = []
    for seed in order.seeds:
        if len(order.seeds) > 1:
            order.progress.say(f"seed {seed}, {order.seeds.index(seed) + 1} of {len(order.seeds)}")
        with bench(order, seed) as stand:
            rows.append({"line": "", "at": None, "seed": seed, **stand.keeper.point("dense", stand.dense)})
            points = cells(stand) if callable(cells) else cells
            work = {
                f"{cell.line} at {cell.at}, {order.until}": partial(_measured, cell, stand, order.until)
                for cell in points
            }
            for cell, steps in zip(points, stand.keeper.points(work, title), strict=True):
                rows += [{"line": cell.line, "at": cell.at, "seed": seed, **step} for step in steps]
    return rows


def _measured(cell: Cell, stand: Bench, until: Until) -> list[Row]:
    found = cell.plan(stand)
    steps = stand.judged(found.plan, found.scores, until=until, fine_tune=cell.fine_tune)
    return [{**step, **found.more} for step in steps]


def summarised(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the accuracy of each point and step over the seeds, in the order in which they were measured.

    Each has line, at, stage, the mean share of the dense MACs (None of the dense network), and a `Spread`.
    """
    points: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        points.setdefault((row["line"], row["at"], row["stage"]), []).append(row)
    found = []
    for (line, at, stage), same in points.items():
        shares = [row["macs"] / row["dense_macs"] for row in same if "macs" in row]
        spread = spread_of_shares([row["accuracy"] for row in same], same[0]["images"])
        found.append(
            {"line": line, "at": at, "stage": stage, "macs": mean(shares) if shares else None, "accuracy": spread}
        )
    return found


def spread_at(points: Sequence[Mapping[str, Any]], *, stage: str) -> Spread | None:
    """Return the accuracy of the first point of a step."""
    return next((point["accuracy"] for point in points if point["stage"] == stage), None)


def mean(values: Sequence[float]) -> float:
    """Return the mean of some numbers."""
    return sum(values) / len(values)
