"""What solving for the layers of a network brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from secateur.recovery.walk import Step
from secateur.regression import Solution


@dataclass(frozen=True)
class LayerFit:
    """What solving for one layer brought.

    Attributes:
        layer: its name.
        rows, unknowns: of its equations; of each block, in a grouped convolution.
        before, after: squared error of its target over the rows, as a share of the target's variance.
    """

    layer: str
    rows: int
    unknowns: int
    before: float
    after: float


@dataclass(frozen=True)
class Compensation:
    """What `compensate` did: the layers solved for, in order, and the consumers left as they are, with the reason."""

    layers: tuple[LayerFit, ...]
    left: Mapping[str, str]
    images: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"images": self.images, "layers": [asdict(fit) for fit in self.layers], "left": dict(self.left)}


def fit_of(step: Step, found: Solution) -> LayerFit:
    """Return what a solution brings on the rows that it was found on."""
    equations, target = step.equations, step.target
    values = torch.cat([sample.values.double() for batch in step.samples for sample in batch])[: equations.rows]
    variation = float((values - values.mean(0)).square().sum())
    gain = target.gain if target.at == "sum" else None
    weights = torch.ones_like(found.before.flatten()) if gain is None else gain.double().square()
    before, after = (float((weights * error.flatten()).sum()) for error in (found.before, found.after))
    shares = (before / variation, after / variation) if variation else (0.0, 0.0)
    return LayerFit(step.layer, equations.rows, found.weight.shape[1], *shares)
