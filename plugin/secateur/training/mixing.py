"""Mixup: images of a batch and their targets, two by two.

.. [Zhang2018] Zhang, Cisse, Dauphin, Lopez-Paz: mixup: Beyond Empirical Risk Minimization. ICLR 2018, eq. (1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def mix(inputs: Tensor, targets: Tensor, *, share: float, partners: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """Return each image mixed with its partner, and the targets likewise.

    Formula: share * x_n + (1 - share) * x_p(n), and the same of the targets: eq. (1) of [Zhang2018]_.

    Args:
        inputs: (N, ...).
        targets: (N, classes), for example one-hot.
        share: of the image itself, in [0, 1].
        partners: (N,), the position p(n) of each image's partner.

    Example:
        >>> mix(torch.tensor([[0.0], [4.0]]), torch.eye(2), share=0.75, partners=[1, 0])
        (tensor([[1.],
                [3.]]), tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]]))
    """
    others = torch.as_tensor(partners, device=inputs.device)
    mixed = [share * t + (1 - share) * t[others] for t in (inputs, targets)]
    return mixed[0], mixed[1]


def mixup(inputs: Tensor, labels: Tensor, *, alpha: float, classes: int) -> tuple[Tensor, Tensor]:
    """Return a batch mixed by one share drawn from Beta(alpha, alpha) with partners at random, and soft targets.

    Draws from torch's global generator. Shapes: (N, ...) and (N,) -> (N, ...) and (N, classes).

    Example:
        >>> images, targets = mixup(torch.ones(4, 1, 2, 2), torch.tensor([0, 1, 2, 1]), alpha=0.2, classes=3)
        >>> images.shape, targets.sum(1).allclose(torch.ones(4))
        (torch.Size([4, 1, 2, 2]), True)

    Deviations: one share for a batch, as in the published code, not one an image.
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    targets = functional.one_hot(labels, classes).to(inputs.dtype)
    return mix(inputs, targets, share=share, partners=torch.randperm(len(inputs)))
