"""How gates are trained: the numbers, and the authors' for their networks.

.. [Luo2018] Luo, Wu: AutoPruner. Pattern Recognition 107, 2020, section 4; numbers not in the paper are those of the
   code that its authors published.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from secateur.errors import ConfigError
from secateur.precision import PRECISIONS, Precision


@dataclass(frozen=True)
class GateRecipe:
    """The training of network and gates together, by stochastic gradient descent with momentum.

    The defaults are ours, for small networks and some hundred steps; `PRESETS` holds the authors' [Luo2018]_.

    Attributes:
        epochs: of each stage.
        learning_rate, momentum, weight_decay: of network and gates alike.
        drop: the share of the steps of a stage after which the learning rate is a tenth; 1: it stays.
        alpha: the scale of the sigmoid in the first and the last step of a stage; it rises linearly in between.
        every: steps after which alpha moves, at most a twentieth of a stage.
        bump: added to alpha, for good, where a code collapses or does not become binary, see `AlphaSchedule`; 0 never.
        hurry: in the last epoch alpha runs so many steps ahead with every step while a gate is not binary; 0 never.
        penalty: lambda, the weight of (mean of v - r)^2 in the loss, at the beginning.
        pull: lambda follows how far the code is from its share: pull * |share that goes - (1 - r)|, every 20 steps;
            None leaves lambda where it begins. The authors' is 100, ours more: a share that is wrong once the code is
            binary stays wrong.
        gain: see `ChannelGate`.
        batch_average: False is the ablation without mini-batch pooling.
        binarise: False is the ablation in which alpha stays where it begins.
        most: weights that a gate may have.
        precision: of the network's convolutions and products; the gates compute in float32.
        seed: draws the gates.

    Raises:
        ConfigError: a number is out of its range.

    Example:
        >>> GateRecipe(epochs=0)
        Traceback (most recent call last):
        secateur.errors.ConfigError: epochs must be a whole number >= 1; found 0
    """

    epochs: int = 2
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    drop: float = 2 / 3
    alpha: tuple[float, float] = (0.1, 10.0)
    every: int = 100
    bump: float = 0.1
    hurry: int = 10
    penalty: float = 10.0
    pull: float | None = 1000.0
    gain: float = 10.0
    batch_average: bool = True
    binarise: bool = True
    most: int = 2**24
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        rises = len(self.alpha) == 2 and 0 < self.alpha[0] <= self.alpha[1] < math.inf
        rules = {
            "epochs": (isinstance(self.epochs, int) and self.epochs >= 1, "a whole number >= 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a number > 0"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a number >= 0"),
            "drop": (0 < self.drop <= 1, "a share in (0, 1]"),
            "alpha": (rises, "two numbers > 0, the first not above the second"),
            "every": (self.every >= 1, "at least 1"),
            "bump": (0 <= self.bump < math.inf, "a number >= 0"),
            "hurry": (self.hurry >= 0, "a whole number >= 0"),
            "penalty": (0 <= self.penalty < math.inf, "a number >= 0"),
            "pull": (self.pull is None or 0 < self.pull < math.inf, "a number > 0, or None"),
            "gain": (0 < self.gain < math.inf, "a number > 0"),
            "most": (self.most >= 1, "at least 1"),
            "precision": (self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
        }
        for name, (holds, allowed) in rules.items():
            if not holds:
                raise ConfigError(f"{name} must be {allowed}; found {getattr(self, name)!r}")

    def changed(self, changes: Mapping[str, Any]) -> GateRecipe:
        """Return it with some numbers replaced. Raises ConfigError for a name that it does not have."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"unknown number {name!r} of a gate recipe; known: {', '.join(known)}")
        return dataclasses.replace(self, **changes)


PRESETS: Mapping[str, GateRecipe] = MappingProxyType(
    {
        "vgg16": GateRecipe(epochs=3, learning_rate=1e-3, alpha=(0.1, 2.0), bump=0.1, hurry=0, pull=100.0),
        "resnet50": GateRecipe(
            epochs=8,
            learning_rate=1e-3,
            drop=0.5,
            alpha=(1.0, 100.0),
            bump=1.0,
            hurry=0,
            pull=100.0,
        ),
        "mobilenet_v2": GateRecipe(
            epochs=5,
            learning_rate=0.01,
            weight_decay=1e-4,
            drop=1.0,
            alpha=(0.1, 100.0),
            every=1,
            bump=0.0,
            pull=None,
            gain=1.0,
        ),
    }
)
"""The authors' numbers for networks on ImageNet."""
