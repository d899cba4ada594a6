"""How many channels each layer keeps, by several plans for the same budget."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

from secateur.errors import PlanError
from secateur.records import PruningPlan
from secateur_cli.figures.bench import Bench, bench, with_search
from secateur_cli.figures.order import Found, Order, Row
from secateur_cli.plan_file import read_plan
from secateur_cli.settings.plan_schema import Search


def widths(order: Order) -> Found:
    """Measure the widths that each search gives for the budget of the run; a line may also be a plan that was found.

    A row for each seed, line and group, in the order of the network: its width and what is kept.

    Raises:
        PlanError: a path holds no plan, or that of a network with other groups.
    """
    given = {line: read_plan(Path(line).expanduser()) for line in order.lines if is_path(line)}
    rows: list[Row] = []
    for seed in order.seeds:
        with bench(order, seed) as stand:
            work = {line: partial(_found, cast(Search, line), stand) for line in order.lines if line not in given}
            found = dict(zip(work, stand.keeper.points(work, "searches"), strict=True))
            for line in order.lines:
                plan = given.get(line) or PruningPlan.from_json(found[line])
                _check(line, plan, stand)
                rows += [
                    {
                        "line": line,
                        "seed": seed,
                        "layer": group.name,
                        "width": group.width,
                        "kept": len(plan[group.name]),
                        "cost": plan.cost,
                        "share": plan.cost_after / plan.cost_before,
                    }
                    for group in stand.job.groups.values()
                ]
    return Found(rows, {"costs": sorted({str(row["cost"]) for row in rows})})


def is_path(line: str) -> bool:
    """Return whether a line names a file or folder and not a search.

    Example:
        >>> is_path("runs/digits"), is_path("greedy")
        (True, False)
    """
    return "/" in line or line.endswith(".json")


def _found(search: Search, stand: Bench) -> dict[str, Any]:
    return stand.planned(with_search(stand.config.plan, search))[0].to_json()


def _check(line: str, plan: PruningPlan, stand: Bench) -> None:
    widths = {group.name: group.width for group in plan.groups}
    odd = [name for name, group in stand.job.groups.items() if widths.get(name) != group.width]
    if odd:
        raise PlanError(f"{line}: a plan of another network, or of other groups; it differs in {', '.join(odd[:5])}")
