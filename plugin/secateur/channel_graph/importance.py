"""Score tables as Torch-Pruning's `importance` argument."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

from secateur.channel_graph.groups import reaches_outputs, record_group
from secateur.errors import SecateurWarning
from secateur.records import Reduction, ScoreTable


class ScoreImportance(tp.importance.Importance):
    """Ranks the channels of Torch-Pruning's groups by a score table that `collect` makes from the network.

    The table is made at the first call and again whenever the network is another one or has another structure, as after
    each of Torch-Pruning's iterative steps: scores are never indexed with the channels of a structure that they were
    not made for. Training between two steps changes no structure; `reset` asks for fresh scores then.

    Formula: the score of channel c of a group is `group_reduction` over the group's producers (convolutions,
    depthwise ones included, and linear layers) of their score of c.

    Args:
        collect: network -> ScoreTable.
        group_reduction: "sum" (the DI paper's rule for shortcuts), "mean" or "max".
        prune_outputs: whether the network's own outputs may be pruned. They stay by default, whether or not their layer
            is among Torch-Pruning's `ignored_layers`: a classifier must not lose classes.

    Errors: what `collect` raises. A group in which no layer has scores is left dense, with a warning that names it.

    Cost: one `collect` per structure.
    """

    def __init__(
        self,
        collect: Callable[[nn.Module], ScoreTable],
        *,
        group_reduction: Reduction = "sum",
        prune_outputs: bool = False,
    ) -> None:
        self.collect = collect
        self.group_reduction = group_reduction
        self.prune_outputs = prune_outputs
        self.reset()

    def reset(self) -> None:
        """Forget the scores; the next call collects them anew."""
        self._table: ScoreTable | None = None
        self._network: weakref.ref[nn.Module] | None = None
        self._structure: tuple[Any, ...] = ()

    def scores(self, model: nn.Module) -> ScoreTable:
        """Return the scores of `model`, collected now unless they were collected for this structure before."""
        structure = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
        same = self._network is not None and self._network() is model and self._structure == structure
        if self._table is None or not same:
            self._table = self.collect(model)
            self._network, self._structure = weakref.ref(model), structure
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
                f"the group of {record.name!r} is left dense: none of its layers has a feature map that was scored",
                SecateurWarning,
                stacklevel=2,
            )
            return None
        return record.combine(table, reduction=self.group_reduction)
