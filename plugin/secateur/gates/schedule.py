"""How the scale of a gate's sigmoid grows, and how strongly its share is asked for.

.. [Luo2018] Luo, Wu: AutoPruner. Pattern Recognition 107, 2020, sections 3.3 and 4; rules not in the paper are those of
   the code that its authors published.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from secateur.gates.recipe import GateRecipe

REMEMBERED = 20  # steps whose codes are averaged, and after which lambda is set anew
COLLAPSED, LOWERED = 0.95, 0.05  # a share that goes above which a code collapses, and by how much that bound falls
BINARY, UNDECIDED, SETTLED = 0.9, (0.2, 0.8), (0.1, 0.9)
SETTLING = 20  # changes of alpha after which a code should have become binary


class AlphaSchedule:
    """The scale alpha of one gate [Luo2018]_.

    Formula, with t the step, e = min(every, steps // 20) and n the number of changes: alpha = first + (last - first) *
    floor(t / e) / (n - 1) + bumps. At each change `bump` is added once where the share of channels that go is above a
    bound (95%, lowered by 5 points each time, never below 1 - r: the code collapses), and once where, after 20
    changes, fewer than 90% of the v lie outside [0.2, 0.8] (the code does not become binary).

    Example:
        >>> alpha = AlphaSchedule(GateRecipe(alpha=(1.0, 3.0), every=2, bump=0.0), steps=40, keep=0.5)
        >>> [round(alpha(step), 2) for step in (0, 1, 2, 39)]
        [1.0, 1.0, 1.11, 3.0]

    Deviations: the authors' runs have many thousand steps; `every` is at most a twentieth of the steps, so that a short
    run has as many changes as the rules count with.
    """

    def __init__(self, recipe: GateRecipe, *, steps: int, keep: float) -> None:
        self._recipe, self._keep = recipe, keep
        self._every = max(1, min(recipe.every, steps // SETTLING))
        self._changes = max(1, -(-steps // self._every) - 1)
        self._bound, self._bumps, self._ahead = COLLAPSED, 0.0, 0

    def __call__(self, step: int) -> float:
        """Return alpha in step `step`, from 0."""
        first, last = self._recipe.alpha
        if not self._recipe.binarise:
            return first
        return first + (last - first) * ((step + self._ahead) // self._every) / self._changes + self._bumps

    def watch(self, step: int, code: Tensor, kept: float) -> None:
        """Look at a code (..., C) after its step, and at the share of channels that it keeps; correct where needed."""
        if (step + 1) % self._every:
            return
        if 1 - kept >= self._bound:
            self._bumps += self._recipe.bump
            self._bound = max(self._bound - LOWERED, 1 - self._keep)
        if (step + 1) // self._every > SETTLING and not is_binary(code, *UNDECIDED):
            self._bumps += self._recipe.bump

    @property
    def memory(self) -> tuple[float, float, float]:
        """The bound of a collapse, the bumps so far, and how far it has run ahead."""
        return self._bound, self._bumps, float(self._ahead)

    @memory.setter
    def memory(self, memory: tuple[float, float, float]) -> None:
        self._bound, self._bumps, self._ahead = memory[0], memory[1], int(memory[2])

    def hurry(self) -> None:
        """Run ahead, in the last epoch, while a gate is not binary."""
        self._ahead += self._recipe.hurry


def is_binary(code: Tensor, low: float = SETTLED[0], high: float = SETTLED[1]) -> bool:
    """Return whether at least 90% of a code's v lie outside [low, high]."""
    return float(((code < low) | (code > high)).double().mean()) >= BINARY


class Penalty:
    """The term lambda * (mean of v - r)^2 of one gate, and the code by which lambda is set.

    Formula: lambda = pull * |(1 - kept) - (1 - r)| every 20 steps, where kept is the share of channels whose v was
    above one half in more than half of the last 20 steps; before, and where `pull` is None, `penalty`.

    Attributes:
        weight: lambda.
        codes: of the last 20 steps, (C,) each: the share of the images whose code keeps the channel.
    """

    def __init__(self, recipe: GateRecipe, *, keep: float) -> None:
        self._recipe, self._keep = recipe, keep
        self.codes: deque[Tensor] = deque(maxlen=REMEMBERED)
        self.weight = recipe.penalty

    def __call__(self, code: Tensor) -> Tensor:
        """Return the term for a code (C,) or (N, C)."""
        return self.weight * (code.mean() - self._keep) ** 2

    def remember(self, step: int, code: Tensor) -> None:
        """Take in the code of a step."""
        self.codes.append((code.detach() > 0.5).float().view(-1, code.shape[-1]).mean(0))
        if self._recipe.pull is not None and (step + 1) % REMEMBERED == 0:
            self.weight = self._recipe.pull * abs((1 - self.kept) - (1 - self._keep))

    @property
    def shares(self) -> Tensor:
        """In which share of the last 20 steps each channel was kept, (C,)."""
        return torch.stack(list(self.codes)).mean(0)

    @property
    def kept(self) -> float:
        """The share of channels that the code keeps."""
        return float((self.shares > 0.5).float().mean())
