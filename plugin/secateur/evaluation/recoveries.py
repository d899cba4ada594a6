"""What is done to a candidate before it is judged: nothing, fresh batch statistics, or new weights for what stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

from torch import nn

from secateur.batches import Batches, hold, rebatch
from secateur.errors import ConfigError
from secateur.evaluation.forks import Forks
from secateur.evaluation.fresh_statistics import FreshStatistics
from secateur.evaluation.nested_weights import NestedWeights
from secateur.evaluation.stage import Edit, Stage
from secateur.modes import device_of
from secateur.protocols import Kept
from secateur.records import ChannelGroup

Recovery = Literal["none", "recalibrate", "compensate"]


class Mend(Protocol):
    """A recovery: makes the stage that the candidates of a race share, and says what each changes beside its mask."""

    def stage(self, kept: Kept) -> Stage: ...
    def prepare(self, stage: Stage, candidates: Sequence[Kept], /) -> list[list[Edit]]: ...


class Nothing:
    """No recovery: a candidate is its mask."""

    def __init__(self, model: nn.Module, groups: Mapping[str, ChannelGroup]) -> None:
        self._model, self._groups = model, groups

    def stage(self, kept: Kept) -> Stage:
        """Return the network with the channels `kept`."""
        return Stage(self._model, self._groups, kept)

    def prepare(self, _stage: Stage, candidates: Sequence[Kept]) -> list[list[Edit]]:
        """Return no changes."""
        return [[] for _ in candidates]


def mend_by(
    recovery: Recovery,
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    forks: Forks,
    calibration: Batches | None,
    *,
    samples: int,
    rows: int,
    ridge: float,
    memory: int,
) -> tuple[Mend, int]:
    """Return a recovery, and how many images it reads.

    Raises:
        ConfigError: an unknown recovery; images that it needs and does not have, or has and does not need.
        DataError: there are no images, or more than fit into half of the memory.
    """
    if recovery not in get_args(Recovery):
        raise ConfigError(f"unknown recovery {recovery!r}; allowed: {', '.join(get_args(Recovery))}")
    if recovery == "none":
        if calibration is not None:
            raise ConfigError('recovery "none" reads no calibration images: leave them out, or choose another')
        return Nothing(model, groups), 0
    if calibration is None:
        raise ConfigError(f"recovery {recovery!r} needs calibration images: training images, without labels")
    images, _ = hold(calibration, samples=samples, memory=memory)
    if recovery == "recalibrate":
        images = [batch for batch, _ in rebatch(images, min(len(images[0]), samples))]
    images = [batch.to(device_of(model)) for batch in images]
    count = sum(map(len, images))
    if recovery == "recalibrate":
        return FreshStatistics(model, groups, images, forks), count
    return NestedWeights(model, groups, images, rows=rows, ridge=ridge, memory=memory), count
