"""Switches of torch are put back as they were, whichever names they were set by."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

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
from secateur.evaluation.exactness import told_to_round
from secateur.modes import reading, rounds_on_processors, tf32_allowed, without_tf32
from secateur.quantization import calibrated, uniform_bits
from secateur.records import PruningPlan

cudnn: Any = torch.backends.cudnn
matmul: Any = torch.backends.cuda.matmul


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = (cudnn.allow_tf32, matmul.allow_tf32)
    yield
    cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.mark.parametrize("convolutions", [True, False])
@pytest.mark.parametrize("products", [True, False])
def test_tf32_is_off_within_and_as_before_after(convolutions: bool, products: bool) -> None:
    cudnn.allow_tf32, matmul.allow_tf32 = convolutions, products
    assert tf32_allowed() == (convolutions or products)
    with pytest.raises(ZeroDivisionError), without_tf32():
        assert tf32_allowed() or 1 / 0
    with without_tf32():
        assert not tf32_allowed()
    assert (cudnn.allow_tf32, matmul.allow_tf32) == (convolutions, products)


@pytest.mark.skipif(not hasattr(cudnn, "conv"), reason="torch before 2.9 has one name for each switch")
def test_tf32_switched_by_its_newer_name_is_noticed() -> None:
    """Reading the older name is an error then."""
    cudnn.allow_tf32, matmul.allow_tf32, before = False, False, cudnn.conv.fp32_precision
    try:
        cudnn.conv.fp32_precision = "tf32"
        with pytest.raises(RuntimeError):
            assert cudnn.allow_tf32
        assert tf32_allowed()
        cudnn.conv.fp32_precision = "ieee"
        assert not tf32_allowed()
    finally:
        cudnn.conv.fp32_precision = before


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "conv"), reason="torch before 2.9 cannot switch it")
def test_processors_keep_all_of_float32_too() -> None:
    conv: Any = torch.backends.mkldnn.conv
    before = conv.fp32_precision
    try:
        conv.fp32_precision = "bf16"
        assert rounds_on_processors()
        assert told_to_round(torch.device("cpu"))
        assert not told_to_round(torch.device("cuda"))
        with without_tf32():
            assert not rounds_on_processors()
        assert conv.fp32_precision == "bf16"
    finally:
        conv.fp32_precision = before
    assert not rounds_on_processors()


def test_networks_may_use_the_older_names_meanwhile() -> None:
    with without_tf32(), cudnn.flags(enabled=True, allow_tf32=False):
        assert not tf32_allowed()


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


@pytest.mark.parametrize("level", ["highest", "high", "medium"])
def test_the_precision_of_products_comes_back_as_it_was(level: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(level)
        assert tf32_allowed() or level == "highest"
        with without_tf32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == level
    finally:
        torch.set_float32_matmul_precision(before)
