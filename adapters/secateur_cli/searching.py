"""The stage that spends the budget: one of the searches, as the configuration names it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from secateur.batches import rebatch
from secateur.evaluation import CandidateWorth
from secateur.journal import Journal, identify
from secateur.protocols import Evaluate
from secateur.records import PruningPlan, ScoreTable
from secateur.scoring import reconstruction_scores
from secateur.search import GreedyStep, RefineStep, curve_plan, greedy_plan, refine_plan, uniform_plan
from secateur.search.budget import allowed_cost
from secateur_cli.job import Job
from secateur_cli.recovery import MEMORY, calibration_images
from secateur_cli.schema import RecoverConfig

WAYS = {"greedy": "greedy search, percent of the way", "refine": "swaps from the error curves, candidates"}
Step = GreedyStep | RefineStep
Find = Callable[[Evaluate, Callable[[Step], None]], PruningPlan]
"""A search by evaluation: what judges, and what is called after each step -> the plan."""


def search(job: Job, scores: ScoreTable) -> tuple[PruningPlan, list[dict[str, Any]]]:
    """Return the plan of the job's search, and the steps that it took as plain data, where it took any."""
    config = job.config.plan
    widths: dict[str, Any] = {"round_to": config.round_to, "min_keep": config.min_keep}
    if job.search == "uniform":
        return uniform_plan(job.groups, scores, job.costs, job.budgets, **widths), []

    if job.search == "greedy":

        def greedy(evaluate: Evaluate, on_step: Callable[[Step], None]) -> PruningPlan:
            found = (job.groups, scores, job.costs, job.budgets, evaluate)
            return greedy_plan(*found, delta=config.delta, on_step=on_step, **widths)

        return _judged(job, scores, greedy)

    curves = job.remembered("curves", lambda: _curves(job, scores))
    start = curve_plan(job.groups, curves, job.costs, job.budgets, **widths)
    if job.search == "curves":
        return start, []

    def refine(evaluate: Evaluate, on_step: Callable[[Step], None]) -> PruningPlan:
        found = (job.groups, curves, job.costs, job.budgets, evaluate, start)
        return refine_plan(*found, max_evaluations=config.evaluations, on_step=on_step, **widths)

    return _judged(job, curves, refine)


def _curves(job: Job, scores: ScoreTable) -> ScoreTable:
    """Return the error curves of the criterion: its own scores, if they are such; else the errors in their order."""
    score = job.config.score
    if score.criterion == "reconstruction" and score.options.get("relative", True):
        return scores
    samples = calibration_images(RecoverConfig(method="compensate"), job.data.example)
    watched = job.progress.track(
        job.data.calibration, "error curves", total=math.ceil(samples / job.config.data.batch_size)
    )
    curves = reconstruction_scores(job.model, job.groups, watched, samples=samples, memory=MEMORY, order=scores)
    for group, reason in curves.settings["skipped"].items():
        job.progress.say(f"warning: {group} has no error curve, and stays as it is: {reason}")
    return curves


def _judged(job: Job, scores: ScoreTable, find: Find) -> tuple[PruningPlan, list[dict[str, Any]]]:
    """Search by evaluation, with a journal in the folder of the run, from which a search that was stopped goes on."""
    config = job.config.plan
    judged = list(rebatch(job.data.validation, None, samples=config.worth.images))
    read = _calibration(job)
    settings = config.model_dump(mode="json") | {"search": job.search, "criterion": job.config.score.criterion}
    identity = identify(job.model, job.groups, [*judged, *read], seed=job.config.seed, settings=settings)
    with job.progress.waiting("preparing what the candidates have in common"):
        evaluate = CandidateWorth(
            job.model,
            job.groups,
            judged,
            measure=config.worth.measure,
            recovery=config.worth.recovery,
            calibration=read or None,
            samples=sum(len(inputs) for inputs, _ in read) or 1,
            memory=MEMORY,
        )
    steps: list[Step] = []
    made = 0
    with (
        Journal.open(job.workspace.path(job.journal), identity) as journal,
        job.progress.task(WAYS[job.search]) as advance,
    ):
        if journal.evaluations:
            job.progress.say(
                f"the journal of the search holds {journal.evaluations:,} evaluations: going on from there"
            )

        def tell() -> None:
            nonlocal made
            made += 1
            advance(*(_way(job, steps) if job.search == "greedy" else (made, config.evaluations)))

        def decided(step: Step) -> None:
            journal.decided(step)
            steps.append(step)

        journal.scores(job.config.score.criterion, lambda: scores)
        plan = find(journal.remembering(evaluate, on_worth=tell), decided)
        journal.finished(plan)
    return plan, [_plain(step) for step in steps]


def _plain(step: Step) -> dict[str, Any]:
    """Return a step as plain data: the groups whose widths it changed, and those widths."""
    facts = asdict(step)
    widths = facts.pop("widths", None) or {facts.pop("group"): facts.pop("width")}
    return {"group": ", ".join(widths), "width": ", ".join(map(str, widths.values())), **facts}


def _calibration(job: Job) -> list[Any]:
    """Return the images that the recovery of candidates reads: those that `recover` would by the same method."""
    method, settings = job.config.plan.worth.recovery, job.config.recover
    if method == "none":
        return []
    if settings.method != method:
        settings = RecoverConfig(method=method)
    samples = calibration_images(settings, job.data.example)
    return list(rebatch(job.data.calibration, None, samples=samples))


def _way(job: Job, steps: Sequence[Step]) -> tuple[int, int]:
    """Return how many percent of what must be freed the last step has left behind, of the cost that lags most."""
    if not steps:
        return 0, 100
    after = {job.costs[0].name: steps[-1].cost, **steps[-1].further}
    shares = []
    for cost in job.costs:
        dense = cost({})
        to_free = dense - allowed_cost(job.budgets[cost.name], dense)
        if to_free > 0:
            shares.append((dense - after[cost.name]) / to_free)
    return min(int(100 * min(shares)), 99), 100
