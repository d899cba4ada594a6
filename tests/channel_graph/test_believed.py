"""What hides a wrong channel map from the check: larger outputs, branches that are multiplied by zero, odd errors."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.channel_graph import channel_groups, verify_pruning
from secateur.channel_graph.surgery import apply_plan
from secateur.errors import VerificationError
from secateur.records import PruningPlan

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Shuffled(nn.Module):
    """Channels in another order than Torch-Pruning has them, and a second output, `scale` times as large."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.moved, self.order, self.fine = nn.Conv2d(3, 8, 3), nn.ChannelShuffle(2), nn.Conv2d(8, 8, 3, groups=2)
        self.last, self.other, self.scale = nn.Conv2d(8, 4, 1), nn.Conv2d(3, 2, 1), scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        moved = self.order(torch.relu(self.moved(x)))
        return self.last(torch.relu(self.fine(moved))), self.scale * self.other(x).mean((2, 3))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e5])
def test_a_large_output_hides_no_small_one(scale: float) -> None:
    torch.manual_seed(0)
    net = Shuffled(scale).eval()
    groups = channel_groups(net, IMAGES)
    assert list(groups) == ["fine"]
    assert "not the same as masking" in groups.skipped["moved"]
    believed = channel_groups(net, IMAGES, check=False)
    plan = PruningPlan(tuple(believed.values()), {"moved": (1, 3)}, "none", 0.0, 0.0, 0.0)
    with pytest.raises(VerificationError, match=r"of an output's largest number .* pruned alone: moved"):
        verify_pruning(net, apply_plan(net, plan), plan, IMAGES)


def test_what_rounding_leaves_of_an_output_is_no_difference() -> None:
    class Rounded(nn.Sequential):
        """Its second output is as small as what float32 rounds of the first, and as random: it hangs on the width."""

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = super().forward(x)
            return x, 1e-8 * self[0].out_channels * x.abs().amax((1, 2, 3))

    net = Rounded(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    assert list(channel_groups(net, IMAGES)) == ["0"]


class Particular(nn.Module):
    """A network whose forward looks up what it does with a map of so many channels."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.fine, self.read, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(torch.relu(self.fine(x)))
        if x.shape[1] != 8:
            raise self.error(x.shape[1])
        return self.last(torch.relu(x))  # type: ignore[no-any-return]  # a module's call


@pytest.mark.parametrize("error", [KeyError, TypeError, ZeroDivisionError, NotImplementedError])
def test_whatever_a_network_that_was_cut_raises_leaves_its_group_out(error: type[Exception]) -> None:
    groups = channel_groups(Particular(error).eval(), IMAGES)
    assert list(groups) == ["fine"]
    assert "does not run any more" in groups.skipped["read"]


class Sleeping(nn.Module):
    """A shuffle in a residual branch, which the last gain may multiply by zero."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.stem, self.moved, self.order = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.ChannelShuffle(2)
        self.fine, self.gain, self.head = nn.Conv2d(8, 8, 1, groups=2), last, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        branch = self.fine(self.order(torch.relu(self.moved(x))))
        return self.head(x + self.gain(branch))  # type: ignore[no-any-return]  # a module's call


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


@pytest.mark.parametrize("value", [0.0, 1e-6, 1.0])
@pytest.mark.parametrize("kind", [lambda: nn.BatchNorm2d(8), Scale, lambda: nn.Conv2d(8, 8, 1)])
def test_a_branch_that_is_multiplied_by_zero_is_tried(kind: Callable[[], nn.Module], value: float) -> None:
    torch.manual_seed(0)
    gain = kind()
    for weight in gain.parameters():
        weight.detach().mul_(value)
    net = Sleeping(gain).eval()
    before = copy.deepcopy(net.state_dict())
    groups = channel_groups(net, IMAGES)
    assert "moved" not in groups
    assert "not the same as masking" in groups.skipped["moved"]
    assert {"stem"} <= {*groups}
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_zero_that_must_stay_one_is_left() -> None:
    class Rooted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.angle = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x)) * (0.1 - self.angle).sqrt()  # type: ignore[no-any-return]  # a module's call

    assert list(channel_groups(Rooted().eval(), IMAGES)) == ["first"]


def test_parameters_that_are_empty_or_flags_are_no_weights() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)).eval()
    net.register_parameter("empty", nn.Parameter(torch.empty(0)))
    net.register_parameter("flags", nn.Parameter(torch.tensor([False]), requires_grad=False))
    assert list(channel_groups(net, IMAGES)) == ["0"]
