"""Accuracy of pruned networks against a setting: the greedy search's step, DI's ridge, how much goes by which
criterion, how much goes by which allocation.

    accuracy-against-delta   [Hou2020]: delta, the least share of the MACs that a step of the greedy search frees
    accuracy-against-rho     [Hou2020]: rho, the ridge of DI, of full feature maps and of their averages
    criteria-over-ratios     [Hou2020], Fig. 1: criteria at the same widths, with the time that scoring takes
    allocations              [Hou2020], Fig. 2: searches at the same MACs, by one criterion

References:
    [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
        arXiv 2005.13796, 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

from secateur.errors import SecateurError
from secateur_cli.figures.bench import Bench, with_search
from secateur_cli.figures.cells import Cell, Planned, measure_cells
from secateur_cli.figures.order import Found, Order
from secateur_cli.settings.plan_schema import Search
from secateur_cli.settings.schema import ScoreConfig
from secateur_cli.stages.preparation import rehearse_plan, rehearse_scores, rehearsed_setting

POOLS = {"full maps": "none", "averages": "gap"}


def accuracy_against_delta(order: Order) -> Found:
    """Measure the accuracy of what the greedy search finds at each step size."""

    def plan(delta: float, stand: Bench) -> Planned:
        settings = with_search(stand.config.plan, "greedy").model_copy(update={"delta": delta})
        found, steps = stand.planned(settings)
        more = {"steps": steps, "evaluations": found.settings["evaluations"]}
        return Planned(found, stand.scored(stand.config.score).table, more)

    rows = measure_cells(order, [Cell("", at, partial(plan, at)) for at in order.at], "greedy searches")
    return Found(rows, {"at": "least share of the dense cost that a step frees"})


def accuracy_against_rho(order: Order) -> Found:
    """Measure the accuracy at uniform widths by DI with each ridge, of full maps and of averages over positions."""
    given = order.config.score
    own = given.options if given.criterion == "di" else {}

    def score(pool: str, rho: float) -> ScoreConfig:
        options = {**own, "pool": POOLS[pool], "rho": rho}
        return ScoreConfig(criterion="di", tap=given.tap, samples=given.samples, options=options)

    cells = [Cell(pool, rho, partial(_uniformly, score(pool, rho))) for pool in order.lines for rho in order.at]
    rows = measure_cells(order, cells, "ridges of DI")
    return Found(rows, {"at": "rho, the ridge of DI, in the unit of a sum of squares over the batch"})


def criteria_over_ratios(order: Order) -> Found:
    """Measure the accuracy at uniform widths by each criterion, and the seconds that its scores take."""
    dropped: dict[str, str] = {}

    def cells(stand: Bench) -> Sequence[Cell]:
        known = [name for name in order.lines if name not in dropped and _is_allowed(name, stand)]
        return [
            Cell(name, share, partial(_uniformly, score_by(order, name), macs=share))
            for name in known
            for share in order.at
        ]

    def _is_allowed(name: str, stand: Bench) -> bool:
        try:
            _rehearse(stand, score_by(order, name), macs=min(order.at))
        except SecateurError as error:
            if order.chosen:
                raise
            dropped[name] = str(error)
            order.progress.say(f"left out: {name}: {error}")
        return name not in dropped

    rows = measure_cells(order, cells, "criteria")
    return Found(rows, {"at": "share of the dense MACs that is allowed", "left out": dropped})


def allocations(order: Order) -> Found:
    """Measure the accuracy of what each search finds for each budget of MACs, by the scores of the run."""
    searches = [cast(Search, name) for name in order.lines]

    def cells(stand: Bench) -> Sequence[Cell]:
        _rehearse(stand, order.config.score, macs=min(order.at))
        return [Cell(search, share, partial(_searched, search, share)) for search in searches for share in order.at]

    rows = measure_cells(order, cells, "allocations")
    return Found(rows, {"at": "share of the dense MACs that is allowed"})


def score_by(order: Order, name: str) -> ScoreConfig:
    """Return how to score by a criterion: as the run does where it is the run's, else by its defaults."""
    given = order.config.score
    return given if name == given.criterion else ScoreConfig(criterion=name, tap=given.tap)


def _rehearse(stand: Bench, score: ScoreConfig, *, macs: float) -> None:
    """Refuse scores that the network does not allow, or that so few MACs cannot be reached by."""
    job, plan = stand.job, with_search(stand.config.plan, "uniform", macs=macs)
    config = stand.config.model_copy(update={"score": score, "plan": plan})
    scores = rehearse_scores(config, job.model, job.data.example)
    rehearse_plan(config, "uniform", scores, rehearsed_setting(config, job.model, job.data.example, job.groups, None))


def _uniformly(score: ScoreConfig, stand: Bench, *, macs: float | None = None) -> Planned:
    """Return the plan of uniform widths by some scores; without `macs` to the budget of the run."""
    scored = stand.scored(score)
    plan, _ = stand.planned(with_search(stand.config.plan, "uniform", macs=macs), score=score)
    return Planned(plan, scored.table, {"scoring_seconds": scored.seconds})


def _searched(search: Search, share: float, stand: Bench) -> Planned:
    plan, steps = stand.planned(with_search(stand.config.plan, search, macs=share))
    return Planned(plan, stand.scored(stand.config.score).table, {"steps": steps})
