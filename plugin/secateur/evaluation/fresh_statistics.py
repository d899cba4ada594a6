"""Batch norm's statistics measured anew for each candidate of a race, behind what it changes.

In front of its first change a candidate is the network that all share, and so are the statistics there. But a batch
norm that runs more than once measures all that it reads together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.errors import DataError
from secateur.evaluation.forks import Forks
from secateur.evaluation.stage import Edit, Stage
from secateur.modes import evaluating, own_copy
from secateur.protocols import Kept
from secateur.records import ChannelGroup

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
State = list[dict[str, Tensor]]


class FreshStatistics:
    """Stages and candidates whose batch norms have seen some images, as `recalibrate_batch_norm` shows them.

    Args:
        model: the dense network; left as it is.
        groups: its channel groups by name.
        images: batches of equal size, of at least two images.
        forks: of the network.

    Cost: for each stage a forward pass over the images, for each candidate one from its first change on, or from the
    first batch norm that runs more than once. Memory: what the candidates of a race need of one batch.
    """

    def __init__(
        self, model: nn.Module, groups: Mapping[str, ChannelGroup], images: Sequence[Tensor], forks: Forks
    ) -> None:
        if len(images[0]) < 2:
            raise DataError(f"batch norm needs batches of at least two images; the first batch holds {len(images[0])}")
        self._model, self._groups, self._images, self._forks = model, groups, images, forks

    def stage(self, kept: Kept) -> Stage:
        """Return the network with the channels `kept`; its statistics are measured in `prepare`."""
        return Stage(self._model, self._groups, kept)

    def prepare(self, stage: Stage, candidates: Sequence[Kept]) -> list[list[Edit]]:
        """Measure the statistics of a stage, in place, and return what each candidate changes of them."""
        network, forks = stage.network, self._forks
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        repeated = [name for name, m in network.named_modules() if isinstance(m, _BatchNorm) and name in forks.repeated]
        entries = [forks.first([*stage.layers(kept), *repeated]) for kept in candidates]
        blank = [{name: torch.zeros_like(norm.get_buffer(name)) for name in STATISTICS} for norm in norms]
        shared, own = blank, [blank] * len(candidates)
        with evaluating(network), torch.no_grad():
            for norm in norms:
                norm.training = True
                norm.momentum = None  # torch's sign for the mean over all batches
            for batch in self._images:
                _put(norms, shared)
                with forks.keeping(network, entries) as begun:
                    network(own_copy(network, batch))
                shared = _taken(norms)
                for number, (kept, entry) in enumerate(zip(candidates, entries, strict=True)):
                    _put(norms, own[number])
                    with stage.candidate(kept), forks.resuming(network, entry, begun):
                        network(own_copy(network, batch))
                    own[number] = _taken(norms)
        _put(norms, shared)
        return [
            [
                (norm.get_buffer(name), values[name])
                for norm, values in zip(norms, state, strict=True)
                if values["num_batches_tracked"]
                for name in STATISTICS[:2]
            ]
            for state in own
        ]


def _taken(norms: Sequence[_BatchNorm]) -> State:
    return [{name: norm.get_buffer(name).clone() for name in STATISTICS} for norm in norms]


def _put(norms: Sequence[_BatchNorm], state: State) -> None:
    for norm, values in zip(norms, state, strict=True):
        for name in STATISTICS:
            norm.get_buffer(name).copy_(values[name])
