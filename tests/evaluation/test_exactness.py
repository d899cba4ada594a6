"""What cannot be judged but literally is recognised, and the literal judge refuses what is no answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.evaluation.exactness import Referee, computes_coarsely, undecided
from secateur.evaluation.penalties import margins


class Cast(nn.Module):
    """A layer between casts: its numbers are coarse where neither parameters nor outputs are."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = nn.Linear(2, 2), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(self.dtype).float())


class Shortened(nn.Linear):
    """A layer whose outputs alone are coarse."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).bfloat16()


@pytest.mark.parametrize(
    ("build", "dtype", "coarse"),
    [
        (lambda: nn.Linear(2, 2), torch.float32, False),
        (lambda: nn.Linear(2, 2).double(), torch.float64, False),
        (lambda: nn.Linear(2, 2).half(), torch.float16, True),
        (lambda: nn.Linear(2, 2).bfloat16(), torch.bfloat16, True),
        (lambda: Cast(torch.float64), torch.float32, False),
        (lambda: Cast(torch.bfloat16), torch.float32, True),
        (Shortened, torch.float32, True),
    ],
)
def test_coarse_numbers_are_seen_wherever_they_are(
    build: Callable[[], nn.Module], dtype: torch.dtype, coarse: bool
) -> None:
    assert computes_coarsely(build(), torch.ones(2, 2, dtype=dtype)) is coarse


def test_autocast_around_the_call_is_seen() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert computes_coarsely(nn.Linear(2, 2), torch.ones(2, 2))


def test_the_literal_judge_refuses_nan() -> None:
    referee = Referee(nn.Identity(), {}, [torch.tensor([[torch.nan, 1.0]])], torch.tensor([0]))
    with pytest.raises(DataError, match="NaN"):
        referee.misses({}, torch.tensor([0]))


@pytest.mark.parametrize(
    ("outputs", "open_"),
    [
        ([0.0, 0.0], True),  # a network that has died
        ([torch.inf, 1.0], True),  # what overflows in one order of adding up may not in another
        ([torch.inf, torch.inf], True),
        ([1000.0, 1000.09], True),
        ([1000.0, 1000.2], False),
        ([-1000.0, 0.05], False),
    ],
)
def test_what_rounding_could_decide_is_left_open(outputs: list[float], open_: bool) -> None:
    given = torch.tensor([outputs])
    assert undecided(given, margins(given, torch.tensor([0]))).tolist() == [open_]
