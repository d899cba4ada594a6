"""Criteria of others: what is none is told what it lacks, and scores that are not one a channel are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.criteria import MeanActivation
from secateur.errors import ConfigError, ScoreError
from secateur.feature_maps import collect_scores


class Initialised:
    """Three functions, and none of the attributes."""

    def init(self, channels: int) -> Tensor:
        return torch.zeros(channels)

    update = compute = init


class OneTooFew(MeanActivation):
    def compute(self, state: Any) -> Tensor:
        return super().compute(state)[1:]


class Lists(MeanActivation):
    def compute(self, state: Any) -> Any:
        return super().compute(state).tolist()


@pytest.mark.parametrize(
    ("criterion", "error", "message"),
    [
        (Initialised(), ConfigError, "Initialised is no criterion over feature maps: it has no accepts_vectors, batch"),
        (OneTooFew, ConfigError, r"OneTooFew is a class; a criterion is an object of it: OneTooFew\(\)"),
        (OneTooFew(), ScoreError, r"must give layer '0' one score a channel.*\(2,\); it gives.*shape \(1,\)"),
        (Lists(), ScoreError, "it gives list"),
    ],
)
def test_what_is_no_criterion_is_told_what_it_lacks(criterion: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        collect_scores(nn.Sequential(nn.Conv2d(1, 2, 1)), [torch.ones(2, 1, 4, 4)], criterion)
