"""The stage that spends the budget: one of the searches, as the configuration names it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from secateur.channel_graph import cut_scores
from secateur.errors import SaturationWarning, ScoreError
from secateur.journal import Journal
from secateur.modes import placed
from secateur.protocols import Evaluate, Kept
from secateur.records import ChannelGroup, PruningPlan, ScoreTable
from secateur.scoring import scores_by_name
from secateur.search import (
    GreedyStep,
    RefineStep,
    curve_plan,
    global_ranking_plan,
    greedy_plan,
    refine_plan,
    uniform_plan,
)
from secateur.search.budget import allowed_cost
from secateur_cli.inputs.epochs import seed_everything
from secateur_cli.stages.job import Job
from secateur_cli.stages.judge import judge_of
from secateur_cli.stages.prescribed import PRESCRIBED, Setting, prescribed_plan
from secateur_cli.workspace import LEARNT

WAYS = {
    "greedy": "greedy search, percent of the way",
    "refine": "swaps from the error curves, candidates",
    "global_ranking": "evolution of a ranking, candidates",
}
Step = GreedyStep | RefineStep
Find = Callable[[Evaluate, Callable[[Step], None], Journal], PruningPlan]
"""A search by evaluation: what judges, what is called after each step, and what remembers -> the plan."""


def search(job: Job, scores: ScoreTable, curves: ScoreTable | None) -> tuple[PruningPlan, list[dict[str, Any]]]:
    """Return the plan of the job's search, and the steps that it took as plain data, where it took any.

    Args:
        job: says which search, and of what.
        scores: by the criterion.
        curves: the error curves, for the searches that begin with them.
    """
    config = job.config.plan
    widths: dict[str, Any] = {"round_to": config.round_to, "min_keep": config.min_keep}
    if job.search == "uniform" or job.search in LEARNT:
        widths |= {"variant": config.variant[0], "seed": job.config.seed}
        return uniform_plan(job.groups, scores, job.costs, job.budgets, **widths), []

    if job.search in PRESCRIBED:
        setting = Setting(job.model, job.data.example, job.groups, job.costs, job.budgets, job.shallow, job.config.seed)
        return prescribed_plan(job.search, config, scores, setting), []

    if job.search == "global_ranking":

        def rank(evaluate: Evaluate, _: Callable[[Step], None], _journal: Journal) -> PruningPlan:
            return global_ranking_plan(
                *(job.groups, scores, job.costs, job.budgets, evaluate),
                generations=config.generations,
                seed=job.config.seed,
                **widths,
            )

        return _judged(job, scores, rank)

    if job.search == "greedy":
        begin = _begin(job, scores, curves, config.greedy_from) if curves is not None and config.greedy_from else None

        def greedy(evaluate: Evaluate, on_step: Callable[[Step], None], journal: Journal) -> PruningPlan:
            return greedy_plan(
                *(job.groups, scores, job.costs, job.budgets, evaluate),
                start=begin,
                delta=config.delta,
                rescore=None if config.rescore is None else journal.rescoring(*_rescoring(job)),
                rescore_every=config.rescore or 1,
                on_step=on_step,
                **widths,
            )

        return _judged(job, scores, greedy)

    if curves is None:
        raise ScoreError(f"search: {job.search} begins with error curves, and there are none")
    start = curve_plan(job.groups, curves, job.costs, job.budgets, order=scores, **widths)
    if job.search == "curves":
        return start, []

    def refine(evaluate: Evaluate, on_step: Callable[[Step], None], _: Journal) -> PruningPlan:
        found = (job.groups, curves, job.costs, job.budgets, evaluate, start)
        return refine_plan(*found, max_evaluations=config.evaluations, order=scores, on_step=on_step, **widths)

    return _judged(job, curves, refine)


def _begin(job: Job, scores: ScoreTable, curves: ScoreTable, share: str) -> PruningPlan:
    """Return the curves' plan at this share of each cost, or at its budget where that is larger."""
    config, larger = job.config.plan, {}
    for cost in job.costs:
        dense = cost({})
        at_most = allowed_cost(job.budgets[cost.name], dense, unit=cost.unit)
        larger[cost.name] = max(allowed_cost(share, dense), at_most)
    widths = {"round_to": config.round_to, "min_keep": config.min_keep}
    return curve_plan(job.groups, curves, job.costs, larger, order=scores, **widths)


def _rescoring(job: Job) -> tuple[str, Callable[[Kept], ScoreTable]]:
    """Return the criterion, and the scores by it of the network as cut so far, on the images that were scored first."""
    score = job.config.score

    def anew(network: nn.Module, groups: Mapping[str, ChannelGroup]) -> ScoreTable:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SaturationWarning)  # said of the dense network
            return scores_by_name(
                network,
                job.data.calibration,
                score.criterion,
                options=score.options_of(job.config.seed),
                tap=score.tap,
                samples=score.samples,
                groups=groups,
            )

    return f"{score.criterion} of the cut network", cut_scores(job.model, job.groups, anew)


def _judged(job: Job, scores: ScoreTable, find: Find) -> tuple[PruningPlan, list[dict[str, Any]]]:
    """Search by evaluation, with a journal in the folder of the run, from which a search that was stopped goes on."""
    with placed(job.config.device, job.model):
        return _judged_in_place(job, scores, find)


def _judged_in_place(job: Job, scores: ScoreTable, find: Find) -> tuple[PruningPlan, list[dict[str, Any]]]:
    config = job.config.plan
    with job.progress.waiting("preparing what the candidates have in common"):
        seed_everything(job.config.seed)  # a trial of NNI draws the same images, whatever was drawn before
        judge = judge_of(job.config, job.search, model=job.model, groups=job.groups, data=job.data)
    evaluate: Evaluate = judge.evaluate
    if job.hooks.in_trials is not None:
        evaluate = job.hooks.in_trials(evaluate, identity=judge.name)
    steps: list[Step] = []
    made, most = 0, config.evaluations if job.search == "refine" else config.generations + 1
    with (
        Journal.open(job.workspace.path(job.journal), judge.identity) as journal,
        job.progress.task(WAYS[job.search]) as advance,
    ):
        if journal.evaluations:
            job.progress.say(
                f"the journal of the search holds {journal.evaluations:,} evaluations: going on from there"
            )

        def tell() -> None:
            nonlocal made
            made += 1
            advance(*(_way(job, steps) if job.search == "greedy" else (made, most)))

        def decided(step: Step) -> None:
            journal.decided(step)
            steps.append(step)
            job.hooks.on_step(step)

        journal.scores(job.config.score.criterion, lambda: scores)
        plan = find(journal.remembering(evaluate, on_worth=tell), decided, journal)
        journal.finished(plan)
    return plan, [_plain(step) for step in steps]


def _plain(step: Step) -> dict[str, Any]:
    """Return a step as plain data: the groups whose widths it changed, and those widths."""
    facts = asdict(step)
    widths = facts.pop("widths", None) or {facts.pop("group"): facts.pop("width")}
    return {"group": ", ".join(widths), "width": ", ".join(map(str, widths.values())), **facts}


def _way(job: Job, steps: Sequence[Step]) -> tuple[int, int]:
    """Return how many percent of what must be freed the last step has left behind, of the cost that lags most."""
    if not steps:
        return 0, 100
    after = {job.costs[0].name: steps[-1].cost, **steps[-1].further}
    shares = []
    for cost in job.costs:
        dense = cost({})
        to_free = dense - allowed_cost(job.budgets[cost.name], dense, unit=cost.unit)
        if to_free > 0:
            shares.append((dense - after[cost.name]) / to_free)
    return min(int(100 * min(shares)), 99), 100
