"""What a candidate of a search is worth, literally: one masked network, one pass over all images."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from secateur.batches import Batches, opened, unpack
from secateur.channel_graph.masks import masked
from secateur.distributed import Across, jointly, local
from secateur.errors import DataError
from secateur.evaluation.accuracy import accuracy
from secateur.modes import device_of
from secateur.records import ChannelGroup


class MaskedAccuracy:
    """The worth of a candidate of a search: its accuracy with the channels masked that it would remove.

    A private copy of the network is masked, evaluated and restored, so no candidate needs surgery or a new trace. In
    eval mode this is the accuracy that the pruned network has before any recovery.

    Args:
        model: the dense network; copied once, never touched.
        groups: its channel groups by name.
        batches: yields `(inputs, labels)`; read once and held in memory, on the device of the model.
        across: the processes that share the images, see `accuracy`. All run the same search, each over its own share,
            and value each candidate alike; None for this process alone.

    Raises:
        DataError: no images, or batches that `accuracy` refuses; the latter when called.
        ProcessError, ConfigError: those of `accuracy` across processes; the former also when called.

    Cost: memory of the batches and of one network; each call one forward pass over the batches.

    Example:
        >>> import torch
        >>> from secateur.records import ChannelGroup, Member
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        >>> for layer in net:
        ...     _ = nn.init.eye_(layer.weight)
        >>> own = ((0,), (1,))
        >>> group = ChannelGroup("0", 2, (Member("0", "producer", own), Member("1", "consumer", own)))
        >>> worth = MaskedAccuracy(net, {"0": group}, [(torch.eye(2), torch.tensor([0, 1]))])
        >>> worth({}), worth({"0": (0,)})
        (1.0, 0.5)
    """

    def __init__(
        self, model: nn.Module, groups: Mapping[str, ChannelGroup], batches: Batches, *, across: Across = None
    ) -> None:
        self._model = copy.deepcopy(local(model)).eval()
        self._groups = dict(groups)
        self._batches: list[tuple[Tensor, Tensor | None]] = []
        self._across = across
        if not any(jointly(lambda: self._hold(batches), across, what="the images to evaluate on", network=self._model)):
            raise DataError("there are no images to evaluate on: the batches are empty")

    def _hold(self, batches: Batches) -> int:
        """Hold the batches of this process, and return how many they are."""
        device = device_of(self._model)
        for batch in opened(batches):
            inputs, labels = unpack(batch)
            self._batches.append((inputs.to(device), None if labels is None else labels.to(device)))
        return len(self._batches)

    def __call__(self, kept: Mapping[str, tuple[int, ...]]) -> float:
        """Return the accuracy in [0, 1] with only the channels `kept[g]` of group g, and all of absent groups.

        Raises:
            PlanError: an unknown group or channels that it does not have.
            DataError, ProcessError: what `accuracy` raises.
        """
        with masked(self._model, self._groups, kept) as candidate:
            return accuracy(candidate, self._batches, across=self._across)
