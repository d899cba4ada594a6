"""What no masks can be made for is told at once: by the pruner, or by a schedule before its first step of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nni.compression.pruning import AGPPruner
from torch import Tensor, nn

from secateur.criteria import MeanActivation
from secateur.errors import ConfigError, DataError, ScoreError
from secateur_nni import DIPruner, FeatureMapPruner, HRankPruner

HALF = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]
Batches = list[tuple[Tensor, Tensor]]
Make = Callable[..., Any]


def with_linear() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 5))


def test_missing_labels_are_told_by_the_pruner(network: nn.Module, images: Tensor) -> None:
    with pytest.raises(DataError, match="the criterion 'di' reads labels, but the batches hold inputs alone"):
        DIPruner(network, HALF, batches=[images])
    assert "first.weight" in dict(network.named_parameters()), "the network is wrapped"


def test_layers_that_cannot_be_scored_are_named(images: Tensor) -> None:
    pruner = HRankPruner(with_linear(), [{"op_names": ["3"], "sparse_ratio": 0.5}], batches=[images])
    with pytest.raises(ScoreError, match=r"'hrank' cannot score .*3: it scores no such layers.*\['3'\]"):
        pruner.compress()


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"criterion": "hrank"}, ScoreError, r"'hrank' cannot score .*3: it scores no such layers.*\['3'\]"),
        ({"criterion": "di", "tap": "relu"}, ConfigError, "unknown tap 'relu'"),
        ({"criterion": "di", "reduction": "median"}, ScoreError, "unknown reduction 'median'"),
        ({"criterion": "di", "samples": 0}, ConfigError, "samples is 0; it must be a whole number"),
    ],
)
def test_a_schedule_tells_before_it_trains(
    batches: Batches, make_evaluator: Make, given: dict[str, Any], error: type[Exception], told: str
) -> None:
    network = with_linear()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    config_list = [{"op_names": ["3"], "sparse_ratio": 0.5}]
    pruner = FeatureMapPruner(network, config_list, make_evaluator(network), batches=batches, **given)
    scheduled = AGPPruner(pruner, interval_steps=5, total_times=2)
    with pytest.raises(error, match=told):
        scheduled.compress(max_steps=12, max_epochs=None)
    scheduled.unwrap_model()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items()), "it has trained"


class Patient(MeanActivation):
    """Needs more images than the first batch holds."""

    def compute(self, state: Any) -> Tensor:
        scores = super().compute(state)
        if state.values < 12:  # of the head, one an image
            raise DataError("too few images")
        return scores


def test_what_few_images_cannot_tell_is_left_to_all_of_them(
    network: nn.Module, batches: Batches, make_evaluator: Make
) -> None:
    pruner = FeatureMapPruner(network, HALF, make_evaluator(network), batches=batches, criterion=Patient())
    _, masks = AGPPruner(pruner, interval_steps=1, total_times=2).compress(max_steps=3, max_epochs=None)
    assert int(masks["first"]["weight"].flatten(1).any(1).sum()) == 3
