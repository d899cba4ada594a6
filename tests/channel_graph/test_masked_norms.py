"""Masked channels are zeros where they are: not in front of a norm that would give them other values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from secateur.channel_graph import channel_groups
from secateur.errors import NetworkError

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Last(nn.Module):
    """A layer norm of channels, which it has last."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]  # a module's call


class Shifted(nn.Module):
    """A stream of two layers, the second of which a norm reads, and where asked the stream itself as well."""

    def __init__(self, norm: nn.Module, *, beside: bool, width: int = 4) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 1), nn.Conv2d(width, 2, 1)
        self.norm, self.beside = norm, beside

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branch = self.branch(x)
        x = x + self.norm(branch)
        return self.head(x + branch if self.beside else x)  # type: ignore[no-any-return]  # a module's call


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.GroupNorm(2, 4),
        lambda: nn.InstanceNorm2d(4, affine=True),
        lambda: FrozenBatchNorm2d(4),
        Last,
        lambda: nn.BatchNorm2d(4),
    ],
)
def test_zeros_that_a_norm_would_shift_are_not_made(norm: Callable[[], nn.Module], *, beside: bool) -> None:
    net = Shifted(norm(), beside=beside).eval()
    groups = channel_groups(net, IMAGES, residual="mask")
    if isinstance(net.norm, nn.BatchNorm2d) and not beside:  # which is masked with the layer
        assert [m.layer for m in groups["branch"].members] == ["branch", "norm"]
        return
    assert set(groups) == {"stem"}
    layer, kind = ("norm.norm", "LayerNorm") if isinstance(net.norm, Last) else ("norm", type(net.norm).__name__)
    others = " beside other layers" if beside else ""
    assert groups.skipped["branch"] == f"{layer} ({kind}) reads it{others} and would give zeros other values"


def test_of_two_channels_one_can_be_masked_and_of_one_none() -> None:
    groups = channel_groups(Shifted(nn.Identity(), beside=False, width=2).eval(), IMAGES, residual="mask")
    assert {name: group.width for name, group in groups.items()} == {"stem": 2, "branch": 2}
    with pytest.raises(NetworkError, match="stem: it has only one channel; branch: it has only one channel"):
        channel_groups(Shifted(nn.Identity(), beside=False, width=1).eval(), IMAGES, residual="mask")
