"""Accuracy by which channels of the same widths go, and by how many filters training leaves alone.

    selection-variants   the lowest scores (the method), both ends, the middle, any, the highest ([Lin2020], [Hou2020])
    frozen-shares        shares of the filters with the highest scores that fine-tuning leaves as they are ([Lin2020])

References:
    [Lin2020] M. Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020, section 4.
    [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
        arXiv 2005.13796, 2020.
"""

from __future__ import annotations

from functools import partial
from typing import cast

from secateur.errors import ConfigError
from secateur.search import uniform_plan
from secateur.search.selection import Variant
from secateur_cli.figures.bench import Bench, with_search
from secateur_cli.figures.cells import Cell, Planned, measure_cells
from secateur_cli.figures.order import Found, Order
from secateur_cli.workspace import LEARNT


def selection_variants(order: Order) -> Found:
    """Measure the accuracy at uniform widths for the budget of the run, by each choice of channels.

    Raises:
        ConfigError: the budget is one of latency, which is measured and not counted.
    """
    if order.config.plan.budget.latency is not None:
        raise ConfigError(
            "plan.budget.latency: the figure selection-variants needs a budget of a cost that is counted, such as "
            "{macs: 50%}"
        )
    cells = [Cell(name, None, partial(_chosen, cast(Variant, name))) for name in order.lines]
    return Found(measure_cells(order, cells, "selections"), {"at": "nothing: the widths are the same everywhere"})


def _chosen(variant: Variant, stand: Bench) -> Planned:
    scores = stand.scored(stand.config.score).table
    with stand.cell(plan=with_search(stand.config.plan, "uniform")) as job:
        widths = job.config.plan
        plan = uniform_plan(
            *(job.groups, scores, job.costs, job.budgets),
            round_to=widths.round_to,
            min_keep=widths.min_keep,
            variant=variant,
            seed=job.config.seed,
        )
    return Planned(plan, scores)


def frozen_shares(order: Order) -> Found:
    """Measure the accuracy after fine-tuning with shares of each layer's filters left as they are.

    Raises:
        ConfigError: the run is not fine-tuned or layer by layer, its search trains the network by itself, or it
            sketches the filters.
    """
    if order.config.plan.search[0] in LEARNT:
        raise ConfigError(
            f"plan.search: {order.config.plan.search[0]}: the figure frozen-shares needs a search that goes by scores, "
            "such as uniform"
        )
    if order.config.recover.method == "sketch":
        raise ConfigError(
            "recover: sketch: the figure frozen-shares freezes filters by their scores, and a sketch makes others"
        )
    training = order.config.fine_tune
    if training is None:
        raise ConfigError("fine_tune: null: the figure frozen-shares is about fine-tuning; say how to train")
    if training.layer_by_layer:
        raise ConfigError(
            "fine_tune.layer_by_layer: the figure frozen-shares freezes filters of the pruned network, and a training "
            "layer by layer goes on from the dense one"
        )
    cells = [
        Cell("", share, _by_run, fine_tune=training.model_copy(update={"freeze": share}))
        for share in order.at
    ]  # fmt: skip
    rows = measure_cells(order, cells, "fine-tuning with frozen filters")
    return Found(rows, {"at": "share of the filters of each layer, those of the highest scores, that stay as they are"})


def _by_run(stand: Bench) -> Planned:
    """Return the plan of the first search and variant of the run."""
    settings = stand.config.plan
    plan, _ = stand.planned(settings.for_search(settings.search[0]))
    return Planned(plan, stand.scored(stand.config.score).table)
