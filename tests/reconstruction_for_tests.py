"""Networks to score by what the next layers can do without, and their scores in the readers' own units."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import secateur
from networks_for_tests import randomise_batch_norm
from references_reconstruction import IMAGES, LABELS
from secateur import ScoreTable, channel_groups

# the naive twins count errors in the reader's own unit
reconstruction_scores = partial(secateur.reconstruction_scores, relative=False)
BATCHES = [(IMAGES[:8], LABELS[:8]), (IMAGES[8:], LABELS[8:])]


class Chain(nn.Module):
    """Two convolutions with batch norm, one without, and a linear layer behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(5)
        self.second = nn.Conv2d(5, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), bias=False)
        self.second_norm = nn.BatchNorm2d(6)
        self.third = nn.Conv2d(6, 4, 1, bias=False)
        self.head = nn.Linear(4 * 9, 3)
        randomise_batch_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first_norm(self.first(x)))
        x = torch.relu(self.second_norm(self.second(x)))
        return self.head(torch.relu(self.third(x)).flatten(1))


def ones(width: int) -> list[list[int]]:
    """Return the one position of each of so many channels."""
    return [[c] for c in range(width)]


def scores_of(network: nn.Module, batches: Any = BATCHES, **options: Any) -> ScoreTable:
    """Score all groups of a network."""
    return reconstruction_scores(network, channel_groups(network, IMAGES), batches, **options)


class Wide(nn.Sequential):
    """A linear layer of 144 inputs behind a flatten, of which twelve images tell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.flatten = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten()
        self.wide, self.end, self.head = nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 3)
