"""Comparisons: one of full size as its page sees it, made of invented figures; and a small one, given and read."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any

from runs_for_tests import User, write_user
from secateur_cli.comparison.results import rows_of

CRITERIA = (
    ("magnitude p=1", "Torch-Pruning"), ("fpgm", "Torch-Pruning"), ("taylor", "Torch-Pruning"),
    ("bn-scale", "Torch-Pruning"), ("l1", "NNI"), ("taylor", "NNI"), ("hrank", "secateur"),
    ("di tap=act ridge=0.1 on 1,280", "secateur"), ("reconstruction", "secateur"), ("random", "secateur"),
)  # fmt: skip
SEARCHES = ("uniform", "greedy", "curves", "cross_layer")
BUDGETS = {"70% of the MACs": 0.7, "50% of the MACs": 0.5, "30% of the MACs": 0.3}
STAGES = ("cut", "recalibrated", "compensated", "fine-tuned")
CONFIG = """
network: {build: secateur_user_networks:Small}
data: {source: secateur_user_data:load}
train: {epochs: 5, learning_rate: 0.1}
plan: {round_to: 2, worth: {images: 32}, delta: 0.2}
fine_tune: {epochs: 1}
onnx: {batch_sizes: [1], seconds: 0.05}
threads: 1
compare:
  criteria: [{name: "torch-pruning:magnitude", options: {p: 1}}, "nni:l1", hrank, random]
  searches: [uniform, curves]
  budgets: [60%]
  seeds: [0, 1]
  stages: [cut, recalibrated, compensated]
"""
SMALL = ("compare.criteria=[l1,random]", "compare.searches=[uniform]")
DENSE = {"accuracy": 0.895, "images": 5000, "macs": 125_485_706.0, "parameters": 853_018.0}


def full_comparison() -> dict[str, Any]:
    """Return ten criteria at three budgets by three searches over three seeds, trained and timed."""
    draw = random.Random(0)
    cells = [
        _cell(draw, number, search, budget, seed)
        for seed in range(3)
        for budget in BUDGETS
        for search in SEARCHES
        for number in range(len(CRITERIA))
    ]
    return {
        "format": 1,
        "created": "2026-01-02T03:04:05+00:00",
        "command": "secateur compare examples/compare/resnet56.yaml",
        "smoke": False,
        "given": {"network": {"build": "secateur.networks:resnet56"}, "compare": {"seeds": [0, 1, 2]}},
        "network": {"build": "secateur.networks:resnet56", "skipped": {}},
        "data": {"source": "image-folder"},
        "versions": {"secateur": "0.1.0", "torch": "2.14.1", "nni": "3.0"},
        "machine": {"processor": "a processor", "threads": 1},
        "dense": DENSE,
        "stages": list(STAGES),
        "seeds": [0, 1, 2],
        "cells": cells,
        "rows": rows_of(cells, STAGES),
    }


def write_owner(folder: Path, config: str = CONFIG) -> User:
    """Write what a user has who makes a comparison."""
    user = write_user(folder)
    user.config.write_text(config, encoding="utf-8")
    return user


def compare(user: User, output: Path, *settings: str, flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Give the command, in this process; return the exit code and what it printed and complained."""
    return user.command(output, *settings, name="compare", flags=flags, columns=100)


def report_of(output: Path) -> Any:
    """Return what a comparison has written to its folder."""
    return json.loads((output / "comparison.json").read_text(encoding="utf-8"))


def cell_of(output: Path, name: str, search: str, seed: int) -> Any:
    """Return one of its cells."""
    cells = report_of(output)["cells"]
    return next(cell for cell in cells if (cell["name"], cell["search"], cell["seed"]) == (name, search, seed))


def facts(output: Path, beginning: str = "") -> dict[str, str]:
    """Name -> what the journal holds, with when it was stored."""
    connection = sqlite3.connect(output / "comparison.sqlite")
    try:
        rows = connection.execute("SELECT name, fact FROM facts ORDER BY rowid").fetchall()
    finally:
        connection.close()
    return {name: fact for name, fact in rows if name.startswith(beginning)}


def _cell(draw: random.Random, number: int, search: str, budget: str, seed: int) -> dict[str, Any]:
    criterion, house = CRITERIA[number]
    share = BUDGETS[budget]
    best = 0.89 - 0.3 * (1 - share) ** 2 + 0.01 * SEARCHES.index(search) - 0.004 * number
    lost = dict(zip(STAGES, (0.5 * (1 - share) + 0.2, 0.15 * (1 - share), 0.02, 0.0), strict=True))
    plan = f"{number} {search} {budget} {seed}"
    times = {"measured": "end to end", "batch_size": 1, "ratio": 1.53, "lower": 1.5, "upper": 1.56}
    return {
        "criterion": criterion,
        "house": house,
        "search": search,
        "budget": budget,
        "seed": seed,
        "scores_shared": False,
        "unscored": {},
        "score_seconds": 0.01 * 3**number,
        "score_processor_seconds": 0.01 * 3**number,
        "score_peak_bytes": 2**20 * 4**number,
        "score_images": 1280,
        "plan": plan,
        "curve_seconds": None,
        "plan_seconds": 1.0,
        "learnt_epochs": None,
        "ties": 1234,
        "macs": share * DENSE["macs"],
        "parameters": 0.9 * share * DENSE["parameters"],
        "right": defaultdict(lambda: None),
        "accuracy": {stage: best - lost[stage] + draw.gauss(0, 0.004) for stage in STAGES},
        "measured_as": {stage: f"{stage} {plan}" for stage in STAGES},
        "latency": {"comparisons": [times, times | {"batch_size": 32}], "plan": plan},
        "not_measured": None,
    }


def record(
    criterion: str, seed: int, last: float | None, *, house: str = "secateur", plan: str = "a"
) -> dict[str, Any]:
    """A cell with one stage."""
    return {
        "criterion": criterion,
        "house": house,
        "search": "uniform",
        "budget": "50% of the MACs",
        "seed": seed,
        "scores_shared": False,
        "unscored": {},
        "score_seconds": 1.0,
        "score_processor_seconds": 1.0,
        "score_peak_bytes": None,
        "score_images": 500,
        "plan": plan,
        "curve_seconds": None,
        "plan_seconds": 0.1,
        "learnt_epochs": None,
        "ties": 0,
        "macs": 10.0,
        "parameters": 5.0,
        "right": defaultdict(lambda: None),
        "accuracy": {"cut": last},
        "measured_as": {"cut": f"cut {plan} {criterion} {seed}"},
        "latency": None,
        "not_measured": None if last is not None else "SlimPruner fails",
    }
