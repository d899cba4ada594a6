"""The stage that spends the budget: one of the searches, as the configuration names it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from secateur.batches import rebatch
from secateur.errors import ConfigError
from secateur.evaluation import MaskedAccuracy
from secateur.records import PruningPlan, ScoreTable
from secateur.search import GreedyStep, curve_plan, greedy_plan, parse_budget, uniform_plan
from secateur_cli.job import Job
from secateur_cli.schema import RunConfig, Search


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
    config, cost = job.config.plan, job.cost
    budget, round_to, min_keep = config.budget.macs, config.round_to, config.min_keep
    if job.search == "uniform":
        return uniform_plan(job.groups, scores, cost, budget, round_to=round_to, min_keep=min_keep), []
    if job.search == "curves":
        return curve_plan(job.groups, scores, cost, budget, round_to=round_to, min_keep=min_keep), []
    worth = MaskedAccuracy(job.model, job.groups, rebatch(job.data.validation, None, samples=config.images))
    dense = cost({})
    to_free = dense - parse_budget(budget, dense)
    steps: list[GreedyStep] = []
    with job.progress.task("greedy search, percent of the way") as advance:

        def watched(kept: Any) -> float:
            advance(min(int(100 * (dense - (steps[-1].cost if steps else dense)) / to_free), 99), 100)
            return worth(kept)

        plan = greedy_plan(
            job.groups,
            scores,
            cost,
            budget,
            watched,
            delta=config.delta,
            round_to=round_to,
            min_keep=min_keep,
            on_step=steps.append,
        )
    return plan, [asdict(step) for step in steps]
