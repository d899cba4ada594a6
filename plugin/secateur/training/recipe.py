"""The numbers of a training run, checked when they are written down, and the learning rate they give at each step.

.. [Loshchilov2017] Loshchilov, Hutter: SGDR: Stochastic Gradient Descent with Warm Restarts. ICLR 2017, eq. (5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from secateur.errors import ConfigError

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Recipe:
    """How to train: stochastic gradient descent with Nesterov's momentum and a learning rate on a cosine.

    Attributes:
        epochs: passes over the training batches; 0 trains nothing.
        learning_rate: the largest one.
        momentum: Nesterov's, in [0, 1).
        weight_decay: added to every gradient as weight_decay * weight.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
        warmup_epochs: the learning rate rises linearly over so many epochs before the cosine starts.
        clip_norm: largest norm of the gradient of all parameters together; None does not clip.
        precision: "float32", or "bfloat16": convolutions and products are computed in half the bits, the weights, the
            loss and the steps stay float32. On processors and GPUs with such arithmetic it is up to twice as fast.
        seed: of everything random while training (dropout, the order of a shuffling loader without workers).

    Raises:
        ConfigError: a number is out of its range.

    Example:
        >>> Recipe(epochs=2, momentum=1.5)
        Traceback (most recent call last):
        secateur.errors.ConfigError: momentum must be in [0, 1); found 1.5
    """

    epochs: int = 1
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    warmup_epochs: float = 0.0
    clip_norm: float | None = None
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        rules = {
            "epochs": (self.epochs >= 0 and self.epochs == int(self.epochs), "a whole number >= 0"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a number > 0"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a number >= 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "warmup_epochs": (0 <= self.warmup_epochs <= self.epochs, f"in 0..{self.epochs}, the epochs"),
            "precision": (self.precision in get_args(Precision), f"one of {', '.join(get_args(Precision))}"),
            "clip_norm": (self.clip_norm is None or 0 < self.clip_norm < math.inf, "a number > 0, or None"),
        }
        for name, (holds, allowed) in rules.items():
            if not holds:
                raise ConfigError(f"{name} must be {allowed}; found {getattr(self, name)!r}")

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of step `step` of 0..`steps` - 1.

        Formula, with W = round(steps * warmup_epochs / epochs):
        learning_rate * (step + 1) / W while step < W, then
        learning_rate / 2 * (1 + cos(pi * (step - W) / (steps - W))), eq. (5) of [Loshchilov2017]_.

        Example:
            >>> [round(Recipe(epochs=1, learning_rate=1.0).rate(step, 4), 3) for step in range(4)]
            [1.0, 0.854, 0.5, 0.146]

        Deviations: no restarts, and the cosine falls with every step, not with every epoch.
        """
        warmup = round(steps * self.warmup_epochs / max(self.epochs, 1))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate / 2 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
