"""Networks whose channels cannot be grouped: what they are told, before anything is walked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from networks_for_tests import Residual
from secateur.channel_graph import channel_groups
from secateur.errors import NetworkError

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_network_with_nothing_to_prune_says_why() -> None:
    with pytest.raises(NetworkError, match=r"nothing .* can be pruned \(1: its channels are the network's outputs\)"):
        channel_groups(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), IMAGES)
    with pytest.raises(NetworkError, match="no convolution or linear layer"):
        channel_groups(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), IMAGES)


def test_a_network_that_does_not_run_on_the_example_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"does not run on the example inputs.*to have 3 channels, but got 5"):
        channel_groups(Residual(), torch.randn(2, 5, 16, 16))


class Detector(nn.Sequential):
    """Returns a mapping for each image, as torchvision's detectors do."""

    def forward(self, x: torch.Tensor) -> Any:
        return [{"boxes": image.flatten(1).T, "scores": image.flatten(1).amax(0)} for image in super().forward(x)]


def test_detections_are_refused_before_anything_is_walked() -> None:
    detector = Detector(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(NetworkError, match=r"^the network returns detections, .* \(boxes, scores\).*its `backbone`"):
        channel_groups(detector, IMAGES)
    assert set(channel_groups(nn.Sequential(*detector), IMAGES)) == {"0"}


def test_parametrized_weights_are_refused() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 2, 1)
    )
    with pytest.raises(NetworkError, match=r"layer '1' are computed by a parametrization.*remove_parametrizations"):
        channel_groups(net, torch.randn(2, 1, 8, 8))


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "computed",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    ],
)
def test_weights_that_a_hook_computes_are_refused(computed: Callable[[nn.Module], nn.Module]) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), computed(nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 2, 1))
    with pytest.raises(NetworkError, match=r"layer '1' are computed each time by a hook.*first remove it"):
        channel_groups(net, torch.randn(2, 1, 8, 8))


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (nn.DataParallel, r"wrapped in DataParallel; give the network inside, `model.module`"),
        (lambda net: torch.compile(net, backend="eager"), "compiled by torch.compile"),
        (torch.jit.script, "is a ScriptModule"),
    ],
)
def test_wrapped_compiled_and_scripted_networks_are_refused(
    wrap: Callable[[nn.Module], nn.Module], message: str
) -> None:
    with pytest.raises(NetworkError, match=message):
        channel_groups(wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))), IMAGES)


class Noisy(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, training=True))


class Endless(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 0.0


class Silent(nn.Sequential):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x)[:0]


class Told(nn.Sequential):
    """Says beside its outputs which of them are positive, and which are chosen: none."""

    def forward(self, x: torch.Tensor) -> Any:
        outputs = super().forward(x)
        return outputs, outputs > 0, outputs[:0]


def test_outputs_may_hold_flags_and_nothing() -> None:
    assert list(channel_groups(Told(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)), IMAGES)) == ["0"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Noisy, "other outputs each time"), (Endless, "NaN or infinite"), (Silent, "returns no number")],
)
def test_networks_whose_outputs_cannot_be_compared_are_refused(kind: type[nn.Module], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        channel_groups(kind(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)), IMAGES)


def test_images_that_are_nan_are_refused_for_what_they_give() -> None:
    with pytest.raises(NetworkError, match="NaN or infinite"):
        channel_groups(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)), torch.nan * IMAGES)


class Normalised(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.sub_(0.5).div_(255))


@pytest.mark.parametrize("check", [True, False])
def test_a_network_that_normalises_its_images_in_place_is_told_so(check: bool) -> None:
    images = IMAGES.clone()
    with pytest.raises(NetworkError, match=r"changes its own inputs in place.* x = x.clone\(\)"):
        channel_groups(Normalised(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)), images, check=check)
    assert torch.equal(images, IMAGES)


def test_a_relu_in_place_on_the_images_does_nothing_the_second_time() -> None:
    images = IMAGES.clone()
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
    assert list(channel_groups(net, images)) == ["1"]
    assert torch.equal(images, IMAGES)


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1))
    net.lock = threading.Lock()  # type: ignore[assignment]  # a user's module may hold anything
    with pytest.raises(NetworkError, match=r"cannot be copied \(TypeError: .*locks, open files"):
        channel_groups(net, torch.randn(2, 1, 8, 8))
