"""Costs and budgets in words: what a cost is called, and what a plan spends of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur_cli.wording import amount, percent

COUNTED = ("macs", "parameters")  # what a run counts in both networks, whatever has a budget
COSTS = {
    "macs": "MACs",
    "parameters": "parameters",
    "bytes": "bytes of the tensors",
    "flops2": "FLOPs, two a MAC",
    "thop": "MACs as thop counts",
    "hrank": "MACs as HRank counts",
    "hrank_parameters": "parameters as HRank counts",
    "latency": "latency",
}


def label(cost: str) -> str:
    """Return what a cost is called.

    Example:
        >>> label("macs"), label("energy")
        ('MACs', 'energy')
    """
    return COSTS.get(cost, cost)


def unit(cost: str) -> str:
    """Return the unit that belongs behind an amount of a cost, where its name does not say it.

    Example:
        >>> unit("bytes"), unit("latency"), unit("macs")
        ('B', 'ms', '')
    """
    return {"bytes": "B", "latency": "ms"}.get(cost, "")


def spent(plan: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Return name of each cost that has a budget -> before, after and budget, from the plan in a report.

    Example:
        >>> spent({"cost": "macs", "before": 200.0, "after": 99.0, "budget": 100.0})
        {'macs': {'before': 200.0, 'after': 99.0, 'budget': 100.0}}
    """
    if not plan.get("before") or plan.get("after") is None:
        return {}
    first = {key: plan.get(key) for key in ("before", "after", "budget")}
    return {str(plan.get("cost")): first, **(plan.get("further") or {})}


def spending(plan: Mapping[str, Any]) -> str:
    """Return what a plan spends of each budget, in one line.

    Example:
        >>> spending({"cost": "macs", "before": 2e6, "after": 9e5, "budget": 1e6})
        '900 k MACs of 2.00 M (45.0%; allowed 1.00 M)'
    """
    return "; ".join(
        f"{_called(name, cost['after'])} of {amount(cost['before'], unit(name))} "
        f"({percent(cost['after'] / cost['before'])}; allowed {amount(cost['budget'], unit(name))})"
        for name, cost in spent(plan).items()
    )


def _called(cost: str, value: float) -> str:
    return amount(value, unit(cost)) if unit(cost) else f"{amount(value)} {label(cost)}"
