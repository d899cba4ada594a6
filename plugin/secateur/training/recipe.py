"""The numbers of a training run, checked when they are written down, and the learning rate they give at each step.

.. [Loshchilov2017] Loshchilov, Hutter: SGDR: Stochastic Gradient Descent with Warm Restarts. ICLR 2017, eq. (5).
.. [Loshchilov2019] Loshchilov, Hutter: Decoupled Weight Decay Regularization. ICLR 2019, algorithm 2 (AdamW).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from secateur.errors import ConfigError
from secateur.precision import Precision

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "steps"]


@dataclass(frozen=True)
class Recipe:
    """How to train; by default by stochastic gradient descent with Nesterov's momentum and a rate on a cosine.

    Attributes:
        epochs: passes over the training batches; 0 trains nothing.
        learning_rate: the largest one.
        momentum: in [0, 1); of AdamW the first of its two decay rates, of which the other is 0.999.
        weight_decay: added to every gradient as weight_decay * weight; with AdamW taken off the weight itself
            [Loshchilov2019]_.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
        warmup_epochs: the learning rate rises linearly over so many epochs before the schedule starts.
        clip_norm: largest norm of the gradient of all parameters together; None does not clip.
        precision: "float32", or "bfloat16" or "float16": convolutions and products are computed in half the bits, the
            weights, the loss and the steps stay float32. On processors and GPUs with such arithmetic it is up to twice
            as fast. In float16 the loss is scaled, and a step whose gradient overflows is left out (torch's scaler).
        seed: of everything random while training (dropout, mixup, the order of a shuffling loader without workers).
        optimizer: "sgd" or "adamw".
        nesterov: whether the momentum of "sgd" is Nesterov's.
        schedule: how the rate falls: "cosine", or in "steps" at the milestones.
        milestones: epochs, ascending, after which "steps" multiplies the rate by `gamma`; they may be broken numbers.
        gamma: see `milestones`.
        decay_all: whether weight decay also takes biases and the scales and shifts of norms, all that has one axis.
        mixup: alpha of the Beta(alpha, alpha) that images of a batch are mixed by, see `mix`; 0: not at all.
        average: decay of the moving average of the weights, which then is what is validated and kept; 0: none.
        recalibrate: so many training images renew the statistics of batch norm before the first step, 0: none. Of use
            right after channels were removed.
        distillation: share of the loss that comes from the teacher, in [0, 1]; read where there is one.
        temperature: of the teacher's and the network's logits in that share.
        feature_weight: weight of the distance from the teacher's feature maps; 0: they are not read.

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
    optimizer: Optimizer = "sgd"
    nesterov: bool = True
    schedule: Schedule = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    decay_all: bool = True
    mixup: float = 0.0
    average: float = 0.0
    recalibrate: int = 0
    distillation: float = 0.5
    temperature: float = 4.0
    feature_weight: float = 0.0

    def __post_init__(self) -> None:
        def whole(number: float) -> bool:
            return isinstance(number, int) and number >= 0

        def at_least_0(number: float) -> bool:
            return 0 <= number < math.inf

        def above_0(number: float) -> bool:
            return 0 < number < math.inf

        object.__setattr__(self, "milestones", tuple(self.milestones))  # JSON and YAML know lists only
        ascending = all(a < b for a, b in itertools.pairwise((0, *self.milestones, math.inf)))
        stepped = bool(self.milestones) == (self.schedule == "steps")
        rules = {
            "epochs": (whole(self.epochs), "a whole number >= 0"),
            "learning_rate": (above_0(self.learning_rate), "a number > 0"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "weight_decay": (at_least_0(self.weight_decay), "a number >= 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "warmup_epochs": (0 <= self.warmup_epochs <= self.epochs, f"in 0..{self.epochs}, the epochs"),
            "clip_norm": (self.clip_norm is None or above_0(self.clip_norm), "a number > 0, or None"),
            "precision": _among(self.precision, Precision),
            "optimizer": _among(self.optimizer, Optimizer),
            "schedule": _among(self.schedule, Schedule),
            "milestones": (ascending and stepped, "ascending epochs > 0 with the schedule 'steps', and none without"),
            "gamma": (0 < self.gamma <= 1, "in (0, 1]"),
            "mixup": (at_least_0(self.mixup), "a number >= 0"),
            "average": (0 <= self.average < 1, "in [0, 1)"),
            "recalibrate": (whole(self.recalibrate) and self.recalibrate != 1, "0, or a whole number of images >= 2"),
            "distillation": (0 <= self.distillation <= 1, "in [0, 1]"),
            "temperature": (above_0(self.temperature), "a number > 0"),
            "feature_weight": (at_least_0(self.feature_weight), "a number >= 0"),
        }
        for name, (holds, allowed) in rules.items():
            if not holds:
                raise ConfigError(f"{name} must be {allowed}; found {getattr(self, name)!r}")

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of step `step` of 0..`steps` - 1.

        Formula, with W = round(steps * warmup_epochs / epochs):
        learning_rate * (step + 1) / W while step < W. Then, with the schedule "cosine",
        learning_rate / 2 * (1 + cos(pi * (step - W) / (steps - W))), eq. (5) of [Loshchilov2017]_, and with "steps"
        learning_rate * gamma^k, where k counts the milestones m with round(steps * m / epochs) <= step.

        Example:
            >>> [round(Recipe(epochs=1, learning_rate=1.0).rate(step, 4), 3) for step in range(4)]
            [1.0, 0.854, 0.5, 0.146]
            >>> stepped = Recipe(epochs=2, learning_rate=1.0, schedule="steps", milestones=(1,))
            >>> [stepped.rate(step, 4) for step in range(4)]
            [1.0, 1.0, 0.1, 0.1]

        Deviations: no restarts, and the cosine falls with every step, not with every epoch.
        """
        epochs = max(self.epochs, 1)
        warmup = round(steps * self.warmup_epochs / epochs)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if self.schedule == "steps":
            passed = sum(round(steps * milestone / epochs) <= step for milestone in self.milestones)
            return float(self.learning_rate * self.gamma**passed)
        return self.learning_rate / 2 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    def revised(self, changes: Mapping[str, Any]) -> Recipe:
        """Return the recipe with single numbers in place of its own.

        Raises:
            ConfigError: an unknown number, or one out of its range.

        Example:
            >>> Recipe().revised({"epochs": 3}).epochs
            3
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"unknown number {name!r} of a recipe; known: {', '.join(known)}")
        return dataclasses.replace(self, **changes)


def _among(value: str, names: Any) -> tuple[bool, str]:
    return value in get_args(names), f"one of {', '.join(get_args(names))}"
