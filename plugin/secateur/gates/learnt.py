"""What gates have learnt, and which channels follow from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.records.parts import spare


@dataclass(frozen=True)
class Learnt:
    """What a gate has learnt.

    Attributes:
        group: whose gate.
        shares: (C,), in which share of the last 20 steps each channel was kept.
        code: (C,), the last v.
        alpha: its scale at the end.
        target: the share of channels asked for.
        kept: the share that the code keeps before any projection.
        binary: whether at least 90% of v lie outside [0.1, 0.9].
    """

    group: str
    shares: Tensor
    code: Tensor
    alpha: float
    target: float
    kept: float
    binary: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads back to the last bit."""
        return {**asdict(self), "shares": self.shares.tolist(), "code": self.code.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Learnt:
        """Return what `to_json` wrote.

        Example:
            >>> gate = Learnt("conv", torch.ones(2), torch.rand(2), 2.0, 0.5, 1.0, False)
            >>> torch.equal(Learnt.from_json(gate.to_json()).code, gate.code)
            True
        """
        return cls(**{**data, "shares": torch.tensor(data["shares"]), "code": torch.tensor(data["code"])})

    def channels(self, width: int | None, *, parts: Collection[Collection[int]] = ()) -> tuple[int, ...]:
        """Return the channels that stay, ascending.

        Args:
            width: exactly so many: those kept in most of the last steps, then those of the largest v. None: what the
                code says, at least one.
            parts: channels of which one must stay, `ChannelGroup.parts`: of each the first by this order stays before
                others do, and at least as many channels stay.

        Example:
            >>> gate = Learnt("conv", torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.7, 0.1, 0.9]), 2.0, 0.5, 0.6, True)
            >>> gate.channels(None), gate.channels(1)
            ((0, 2), (2,))
        """
        asked = max(1, int((self.shares > 0.5).sum())) if width is None else width
        count = min(len(self.shares), max(asked, len(parts)))
        by_code = torch.argsort(self.code, descending=True, stable=True)
        best = by_code[torch.argsort(self.shares[by_code], descending=True, stable=True)]
        return tuple(sorted(spare(best.tolist()[::-1], parts)[len(best) - count :]))


@dataclass(frozen=True)
class GateEpoch:
    """One pass over the training batches with gates.

    Attributes:
        stage: whose gates learn, counted from 1.
        number: of the epoch in its stage, counted from 1.
        loss: mean cross entropy over the images, in nats.
        kept: the share of the stage's channels that the codes keep.
        binary: the share of the stage's gates that are binary, see `Learnt`.
    """

    stage: int
    number: int
    loss: float
    kept: float
    binary: float
