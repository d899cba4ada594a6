"""A walk through the layers keeps to its memory, and reads the network that is right no more often than that takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.recovery.walk import walk
from secateur.regression import targets_of

IMAGES = [torch.randn(8, 4, 10, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1, 2)]
ROWS = 50


class Twice(nn.Module):
    """A layer, one of two blocks that runs twice, and another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1, groups=2), nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.twice(self.twice(self.first(x))))  # type: ignore[no-any-return]  # a module's call


# a position and four outputs take 8 + 4 * 4 bytes: of the first and the last layer ROWS of them, of the other two calls
@pytest.mark.parametrize(("quarter", "passes"), [(96, 1), (95, 2), (72, 2), (71, 3), (48, 3), (24, 3)])
def test_what_fits_into_a_quarter_of_the_memory_is_read_in_one_pass(quarter: int, passes: int) -> None:
    right, network = Twice().eval(), Twice().eval()
    todo = targets_of(network, IMAGES[0], ["first", "twice", "last"])
    read: list[int] = []
    right.first.register_forward_pre_hook(lambda _, inputs: read.append(len(inputs[0])))
    steps = walk(right, network, todo, IMAGES, rows=ROWS, memory=4 * quarter * ROWS)
    assert [step.layer for step in steps] == ["first", "twice", "last"]
    assert read == [8, 8, 8] * passes


def test_all_positions_are_read_that_are_drawn_of_a_layer_whose_equations_do_not_fit() -> None:
    """So that few rows are those of all images and of both calls, and not of the first."""
    wide = nn.Conv1d(64, 64, 1)
    network = nn.Sequential(wide, wide).eval()
    images = [torch.randn(4, 64, 10) for _ in range(3)]
    (step,) = walk(network, network, targets_of(network, images[0], ["0"]), images, rows=ROWS, memory=2**16)
    positions = [[len(sample.values) for sample in calls] for calls in step.samples]
    assert positions == [[2, 2]] * 3
    assert step.equations.rows == 12
