"""Taylor: what the loss would change, to first order, if a filter's weights were zero.

With the gradient g = dL/dw of the loss over a batch, removing weight w changes the loss by -g w to first order. For a
filter with the weights S_c

    squared     sum over s in S_c of (g_s w_s)^2          each weight alone                    [Molchanov2019]_
    joint       ( sum over s in S_c of g_s w_s )^2        the filter as a whole                [Molchanov2019]_
    absolute    | sum over s in S_c of g_s w_s |          its root, as [Molchanov2017]_ has it for activations

averaged over batches. Squares and absolute values are taken batch by batch, because the sum of g w over a whole
training set is near zero at a minimum; so the score depends on the batch size.

.. [Molchanov2017] P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz. Pruning convolutional neural networks for
   resource efficient inference. ICLR 2017.
.. [Molchanov2019] P. Molchanov, A. Mallya, S. Tyree, I. Frosio, J. Kautz. Importance estimation for neural network
   pruning. CVPR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from secateur.counts import check_counts
from secateur.criteria.filters import as_filters
from secateur.errors import ConfigError, ScoreError

Mode = Literal["squared", "joint", "absolute"]


@dataclass(frozen=True)
class Taylor:
    """The first-order change of the loss without a filter: weights and gradients (C, ...) -> (C,), float64, >= 0.

    Args:
        mode: "squared", "joint" or "absolute"; see the module.
        batch_size: images in one gradient, at least one.
        samples: how many images to read unless the caller says otherwise.

    Raises:
        ConfigError: an option outside of what is allowed.
        ScoreError: weights or gradients that are not finite, or of different shapes.

    Example:
        >>> import torch
        >>> weight, gradient = torch.tensor([[1.0, 2.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> Taylor()(weight, gradient), Taylor(mode="absolute")(weight, gradient)
        (tensor([5., 2.], dtype=torch.float64), tensor([3., 0.], dtype=torch.float64))
    """

    name: str = field(default="taylor", init=False)
    mode: Mode = "squared"
    batch_size: int = 128
    samples: int = 1280

    def __post_init__(self) -> None:
        if self.mode not in ("squared", "joint", "absolute"):
            raise ConfigError(f"taylor: mode is {self.mode!r}; allowed: squared, joint, absolute")
        check_counts(of=self.name, batch_size=self.batch_size, samples=self.samples)

    def __call__(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Return the score of each channel for the gradient of one batch."""
        if weight.shape != gradient.shape:
            raise ScoreError(f"weights {tuple(weight.shape)} and gradients {tuple(gradient.shape)} differ in shape")
        changes = as_filters(weight) * as_filters(gradient)
        if self.mode == "squared":
            return changes.square().sum(1)
        return changes.sum(1).square() if self.mode == "joint" else changes.sum(1).abs()
