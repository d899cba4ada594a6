"""The stage that spends a budget of latency: the same searches, with a cost that real runs correct."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import secateur_onnx
from secateur.errors import ConfigError
from secateur.files import replacing
from secateur.journal import Journal
from secateur.records import PruningPlan, ScoreTable
from secateur.search.budget import parse_budget
from secateur_cli.settings.schema import RunConfig
from secateur_cli.stages.job import Job
from secateur_cli.stages.searching import search
from secateur_cli.workspace import Workspace

TIMES = "latency.sqlite"
IDENTITY = {"holds": "times in ONNX Runtime"}  # each time is kept with the machine that it was taken on
Steps = list[dict[str, Any]]


def check_latency(config: RunConfig) -> None:
    """Refuse before any work what would stop the timing of layers; nothing without a budget of latency.

    Raises:
        MissingDependencyError: onnx, onnxscript or onnxruntime is missing.
        ConfigError: the provider is not available, or not one whose layers can be timed.
    """
    if config.plan.budget.latency is None:
        return
    provider = _provider(config)
    if provider not in secateur_onnx.LATENCY_PROVIDERS:
        allowed = ", ".join(secateur_onnx.LATENCY_PROVIDERS)
        raise ConfigError(f"a latency is not measured on {provider!r}: give plan.budget.provider, one of {allowed}")
    secateur_onnx.check_installation(provider=provider)


def check_export(config: RunConfig, model: nn.Module, example: Tensor, *, timed: bool) -> None:
    """Export the dense network into a folder that goes again, and time it where milliseconds are the only budget.

    Args:
        timed: whether a budget of latency is still to be spent.

    Raises:
        NetworkError: it cannot be exported.
        BudgetError: it takes no longer than the budget allows.
    """
    given = config.plan.budget.given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is worth saying comes again with the file that stays
        if timed and len(given) == 1 and isinstance(given.get("latency"), float):
            with _whole_runs(config, model, example) as runs:
                parse_budget(given["latency"], runs(None).dense_ms, unit="ms")
        else:
            with tempfile.TemporaryDirectory() as folder:
                secateur_onnx.export(model, example, Path(folder) / "dense.onnx")


def take_times(workspace: Workspace, other: Workspace) -> None:
    """Begin with the times that another run of the network has measured, where this one has none.

    So that layers are timed once for all searches and variants of a configuration, which then share one table.
    """
    source, own = other.path(TIMES), workspace.path(TIMES)
    if source.is_file() and not own.exists():
        with replacing(own) as temporary:
            shutil.copyfile(source, temporary)


def search_to_latency(job: Job, scores: ScoreTable, curves: ScoreTable | None) -> tuple[PruningPlan, Steps]:
    """Return what `search` does; with a budget of latency the plan whose measured latency meets it."""
    budget = job.config.plan.budget
    if budget.latency is None:
        return search(job, scores, curves)
    found: dict[str, Steps] = {}
    rounds = itertools.count(1)

    def find(cost: secateur_onnx.LatencyCost) -> PruningPlan:
        journal = f"journal-{next(rounds)}.sqlite"  # each round decides by another cost
        plan, steps = search(replace(job, costs=(*job.costs, cost), journal=journal), scores, curves)
        found[plan.fingerprint] = steps
        return plan

    def say(number: int, done: secateur_onnx.Round) -> None:
        run = done.measured
        job.progress.say(
            f"  plan {number}: measured {run.share:.1%} of the dense time ({run.lower:.1%} to {run.upper:.1%}), "
            f"predicted {done.predicted:.1%}"
        )

    with Journal.open(job.workspace.path(TIMES), IDENTITY) as journal:
        with job.progress.task("timing layers in ONNX Runtime") as advance:
            cost = secateur_onnx.latency_cost(
                job.model,
                job.data.example,
                job.groups,
                round_to=job.config.plan.round_to,
                memory=journal,
                on_progress=advance,
                **_timed(job.config),
            )
        with _whole_runs(job.config, job.model, job.data.example, memory=journal) as runs:
            done = secateur_onnx.latency_search(find, cost, job.budgets["latency"], runs, on_round=say)
    job.progress.say(f"latency: {done.verdict}")
    return _with_place(done.plan, runs.where), found[done.plan.fingerprint]


def _with_place(plan: PruningPlan, where: Mapping[str, Any]) -> PruningPlan:
    latency = {**plan.settings["latency"], "where": {key: value for key, value in where.items() if value is not None}}
    return replace(plan, settings={**plan.settings, "latency": latency})


def _whole_runs(
    config: RunConfig, model: nn.Module, example: Tensor, *, memory: Journal | None = None
) -> secateur_onnx.WholeRuns:
    settings = {"seconds": config.onnx.seconds, "seed": config.seed, **_timed(config)}
    return secateur_onnx.WholeRuns(model, example, memory=memory, **settings)


def _timed(config: RunConfig) -> dict[str, Any]:
    """Return where, with how many threads and for how many images a latency is measured."""
    return {"provider": _provider(config), "batch": config.plan.budget.batch, "threads": config.onnx.threads}


def _provider(config: RunConfig) -> str:
    return config.plan.budget.provider or config.onnx.provider
