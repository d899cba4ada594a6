"""A plan for people: what is kept in each group, what that costs against what was allowed, how it was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secateur.records import PruningPlan
from secateur_cli.costs import label, unit
from secateur_cli.report.page import as_text
from secateur_cli.wording import amount, percent
from secateur_onnx.latency.latency_search import said


def plan_facts(plan: PruningPlan) -> dict[str, Any]:
    """Return a plan as plain data: its fingerprint, its costs with their budgets, its groups and its settings."""
    return {
        "fingerprint": plan.fingerprint,
        "costs": {name: asdict(spent) for name, spent in plan.spent.items()},
        "groups": [
            {
                "name": group.name,
                "width": group.width,
                "kept": len(plan[group.name]),
                "kept_channels": list(plan[group.name]),
                "ties": plan.ties.get(group.name, 0),
                "layers": [member.layer for member in group.producers],
            }
            for group in plan.groups
        ],
        "settings": dict(plan.settings),
    }


def print_plan(console: Console, facts: Mapping[str, Any]) -> None:
    """Print what `plan_facts` returns as tables that fit the console."""
    console.print(_groups(facts))
    console.print(_costs(facts["costs"]))
    console.print(_settings(facts["settings"]))
    console.print(f"fingerprint {facts['fingerprint']}")


def _groups(facts: Mapping[str, Any]) -> Table:
    groups = facts["groups"]
    kept, width = (sum(group[key] for group in groups) for key in ("kept", "width"))
    title = f"{len(groups)} groups, {kept:,} of {width:,} channels kept"
    table = _table(title, "group", "dense", "kept", "share", "ties")
    shared = {group["name"]: [layer for layer in group["layers"] if layer != group["name"]] for group in groups}
    if any(shared.values()):
        table.add_column("shared with", overflow="fold")
    for group in groups:
        table.add_row(
            group["name"],
            str(group["width"]),
            str(group["kept"]),
            percent(group["kept"] / group["width"]),
            str(group["ties"] or ""),
            *([", ".join(shared[group["name"]])] if any(shared.values()) else []),
        )
    return table


def _costs(costs: Mapping[str, Mapping[str, float]]) -> Table:
    table = _table("costs", "", "dense", "pruned", "share", "allowed", "")
    for name, cost in costs.items():
        dense, kind = cost["before"], unit(name)
        table.add_row(
            label(name),
            amount(dense, kind),
            amount(cost["after"], kind),
            percent(cost["after"] / dense if dense else None),
            amount(cost["budget"], kind),
            percent(cost["budget"] / dense if dense else None),
        )
    return table


def _settings(settings: Mapping[str, Any]) -> Table:
    table = Table(title=Text("how it was found", style="bold"), title_justify="left", box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _flat(_told(settings), ""):
        table.add_row(name, value)
    return table


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by which channels and widths were chosen, without those of every layer."""
    scores = settings.get("scores")
    told: dict[str, Any] = {"search": settings.get("search")}
    if isinstance(scores, Mapping):
        curves = scores if isinstance(scores.get("order"), Mapping) else {}
        chosen = curves.get("order") or scores
        told |= {key: chosen.get(key) for key in ("criterion", "tap")} | {"images": chosen.get("samples")}
        told |= {"curves by": curves.get("criterion"), "images of the curves": curves.get("samples")}
    told |= {name: value for name, value in settings.items() if name not in ("search", "scores")}
    return told | ({"latency": _latency(settings["latency"])} if "latency" in settings else {})


def _latency(search: Any) -> Any:
    """Return a search for latency in a sentence; as it is what another program's plan holds in its place."""
    try:
        return said(search)
    except (LookupError, TypeError, ValueError, ArithmeticError):
        return search


def _flat(settings: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Yield settings by their full names, but for those that are not set."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{name}.")
        elif value not in (None, [], {}, ""):
            yield f"{path}{name}", as_text(value)


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
