"""What a figure is asked for, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from secateur_cli.progress import Progress
from secateur_cli.settings.schema import RunConfig

Until = Literal["removed", "recovered", "fine-tuned"]
"""How far a network is followed after its channels went."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Order:
    """A figure as it was asked for, every default filled in.

    Attributes:
        config: the run that the figure is about.
        folder: where relative paths and modules of the configuration are looked up.
        progress: shows what happens.
        smoke: recorded with the figure.
        seeds: each is the seed of a whole run: its split of the images, its training if there is one.
        at: points of the horizontal axis.
        lines: what is compared: criteria, searches, variants.
        chosen: whether the lines were named; lines that were not are left out where the network does not allow them.
        images: how many images scores are read from, of figures that ask how many are enough; "di-stability" reads as
            many others.
        until: how far each pruned network is followed.
        kept: folder in which each point is kept as it is measured, made when there is one; None: nothing is kept.
        facts: what is to be recorded of network, data and points, filled in once they are there.
    """

    config: RunConfig
    folder: Path
    progress: Progress
    smoke: bool
    seeds: tuple[int, ...]
    at: tuple[float, ...] = ()
    lines: tuple[str, ...] = ()
    chosen: bool = False
    images: int = 0
    until: Until = "removed"
    kept: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, took: Mapping[str, Any]) -> None:
        """Record how long the points of a seed took, and when the last was measured."""
        before = self.facts
        before["created"] = max(took["created"], before.get("created", ""))
        before["seconds"] = round(took["seconds"] + before.get("seconds", 0.0), 1)


@dataclass(frozen=True)
class Found:
    """What was measured.

    Attributes:
        rows: one for each thing measured, all that a drawing reads.
        about: what else is to be known of the numbers, as plain data; its "note" is said below the table.
    """

    rows: Sequence[Row]
    about: Mapping[str, Any]
