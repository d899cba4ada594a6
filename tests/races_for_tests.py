"""Candidates as a greedy search makes them, and what a race may say of them."""

from __future__ import annotations

import torch

from secateur.protocols import Kept, Worth
from secateur.records import ChannelGroup


def cuts(groups: dict[str, ChannelGroup], kept: Kept, generator: torch.Generator) -> list[Kept]:
    """Return for each group that can be cut further a candidate that does it, as a greedy search would."""
    found = []
    for name, group in groups.items():
        there = kept.get(name, tuple(range(group.width)))
        if len(there) > 1:
            count = int(torch.randint(1, len(there), (), generator=generator))
            stay = torch.randperm(len(there), generator=generator)[:count].tolist()
            found.append({**kept, name: tuple(sorted(there[i] for i in stay))})
    return found


def check(worths: list[Worth], literal: list[float]) -> None:
    for worth, true in zip(worths, literal, strict=True):
        if true == max(literal):
            assert worth == Worth(true)
        else:
            assert worth.value == true if worth.exact else true <= worth.value < max(literal)
