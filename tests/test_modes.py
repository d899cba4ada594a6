"""Networks are run as they were found, and what they cannot read is named."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur import (
    CandidateWorth,
    MacsCost,
    MaskedAccuracy,
    accuracy,
    apply_plan,
    autoprune,
    channel_groups,
    collect_scores,
    compensate,
    fine_tune,
    gradient_scores,
    recalibrate_batch_norm,
    reconstruct,
    reconstruction_scores,
)
from secateur.errors import DataError, NetworkError
from secateur.modes import reading
from secateur.quantization import calibrated, uniform_bits
from secateur.records import PruningPlan


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]  # a module's call


class Two(Plain):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]  # networks are not substituted
        return super().forward(x) * scale


IMAGES = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4) % 2


@pytest.mark.parametrize(
    ("kind", "images", "message"),
    [
        (Two, IMAGES, r"float32: images are given to it as one tensor, and its forward takes \(x: .*scale"),
        (Plain, IMAGES.double(), "float64: its weights are float32; let the batches hold that"),
        (Plain, IMAGES.to(torch.uint8), "uint8: its weights are float32"),
    ],
)
def test_inputs_that_a_network_cannot_take_are_named_by_all_that_run_it(
    kind: type[Plain], images: Tensor, message: str
) -> None:
    network = kind().eval()
    groups = channel_groups(network, (IMAGES, torch.ones(4, 1)))
    plan = PruningPlan(tuple(groups.values()), {"first": (0, 2)}, "macs", 1.0, 0.5, 0.5)
    pruned, batches = apply_plan(network, plan), [(images, LABELS)]
    for run in (
        lambda: collect_scores(network, batches, "variance"),
        lambda: gradient_scores(network, batches),
        lambda: reconstruction_scores(network, groups, batches),
        lambda: compensate(network, pruned, plan, batches),
        lambda: reconstruct(network, plan, batches),
        lambda: recalibrate_batch_norm(pruned, batches),
        lambda: accuracy(network, batches),
        lambda: MaskedAccuracy(network, groups, batches)({}),
        lambda: CandidateWorth(network, groups, batches),
        lambda: fine_tune(network, batches, epochs=1),
        lambda: calibrated(network, uniform_bits(network, 8, ends=None), batches),
    ):
        with pytest.raises(NetworkError, match=f"does not run on a batch of shape .*{message}"):
            run()


def test_a_network_made_in_inference_mode_is_read_and_refused_by_what_would_change_it() -> None:
    network, batches = Plain().eval(), [(IMAGES, LABELS)]
    groups = channel_groups(network, IMAGES)
    plan = PruningPlan(tuple(groups.values()), {"first": (0, 2)}, "macs", 1.0, 0.5, 0.5)
    with torch.inference_mode():
        frozen = copy.deepcopy(network)
        pruned = copy.deepcopy(apply_plan(network, plan))
    table = reconstruction_scores(frozen, groups, batches)
    assert torch.equal(table["first"], reconstruction_scores(network, groups, batches)["first"])
    assert [fit.layer for fit in compensate(frozen, apply_plan(frozen, plan), plan, batches).layers] == ["last"]
    assert reconstruct(frozen, plan, batches).model.first.out_channels == 2
    for run in (
        lambda: gradient_scores(frozen, batches),
        lambda: recalibrate_batch_norm(frozen, batches),
        lambda: fine_tune(frozen, batches, epochs=1),
        lambda: compensate(frozen, pruned, plan, batches),
    ):
        with pytest.raises(NetworkError, match=r"'first.weight' was made under torch.inference_mode.*copy.deepcopy"):
            run()
    with torch.inference_mode(), pytest.raises(NetworkError, match="made under torch"):
        gradient_scores(frozen, batches)


def test_images_of_two_sizes_are_named_by_all_that_run_a_network_which_takes_one() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).eval()
    groups = channel_groups(network, IMAGES)
    batches = [(IMAGES, LABELS), (torch.rand(4, 1, 7, 6), LABELS)]
    for run in (
        lambda: accuracy(network, batches),
        lambda: MaskedAccuracy(network, groups, batches)({}),
        lambda: fine_tune(network, batches, epochs=1),
        lambda: fine_tune(network, batches[:1], batches, epochs=1),
        lambda: autoprune(network, groups, MacsCost(network, IMAGES, groups), batches, epochs=1),
    ):
        with pytest.raises(
            DataError, match=r"differ in size: \(1, 6, 6\) and then \(1, 7, 6\), on which .*RuntimeError"
        ):
            run()


def test_images_of_two_sizes_may_train_a_network_that_takes_both_but_no_gate() -> None:
    network, batches = Plain(), [(IMAGES, LABELS), (torch.rand(4, 1, 16, 16), LABELS)]
    assert fine_tune(network, batches, batches, epochs=1).epochs[0].accuracy is not None
    twice = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    groups = channel_groups(twice, IMAGES)
    with pytest.raises(DataError, match=r"differ in size: \(1, 6, 6\) and then \(1, 16, 16\)"):
        autoprune(twice, groups, MacsCost(twice, IMAGES, groups), batches, epochs=1)


def test_other_errors_of_a_network_come_as_they_are() -> None:
    network = nn.Linear(3, 2)
    with pytest.raises(RuntimeError, match="cannot be multiplied"), reading(network, torch.ones(2, 5)):
        network(torch.ones(2, 5))
