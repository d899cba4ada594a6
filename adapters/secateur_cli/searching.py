"""The stage that spends the budget: one of the searches, as the configuration names it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from secateur.batches import rebatch
from secateur.errors import ConfigError
from secateur.evaluation import CandidateWorth
from secateur.journal import Journal, identify
from secateur.records import PruningPlan, ScoreTable
from secateur.search import GreedyStep, curve_plan, greedy_plan, uniform_plan
from secateur.search.budget import allowed_cost
from secateur_cli.job import Job
from secateur_cli.recovery import MEMORY, calibration_images
from secateur_cli.schema import RecoverConfig, RunConfig, Search

JOURNAL = "journal.sqlite"


def check_search(config: RunConfig, chosen: Search) -> None:
    """Refuse a search that could make nothing of the configured scores.

    Raises:
        ConfigError: error curves are asked for, but not scores that are such.
    """
    score = config.score
    if chosen == "curves" and (score.criterion != "reconstruction" or not score.options.get("relative", True)):
        raise ConfigError(
            "plan.search: curves reads the error curves that score.criterion: reconstruction gives (with its option "
            f"relative); the criterion is {score.criterion!r}"
        )


def search(job: Job, scores: ScoreTable) -> tuple[PruningPlan, list[dict[str, Any]]]:
    """Return the plan of the job's search, and the steps that it took as plain data, where it took any."""
    round_to, min_keep = job.config.plan.round_to, job.config.plan.min_keep
    if job.search == "uniform":
        return uniform_plan(job.groups, scores, job.costs, job.budgets, round_to=round_to, min_keep=min_keep), []
    if job.search == "curves":
        return curve_plan(job.groups, scores, job.costs, job.budgets, round_to=round_to, min_keep=min_keep), []
    return _greedy(job, scores)


def _greedy(job: Job, scores: ScoreTable) -> tuple[PruningPlan, list[dict[str, Any]]]:
    """Search greedily with a journal in the folder of the run, from which a search that was stopped goes on."""
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
    steps: list[GreedyStep] = []
    with (
        Journal.open(job.workspace.path(JOURNAL), identity) as journal,
        job.progress.task("greedy search, percent of the way") as advance,
    ):
        if journal.evaluations:
            job.progress.say(
                f"the journal of the search holds {journal.evaluations:,} evaluations: going on from there"
            )

        def tell() -> None:
            advance(_way(job, steps[-1]) if steps else 0, 100)

        def decided(step: GreedyStep) -> None:
            journal.decided(step)
            steps.append(step)
            tell()

        plan = greedy_plan(
            job.groups,
            journal.scores(job.config.score.criterion, lambda: scores),
            job.costs,
            job.budgets,
            journal.remembering(evaluate, on_worth=tell),
            delta=config.delta,
            round_to=config.round_to,
            min_keep=config.min_keep,
            on_step=decided,
        )
        journal.finished(plan)
    return plan, [asdict(step) for step in steps]


def _calibration(job: Job) -> list[Any]:
    """Return the images that the recovery of candidates reads: those that `recover` would by the same method."""
    method, settings = job.config.plan.worth.recovery, job.config.recover
    if method == "none":
        return []
    if settings.method != method:
        settings = RecoverConfig(method=method)
    samples = calibration_images(settings, job.data.example)
    return list(rebatch(job.data.calibration, None, samples=samples))


def _way(job: Job, step: GreedyStep) -> int:
    """Return how many percent of what must be freed a step has left behind, of the cost that lags most."""
    after = {job.costs[0].name: step.cost, **step.further}
    shares = []
    for cost in job.costs:
        dense = cost({})
        to_free = dense - allowed_cost(job.budgets[cost.name], dense)
        if to_free > 0:
            shares.append((dense - after[cost.name]) / to_free)
    return min(int(100 * min(shares)), 99)
