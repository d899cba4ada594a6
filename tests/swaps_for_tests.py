"""Plans to refine: layers in a row, with scores, and a worth that the scores do not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from secateur.protocols import Kept
from secateur.records import ChannelGroup, Member, PruningPlan, ScoreTable
from secateur.search import refine_plan, uniform_plan

Widths = dict[str, int]


@dataclass
class Chain:
    """Layers in a row, each reading the one before; all of `inputs` of them read so many channels first."""

    dense: Mapping[str, int]
    inputs: int = 3
    name: str = "macs"
    unit: str = "MACs"

    def __call__(self, widths: Mapping[str, int]) -> float:
        total, before = 0, self.inputs
        for name, dense in self.dense.items():
            total += before * widths.get(name, dense)
            before = widths.get(name, dense)
        return float(total + 2 * before)


@dataclass
class Case:
    """Groups with scores that are whole numbers, and a worth that the scores do not know."""

    scores: dict[str, list[int]]
    merit: dict[str, list[int]]
    round_to: int = 1
    asked: list[dict[str, tuple[int, ...]]] = field(default_factory=list)

    @property
    def dense(self) -> Widths:
        return {name: len(scores) for name, scores in self.scores.items()}

    @property
    def cost(self) -> Chain:
        return Chain(self.dense)

    @property
    def groups(self) -> dict[str, ChannelGroup]:
        return {
            name: ChannelGroup(name, width, (Member(name, "producer", tuple((c,) for c in range(width))),))
            for name, width in self.dense.items()
        }

    @property
    def table(self) -> ScoreTable:
        return ScoreTable({n: torch.tensor(s, dtype=torch.float64) for n, s in self.scores.items()})

    @property
    def allowed(self) -> dict[str, list[int]]:
        return {
            name: [w for w in range(1, width + 1) if w == width or w % self.round_to == 0]
            for name, width in self.dense.items()
        }

    def worth(self, kept: Kept) -> float:
        self.asked.append(dict(kept))
        return float(sum(self.merit[n][c] for n in self.dense for c in kept.get(n, range(self.dense[n]))) // 2)

    def start(self, budget: float) -> PruningPlan:
        return uniform_plan(self.groups, self.table, self.cost, budget, round_to=self.round_to)

    def refine(self, budget: float, **more: Any) -> PruningPlan:
        start = more.pop("start", None) or self.start(budget)
        evaluate = more.pop("evaluate", self.worth)
        return refine_plan(
            self.groups, self.table, self.cost, budget, evaluate, start, **{"round_to": self.round_to, **more}
        )


def pair(merit_b: int = 9) -> Case:
    scores = {"a": [1, 2, 3, 4, 5, 6], "b": [1, 2, 3, 4, 5, 6]}
    return Case(scores, {"a": [0] * 6, "b": [merit_b] * 6})
