"""The first half of a run: a trained network, its scores, and the plan that spends the budget."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from secateur.checkpoint import save_plan
from secateur.criteria import known_criterion
from secateur.files import write_json
from secateur.modes import placed
from secateur.records import PruningPlan, ScoreTable
from secateur.scoring import scores_by_name
from secateur.weights import load_weights
from secateur_cli.costs import spending
from secateur_cli.progress import Progress
from secateur_cli.settings.schema import RunConfig, Search
from secateur_cli.stages.error_curves import CURVES, error_curves
from secateur_cli.stages.job import Hooks, Job
from secateur_cli.stages.latency import search_to_latency
from secateur_cli.stages.learning import WEIGHTS, learn_channels
from secateur_cli.stages.plan_record import plan_record
from secateur_cli.stages.preparation import prepare
from secateur_cli.workspace import LEARNT, LEARNT_PLAN, PLAN, Workspace

DENSE_WEIGHTS = "stages/dense.safetensors"
SCORES = "stages/scores.json"
FILES = {
    "training": (DENSE_WEIGHTS,),
    "scores": (SCORES,),
    "error curves": (CURVES,),
    "plan": (PLAN,),
    "learning": (WEIGHTS, LEARNT_PLAN),
}


def plan_job(
    config: RunConfig,
    search: Search,
    *,
    folder: Path,
    output: Path,
    progress: Progress,
    hooks: Hooks | None = None,
    beside: Workspace | None = None,
) -> PruningPlan:
    """Find the plan of a run and stop there; the run itself goes on from the same folder.

    Args:
        config: what to do.
        search: which of the configured searches decides the widths.
        folder: where relative paths and modules of the configuration are looked up.
        output: the folder of the run; continued if it holds the same run.
        progress: shows what happens.
        hooks: what others do with the search as it goes.
        beside: a finished run of the same configuration by another search or variant; what they have in common is taken
            from there.

    Raises:
        SecateurError: anything that the stages refuse; what was finished stays, nothing is half-written.
    """
    begun = time.monotonic()
    job = prepare(
        config,
        search,
        folder=folder,
        output=output,
        progress=progress,
        smoke=False,
        files=FILES,
        begun=begun,
        beside=beside,
    )
    job.hooks = hooks or job.hooks
    try:
        train_dense(job)
        plan = choose_widths(job, score(job))
        if "model" not in job.workspace.stages:  # else the plan lies there, with the network that it was applied to
            save_plan(plan, job.workspace.folder)
    finally:
        job.workspace.close()
    return plan


def train_dense(job: Job) -> None:
    """Train the network where the configuration says so; otherwise it is taken as it comes."""
    settings = job.config.train
    if settings is None:
        return

    def work() -> dict[str, Any]:
        history = job.train(job.model, settings, "training the dense network")
        job.keep(job.model, DENSE_WEIGHTS)
        return history

    job.facts["training"] = job.once("training", work)
    load_weights(job.model, job.workspace.path(DENSE_WEIGHTS))


def score(job: Job) -> ScoreTable:
    """Score every channel by the criterion, on training images."""
    settings = job.config.score

    def work() -> dict[str, Any]:
        begun = time.monotonic()
        rule = known_criterion(settings.criterion, **settings.options)
        own: int = getattr(rule, "samples", 0)  # criteria over weights read no images
        samples = own if settings.samples is None else settings.samples
        total = math.ceil(samples / job.config.data.batch_size)
        watched = job.progress.track(job.data.calibration, f"scoring: {settings.criterion}", total=total)
        with placed(job.config.device, job.model):
            table = scores_by_name(
                job.model,
                watched,
                settings.criterion,
                options=settings.options_of(job.config.seed),
                tap=settings.tap,
                samples=settings.samples,
                groups=job.groups,
            )
        write_json(job.workspace.path(SCORES), table.to_json())
        return {"seconds": time.monotonic() - begun}

    seconds = job.once("scores", work)["seconds"]
    table = ScoreTable.from_json(job.workspace.read(SCORES))
    job.facts["scores"] = {"criterion": settings.criterion, "settings": dict(table.settings)}
    images = table.settings.get("samples")
    on = f" on {images:,} images" if images else ""
    job.progress.say(f"scored {len(table)} layers by {settings.criterion}{on} in {seconds:.1f} s")
    return table


def choose_widths(job: Job, scores: ScoreTable) -> PruningPlan:
    """Spend the budget: how many channels each group keeps, and which."""
    curves = error_curves(job, scores)

    def work() -> dict[str, Any]:
        plan, steps = search_to_latency(job, scores, curves)
        write_json(job.workspace.path(PLAN), plan.to_json())
        return {"steps": steps}

    found = job.once("plan", work)
    plan = PruningPlan.from_json(job.workspace.read(PLAN))
    if job.search in LEARNT:
        plan = learn_channels(job, plan)
    if found["steps"]:
        job.facts["search"] = found
    job.facts["plan"] = plan_record(job.search, plan, scores, curves)
    job.progress.say(f"{job.search} plan: {spending(job.facts['plan'])}")
    return plan
