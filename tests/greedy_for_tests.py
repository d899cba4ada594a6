"""Three groups to cut greedily, what their channels cost and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from secateur.records import ChannelGroup, Member, PruningPlan, ScoreTable
from secateur.search import greedy_plan

Kept = Mapping[str, tuple[int, ...]]
DENSE = {"a": 8, "b": 8, "c": 4}


class Channels:
    """So much for each channel; those of c cost nothing."""

    name, unit = "channels", "channels"

    def __call__(self, widths: Mapping[str, int]) -> float:
        return float(2 * widths.get("a", 8) + 3 * widths.get("b", 8))


def groups() -> dict[str, ChannelGroup]:
    own = {name: tuple((c,) for c in range(width)) for name, width in DENSE.items()}
    return {name: ChannelGroup(name, width, (Member(name, "producer", own[name]),)) for name, width in DENSE.items()}


def table(**scores: Sequence[float]) -> ScoreTable:
    given = {name: scores.get(name, range(width)) for name, width in DENSE.items()}
    return ScoreTable({name: torch.tensor(list(values), dtype=torch.float64) for name, values in given.items()})


def worth(kept: Kept) -> float:
    """Channels of b are worth more, the last most."""
    return sum(1.0 + c for c in kept.get("a", range(8))) + sum(3.0 + 2 * c for c in kept.get("b", range(8)))


def plan_by(evaluate: Any, budget: str = "50%", **more: Any) -> PruningPlan:
    return greedy_plan(groups(), table(), Channels(), budget, evaluate, **{"delta": 0.05, "round_to": 1} | more)
