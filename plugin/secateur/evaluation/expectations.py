"""What candidates should lose, by what they lost in earlier races: it orders their images, and decides nothing.

A candidate of the next step is one of this step, on a network that has changed a little since: by the cut that won. So
its margins on the images should be what they were, moved as those of the winner have moved:

    margin_i(new) = margin_i(old) + margin_winner(new) - margin_winner(old)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from torch import Tensor

from secateur.evaluation.penalties import Measure, expected_penalties
from secateur.evaluation.racing import Form


class Expectations:
    """How safe each image is expected to be with each candidate.

    Args:
        measure: what is lost.
        safety: (N,), of the images in the dense network.

    Example:
        >>> import torch
        >>> expected = Expectations("accuracy", torch.tensor([1.0, 2.0]))
        >>> expected.learn({"a": torch.tensor([0.5, 2.0])})
        >>> expected.go_on_from(torch.tensor([-1.0, 2.0]))
        >>> expected.safety("a").tolist(), expected.safety("new").tolist(), expected.goal
        ([-1.5, 2.0], [-1.0, 2.0], 1.0)
    """

    def __init__(self, measure: Measure, safety: Tensor) -> None:
        self._measure, self._last = measure, safety
        self._known: dict[Hashable, Tensor] = {}

    @property
    def goal(self) -> float:
        """What the winner of the last race lost."""
        return float(expected_penalties(self._measure, self._last).sum())

    def safety(self, candidate: Hashable) -> Tensor:
        """Return how safe each image should be with a candidate, (N,); with a new one, as with the last winner."""
        return self._known.get(candidate, self._last).clone()

    def form(self, candidate: Hashable) -> Form:
        """Return what is expected of a candidate in the next race."""
        safety = self.safety(candidate)
        return Form(expected_penalties(self._measure, safety), safety)

    def learn(self, seen: Mapping[Hashable, Tensor]) -> None:
        """Take in how safe the images were, (N,), with some candidates: as found, and elsewhere as expected."""
        self._known |= seen

    def go_on_from(self, winner: Tensor) -> None:
        """Take in that the next candidates are cuts of a network with which the images are so safe, (N,)."""
        moved = winner - self._last
        self._known = {candidate: safety + moved for candidate, safety in self._known.items()}
        self._last = winner
