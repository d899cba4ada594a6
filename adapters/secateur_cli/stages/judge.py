"""What judges the candidates of a run's search, here or on another machine, and what tells that it is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from secateur.batches import rebatch
from secateur.evaluation import CandidateWorth
from secateur.journal import identify
from secateur.records import ChannelGroup
from secateur_cli.inputs.data import Data
from secateur_cli.settings.schema import RecoverConfig, RunConfig, Search
from secateur_cli.stages.recovery import MEMORY, calibration_images


@dataclass(frozen=True)
class Judge:
    """The evaluation of a run's candidates.

    Attributes:
        evaluate: what a candidate is worth.
        identity: what makes it the same search, see `secateur.journal.identify`.
    """

    evaluate: CandidateWorth
    identity: Mapping[str, Any]

    @property
    def name(self) -> str:
        """A short hash of the identity."""
        return hashlib.sha256(json.dumps(dict(self.identity), sort_keys=True).encode()).hexdigest()[:16]


def judge_of(
    config: RunConfig, search: Search, *, model: nn.Module, groups: Mapping[str, ChannelGroup], data: Data
) -> Judge:
    """Return what judges the candidates of a run, on its validation images.

    Args:
        config: the run.
        search: which of its searches.
        model: the dense network, trained.
        groups: its channel groups.
        data: the images of the run.
    """
    worth = config.plan.worth
    judged = list(rebatch(data.validation, None, samples=worth.images))
    read = _calibration(config, data)
    settings = config.plan.model_dump(mode="json") | {"search": search, "criterion": config.score.criterion}
    identity = identify(model, groups, [*judged, *read], seed=config.seed, settings=settings)
    evaluate = CandidateWorth(
        model,
        groups,
        judged,
        measure=worth.measure,
        recovery=worth.recovery,
        calibration=read or None,
        samples=sum(len(inputs) for inputs, _ in read) or 1,
        memory=MEMORY,
    )
    return Judge(evaluate, identity)


def _calibration(config: RunConfig, data: Data) -> list[tuple[Tensor, Any]]:
    """Return the images that the recovery of candidates reads: those that `recover` would by the same method."""
    method, settings = config.plan.worth.recovery, config.recover
    if method == "none":
        return []
    if settings.method != method:
        settings = RecoverConfig(method=method)
    samples = calibration_images(settings, data.example)
    return list(rebatch(data.calibration, None, samples=samples))
