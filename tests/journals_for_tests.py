"""What the tests of the journal store: an identity, scores, steps, and worths whose evaluations are counted."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from secateur.protocols import Kept
from secateur.records import ScoreTable

IDENTITY = {"weights": "abc", "data": "def", "seed": 0, "settings": {"plan": {"delta": 0.1}}}


@dataclass(frozen=True)
class Step:
    """As a search reports its steps."""

    step: int
    group: str
    width: int
    cost: float
    worth: float


class Counting:
    """The worth of a candidate is its channels' sum; every evaluation is counted."""

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        self.seen: list[Kept] = []
        self.settings = settings or {}

    def __call__(self, kept: Kept) -> float:
        self.seen.append(kept)
        return sum(sum(channels) for channels in kept.values()) / 10


def table() -> ScoreTable:
    scores = {"second": torch.tensor([0.1, 1 / 3, -2.0], dtype=torch.float64), "first": torch.tensor([1e-300])}
    return ScoreTable(scores, settings={"criterion": "hrank", "samples": 5, "options": {"a": None}})


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Read as any other tool would."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()
