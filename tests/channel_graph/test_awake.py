"""Networks that hide what their branches do before they are trained are looked at in a copy that does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ShuffleNetV2

from secateur import channel_groups
from secateur.channel_graph.awake import awake
from secateur.channel_graph.outputs import outputs_of

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Fading(nn.Sequential):
    """Weights so small that after a few layers nothing but the last bias is left."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        layers: list[nn.Module] = []
        for inputs in (3, 8, 8, 8):
            layers += [nn.Conv2d(inputs, 8, 3, bias=False), norm(8), nn.ReLU()]
            nn.init.normal_(layers[-3].weight, std=1e-3)  # type: ignore[arg-type]  # that of a convolution
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def heard(model: nn.Module) -> float:
    """How far the outputs of two images lie apart."""
    (outputs,) = outputs_of(model, IMAGES)
    return float((outputs[0] - outputs[1]).abs().max() / outputs.abs().max())


def test_a_network_that_hears_nothing_is_woken_and_left_as_it_was() -> None:
    model = Fading().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    woken = awake(model, IMAGES)
    assert heard(model) < 1e-6
    assert heard(woken) > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_a_network_that_hears_is_taken_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten())
    assert awake(model, IMAGES) is model


@pytest.mark.parametrize("images", [torch.zeros_like(IMAGES), torch.ones_like(IMAGES)])
def test_images_that_are_all_alike_do_for_a_network_that_hears_nothing(images: Tensor) -> None:
    assert [*channel_groups(Fading(), images)] == ["0", "3", "6", "9"]
    deep = nn.Sequential(*(each for _ in range(12) for each in (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())))
    for module in deep:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=1e-3)
    assert len(channel_groups(nn.Sequential(deep, nn.Conv2d(3, 2, 1)), images)) == 12


def test_what_no_statistics_can_wake_is_taken_as_it_is() -> None:
    without = Fading(nn.Identity)
    assert awake(without, IMAGES) is without
    single = nn.Sequential(nn.Flatten(), nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 2))
    nn.init.normal_(single[1].weight, std=1e-3)
    assert awake(single, torch.ones(1, 3)) is single  # batch norm: "Expected more than 1 value per channel"


class OfSeveral(nn.Module):
    """Takes images, a list of numbers and a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.fading = Fading()

    def forward(self, images: Tensor, numbers: list[Tensor], flag: bool) -> dict[str, Tensor]:
        return {"outputs": self.fading(images) + numbers[0].sum() * 0, "flag": torch.tensor(flag)}


def test_a_network_of_several_inputs_and_outputs_is_woken() -> None:
    model = OfSeveral()
    assert awake(model, (IMAGES, [torch.arange(3)], True)) is not model


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_channels_are_told_from_what_they_are_taken_for_before_any_training(seed: int) -> None:
    """Torch-Pruning follows the last layers of a stage through the shuffle to the wrong channels behind it."""
    torch.manual_seed(seed)
    model = ShuffleNetV2([2, 2, 2], [8, 16, 32, 64, 64], 10).eval()
    groups = channel_groups(model, IMAGES)
    shuffled = {f"stage{stage}.{block}.branch2.5" for stage in (2, 3, 4) for block in (0, 1)}
    assert not shuffled & groups.keys()
    assert {f"stage{stage}.{block}.branch2.0" for stage in (2, 3, 4) for block in (0, 1)} <= groups.keys()
