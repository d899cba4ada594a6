"""Searches to be tried on: a chain of layers with a cost, scores and a worth that any twin can follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from hypothesis import assume
from hypothesis import strategies as st

from references_search import widths_by_trying
from secateur.records import ChannelGroup, Member, ScoreTable

SETTINGS = {"criterion": "hand", "samples": 7}


@dataclass
class ChainCost:
    """A chain of layers, each reading the one before: products of neighbouring widths, like MACs."""

    dense: Mapping[str, int]
    work: Mapping[str, int]
    name: str = "macs"
    unit: str = "MACs"

    def __call__(self, widths: Mapping[str, int]) -> float:
        total, inputs = 0, 3
        for name, width in self.dense.items():
            outputs = widths.get(name, width)
            total += self.work[name] * inputs * outputs
            inputs = outputs
        return float(total + 10 * inputs)


def group_of(name: str, width: int) -> ChannelGroup:
    return ChannelGroup(name, width, (Member(name, "producer", tuple((c,) for c in range(width))),))


@dataclass
class Case:
    dense: dict[str, int]
    scores: dict[str, list[float]]
    cost: ChainCost
    round_to: int = 1
    min_keep: int = 1

    @property
    def groups(self) -> dict[str, ChannelGroup]:
        return {name: group_of(name, width) for name, width in self.dense.items()}

    @property
    def table(self) -> ScoreTable:
        return ScoreTable({n: torch.tensor(s, dtype=torch.float64) for n, s in self.scores.items()}, settings=SETTINGS)

    @property
    def allowed(self) -> dict[str, list[int]]:
        rule = {"min_keep": self.min_keep, "round_to": self.round_to}
        return {name: widths_by_trying(width, **rule) for name, width in self.dense.items()}

    @property
    def arguments(self) -> tuple[dict[str, ChannelGroup], ScoreTable, ChainCost]:
        return self.groups, self.table, self.cost

    @property
    def rules(self) -> dict[str, int]:
        return {"round_to": self.round_to, "min_keep": self.min_keep}

    def share(self, share: float) -> float:
        """The largest cost at `share` of the way from the lowest reachable to the dense cost."""
        lowest = self.cost({name: allowed[0] for name, allowed in self.allowed.items()})
        dense = self.cost(self.dense)
        assume(lowest < dense)
        largest = lowest + share * (dense - lowest)
        assume(largest < dense and (largest > 100 or largest >= 0.01 * dense))
        return largest

    def worth(self, kept: Mapping[str, tuple[int, ...]]) -> float:
        """The score that is kept, each group counted in another unit; coarse, so that ties occur."""
        total = 0.0
        for rank, (name, scores) in enumerate(self.scores.items()):
            total += sum(scores[c] for c in kept.get(name, range(len(scores)))) / (1 + rank)
        return round(total / 3)


@st.composite
def cases(draw: st.DrawFn, largest_width: int = 12) -> Case:
    names = ["a", "b", "c", "d"][: draw(st.integers(1, 4))]
    dense = {name: draw(st.integers(1, largest_width)) for name in names}
    scores = {n: draw(st.lists(st.integers(0, 6), min_size=w, max_size=w)) for n, w in dense.items()}
    work = {name: draw(st.integers(1, 9)) for name in names}
    return Case(dense, scores, ChainCost(dense, work), draw(st.sampled_from([1, 1, 2, 4, 8])), draw(st.integers(1, 3)))


def small_case() -> Case:
    dense = {"a": 8, "b": 8}
    scores = {"a": [5, 1, 1, 1, 7, 8, 6, 9], "b": [1, 2, 3, 4, 5, 6, 7, 8]}
    return Case(dense, scores, ChainCost(dense, {"a": 9, "b": 9}))
