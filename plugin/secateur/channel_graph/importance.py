"""Score tables as Torch-Pruning's `importance` argument."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from secateur.channel_graph.hosts import channels_of
from secateur.channel_graph.traced_groups import reaches_outputs, record_group
from secateur.errors import SecateurWarning, StaleScoresError
from secateur.fingerprints import structure_of
from secateur.records import Reduction, ScoreTable


class ScoreImportance(tp.importance.Importance):
    """Ranks the channels of Torch-Pruning's groups by a score table, or by one that a function makes of the network.

    Given a function, the table is made at the first call and again whenever the network is another one or has another
    structure, as after each of Torch-Pruning's iterative steps. Given a table, another structure is an error. Either
    way scores are never indexed with the channels of a structure that they were not made for. Training between two
    steps changes no structure; `reset` asks for fresh scores then.

    Formula: the score of channel c of a group is `group_reduction` over the group's producers (convolutions,
    depthwise ones included, and linear layers) of their score of c. Equal scores are then told apart by at most
    1e-8 of their size, by their place within the group: the lower index falls first, and equal scores in several
    groups fall evenly. Under global pruning Torch-Pruning would otherwise remove every channel that ties at the
    threshold, or none.

    Args:
        scores: a ScoreTable, or a function network -> ScoreTable.
        group_reduction: "sum" (the DI paper's rule for shortcuts), "mean" or "max".
        prune_outputs: whether the network's own outputs may be pruned. They stay by default, whether or not their layer
            is among Torch-Pruning's `ignored_layers`: a classifier must not lose classes.

    Raises (when called):
        StaleScoresError: the given table was made for another structure of the network.

    Errors of the function are passed on. A group in which no layer has scores is left dense, with a warning that
    names it.

    Cost: the function once per structure.
    """

    def __init__(
        self,
        scores: ScoreTable | Callable[[nn.Module], ScoreTable],
        *,
        group_reduction: Reduction = "sum",
        prune_outputs: bool = False,
    ) -> None:
        self.source = scores
        self.group_reduction = group_reduction
        self.prune_outputs = prune_outputs
        self.reset()

    def reset(self) -> None:
        """Forget the scores; the next call collects them anew, or takes the given table for the network it meets."""
        self._table: ScoreTable | None = None
        self._network: weakref.ref[nn.Module] | None = None
        self._structure = ""
        self._ranks: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes along: not the scores, which the next call makes for the network it meets."""
        return vars(self) | {"_table": None, "_network": None, "_structure": "", "_ranks": {}}

    def scores(self, model: nn.Module) -> ScoreTable:
        """Return the scores of `model`, collected now unless they were collected for this structure before."""
        structure = structure_of(model)
        same = self._network is not None and self._network() is model and self._structure == structure
        if self._table is not None and same:
            return self._table
        if isinstance(self.source, ScoreTable):
            if self._table is not None and self._structure != structure:
                raise StaleScoresError(
                    "the score table was made for another structure of the network: after a pruning step give a new "
                    "one, or a function that makes it"
                )
            _check_fits(self.source, model, structure)
            self._table = self.source
        else:
            self._table = self.source(model)
        self._network, self._structure, self._ranks = weakref.ref(model), structure, {}
        return self._table

    def __call__(self, group: Any) -> Tensor | None:
        """Return one score per index of the group's root, (len(group[0].idxs),), larger = keep.

        None, which makes Torch-Pruning pass the group by, for the network's outputs and where no layer has scores.
        """
        if not self.prune_outputs and reaches_outputs(group):
            return None
        table = self.scores(group._DG.model)
        record = record_group(group, blocks=1)
        if not any(member.layer in table for member in record.producers):
            warnings.warn(
                f"the group of {record.name!r} is left dense: none of its layers has scores",
                SecateurWarning,
                stacklevel=2,
            )
            return None
        rank = self._ranks.setdefault(record.name, len(self._ranks))
        return _told_apart(record.combine(table, reduction=self.group_reduction), rank)


def _told_apart(scores: Tensor, rank: int) -> Tensor:
    """Add to each score much less than a difference that matters, so that none are equal in all of the groups.

    Formula: s_c + (2^10 * floor(2^14 c / C) + rank) * (2^-52 |s_c| + 1e-300), for groups of rank 0..1023.
    """
    places = torch.arange(len(scores)) * 2**14 // len(scores) * 2**10 + rank % 2**10
    return scores + places * (scores.abs() * 2.0**-52 + 1e-300)


def _check_fits(table: ScoreTable, model: nn.Module, structure: str) -> None:
    if table.settings.get("structure", structure) != structure:
        raise StaleScoresError("the score table was made for another network, or for another structure of this one")
    for layer, scores in table.items():
        try:
            size = channels_of(model.get_submodule(layer), inputs=False)
        except AttributeError:
            size = None
        if size != len(scores):
            raise StaleScoresError(
                f"the score table has {len(scores)} scores for layer {layer!r}, which has {size or 'no'} channels: "
                "it was made for another network, or for another structure of this one"
            )
