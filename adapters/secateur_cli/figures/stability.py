"""How stable scores are against the images that they are read from: HRank's ranks, batch by batch; DI's, image count
by image count.

    rank-stability   the average rank of each channel over each batch of images alone (HRank, Fig. 2), and how well the
                     order of the channels in one batch agrees with that by all other batches
    di-stability     the scores by the first n batches against those by all of them, and against those by as many other
                     images

A set of scores always agrees with the larger one that it is a part of; only other images show what chance leaves.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from secateur.batches import rebatch
from secateur.criteria import DI, HRank, criterion
from secateur.errors import DataError, SaturationWarning
from secateur.feature_maps import collect_scores
from secateur.modes import placed
from secateur.protocols import Criterion
from secateur.records import ScoreTable
from secateur_cli.figures.agreement import rank_correlation, relative_change
from secateur_cli.figures.bench import Bench, bench
from secateur_cli.figures.order import Found, Order, Row
from secateur_cli.inputs.data import Data, Split
from secateur_cli.inputs.epochs import Epochs, seed_everything

LEAST_BATCHES, SMOKE_BATCHES = 2, 4


def rank_stability(order: Order) -> Found:
    """Measure the average rank of every channel over each batch of images.

    A row for each channel: layer, channel, the average rank in each batch (`batch 1`, ...) and over all. The agreement
    of a layer is the median, least and largest of the rank correlations of one batch with all others together.
    """
    wanted, smaller = order.config.data.batch_size, "data.batch_size"
    batches = partial(_batches, images=order.images, size=wanted, smaller=smaller, smoke=order.smoke)
    with bench(order, order.seeds[0], check=batches) as stand:
        size, count = batches(stand.job.data)
        tables = _by_batch(stand, HRank(), size=size, count=count, order=order)
    layers = {layer: torch.stack([table[layer] for table in tables]) for layer in tables[0]}
    rows: list[Row] = []
    for layer, ranks in layers.items():
        for channel, own in enumerate(ranks.T.tolist()):
            by_batch = {f"batch {number}": rank for number, rank in enumerate(own, 1)}
            rows.append({"layer": layer, "channel": channel, **by_batch, "all": sum(own) / len(own)})
    note = (
        f"{len(tables)} batches of {size} images each; the correlation is Spearman's, of one batch with all others "
        "together: median, least and largest over the batches"
    )
    agreement = [_agreement(layer, ranks) for layer, ranks in layers.items()]
    return Found(rows, {"images": size * len(tables), "batches": len(tables), "layers": agreement, "note": note})


def _agreement(layer: str, ranks: Tensor) -> dict[str, Any]:
    """Return the rank correlations of each batch with the others, of ranks (batches, C); None where all are equal."""
    others = [torch.cat([ranks[:batch], ranks[batch + 1 :]]).sum(0) for batch in range(len(ranks))]
    found = [rank_correlation(own, rest) for own, rest in zip(ranks, others, strict=True)]
    known = sorted(value for value in found if value is not None)
    ends = (known[0], known[-1]) if known else (None, None)
    return {
        "layer": layer,
        "channels": ranks.shape[1],
        "largest": float(ranks.max()),
        "median": float(torch.tensor(known, dtype=torch.float64).quantile(0.5)) if known else None,
        "least": ends[0],
        "most": ends[1],
    }


def di_stability(order: Order) -> Found:
    """Measure how scores by DI move with the number of images that they are summed over.

    A row for each layer and number of images: the rank correlation and the relative change of the scores, for each
    image, against those by all images, and against those by as many others.
    """
    settings = order.config.score
    rule = criterion("di", **settings.options) if settings.criterion == "di" else DI()
    wanted = int(rule.batch_size or order.config.data.batch_size)
    smaller = "score.options.batch_size of di" if rule.batch_size else "data.batch_size"
    batches = partial(_batches, images=2 * order.images, size=wanted, smaller=smaller, smoke=order.smoke)
    with bench(order, order.seeds[0], check=batches) as stand:
        size, both = batches(stand.job.data)
        count = both // 2
        tables = _by_batch(stand, rule, size=size, count=2 * count, order=order)
    rows: list[Row] = []
    for layer in tables[0]:
        scores = torch.stack([table[layer] for table in tables])
        whole, others = scores[:count].mean(0), scores[count:].mean(0)
        for number in range(1, count + 1):
            part = scores[:number].mean(0)
            rows.append(
                {
                    "layer": layer,
                    "images": size * number,
                    "correlation": rank_correlation(part, whole),
                    "change": relative_change(part, whole),
                    "correlation with others": rank_correlation(part, others),
                    "change from others": relative_change(part, others),
                }
            )
    note = (
        f"scores by batches of {size} images, per batch; all: the {size * count} images that the smaller numbers are "
        f"part of; others: {size * count} images that they are not part of; middle 80% of the layers"
    )
    return Found(rows, {"images": size * count, "batch_size": size, "criterion": repr(rule), "note": note})


def _batches(data: Data, *, images: int, size: int, smaller: str, smoke: bool) -> tuple[int, int]:
    """Return the size of a batch, and how many whole ones at most so many images make.

    Args:
        data: what is read.
        images: at most so many of it.
        size: of a batch.
        smaller: the key that makes the batches smaller.
        smoke: whether batches that are too large are of a quarter of the images instead.

    Raises:
        DataError: fewer than two batches.
    """
    have = _count(data.calibration, most=max(images, LEAST_BATCHES * size))
    read = min(images, have)
    if smoke and read // size < LEAST_BATCHES:
        size = max(1, read // SMOKE_BATCHES)
    count = read // size
    if count < LEAST_BATCHES:
        enough = "ask for more with --images, or " if have >= LEAST_BATCHES * size else ""
        made = "1 batch" if count == 1 else f"{count} batches"
        raise DataError(
            f"{read} images make {made} of {size}; at least {LEAST_BATCHES} are needed: {enough}make the batches "
            f"smaller ({smaller})"
        )
    return size, count


def _count(split: Split, *, most: int) -> int:
    """Return how many images a split has, counted up to about `most` where that is not known."""
    if isinstance(split, Epochs):
        return len(split.images)
    count = 0
    for inputs, _ in split:
        count += len(inputs)
        if count >= most:
            break
    return count


def _by_batch(stand: Bench, rule: Criterion[Any], *, size: int, count: int, order: Order) -> Sequence[ScoreTable]:
    """Return the scores by each of the first `count` batches alone."""
    seed_everything(stand.job.config.seed)
    batches = rebatch(stand.job.data.calibration, size, samples=size * count)
    watched = order.progress.track(batches, f"scoring batches by {rule.name}", total=count)

    def score(batch: Any) -> dict[str, Any]:
        return collect_scores(stand.job.model, [batch], rule, tap=order.config.score.tap, samples=size).to_json()

    with warnings.catch_warnings(), placed(order.config.device, stand.job.model):
        warnings.simplefilter("ignore", SaturationWarning)  # of single batches, whose ties the table shows
        return [
            ScoreTable.from_json(stand.keeper.point(f"batch {number} of {size} images", partial(score, batch)))
            for number, batch in enumerate(watched, 1)
        ]
