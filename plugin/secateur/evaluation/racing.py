"""Find the best of several by adding up what they lose, and stop each once it has lost more than the best in all.

What a candidate loses on an image is never negative, so what it has lost so far is the least that it will lose. Each
goes through the images in an order of its own, those first on which it is expected to lose most, so that a loser falls
early. All run until they should have lost as much as the winner of the race before; then whoever promises to lose least
goes on, until one has come to the end; the others follow as long as they may still be better or equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from secateur.protocols import Worth

Lose = Callable[[Mapping[int, Tensor]], Mapping[int, Tensor]]
Settle = Callable[[int, Worth], None]
FEW = 8  # images that are worth a run
MOST = 0.9  # of what is expected of a candidate, that shows how it does


class Form(NamedTuple):
    """What a candidate is expected to lose on each image, (N,), float64, and how far it is from losing more, (N,)."""

    losses: Tensor
    safety: Tensor


class _Runner:
    """How far a candidate has come, and what it has lost."""

    def __init__(self, form: Form, step: int) -> None:
        self.order = torch.argsort(form.safety, stable=True)
        self.ahead = form.losses[self.order]
        self.lost, self.step = 0.0, step

    @property
    def promise(self) -> float:
        """What it will have lost in the end, if it loses what is expected."""
        return self.lost + float(self.ahead.sum())

    def next_images(self, goal: float, least: int) -> Tensor:
        """Return the images after which it should have lost more than `goal`; some more where it should not."""
        losses = self.ahead.cumsum(0)
        reach = int((self.lost + losses <= goal).sum()) + 1
        if reach > len(losses):
            reach = max(self.step, int((losses < MOST * losses[-1:]).sum()))
        reach = max(reach, least)
        images, self.order, self.ahead = self.order[:reach], self.order[reach:], self.ahead[reach:]
        return images


def race(
    forms: Mapping[int, Form],
    lose: Lose,
    *,
    worth: Callable[[float], float],
    goal: float,
    best: float = -math.inf,
    step: int = 32,
    doubts: Callable[[int], float] | None = None,
    settle: Settle,
) -> None:
    """Settle what each runner is worth: exactly wherever no other is worth more, and otherwise by a bound.

    Args:
        forms: runner -> what is expected of it, which decides how soon the race is over, never how it ends.
        lose: runner -> images, to runner -> what it loses on each of them, at least 0.
        worth: of a runner that lost so much in all; decreasing.
        goal: what the winner is expected to lose at least.
        best: what is to be beaten or reached: the exact worth of something else.
        step: how many images are run at a time where a runner does better than expected.
        doubts: what a runner that has come to the end has lost beyond what `lose` said; asked once, and only of those
            that may still win. None where nothing is left open.
        settle: told each runner's number and worth, once.

    Cost: all images for one runner, for each other as many as it takes to beat it.

    Example:
        >>> losses = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
        >>> found = {}
        >>> race(
        ...     {runner: Form(row, -row) for runner, row in enumerate(losses)},
        ...     lambda images: {runner: losses[runner, which] for runner, which in images.items()},
        ...     worth=lambda lost: -lost,
        ...     goal=1.0,
        ...     settle=found.__setitem__,
        ... )
        >>> found[0], found[1], found[2]
        (Worth(value=-1.0, exact=True), Worth(value=-2.0, exact=True), Worth(value=-1.0, exact=True))
    """
    runners = {number: _Runner(form, step) for number, form in forms.items()}

    def run(numbers: Collection[int], *, least: int = FEW) -> None:
        for number, losses in lose({number: runners[number].next_images(goal, least) for number in numbers}).items():
            runners[number].lost += float(losses.sum())

    def finish(numbers: Collection[int]) -> None:
        nonlocal best, goal
        while numbers:
            going = []
            for number in numbers:
                value, ended = worth(runners[number].lost), not len(runners[number].order)
                exact = ended and (doubts is None or value >= best)
                if exact and doubts is not None:
                    runners[number].lost += doubts(number)
                    value = worth(runners[number].lost)
                if exact and value > best:
                    best, goal = value, runners[number].lost
                if ended or value < best:
                    settle(number, Worth(value, exact=exact))
                else:
                    going.append(number)
            numbers = going
            if numbers:
                run(numbers)

    run(list(runners))
    while best == -math.inf and runners:  # nobody to beat yet: the most promising goes on, until one has ended
        leader = min(runners, key=lambda number: runners[number].promise)
        if len(runners[leader].order):
            run([leader], least=step)
        else:
            finish([leader])
            del runners[leader]
    finish(list(runners))
