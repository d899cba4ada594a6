"""The channel selection layer: from a batch of feature maps to one code for all of its images.

.. [Luo2018] Luo, Wu: AutoPruner: An End-to-End Trainable Filter Pruning Method for Efficient Deep Model Inference.
   Pattern Recognition 107, 2020 (arXiv 1805.08941), section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.distributed import Across
from secateur.errors import NetworkError
from secateur.gates.averaging import average_of_all

UNPOOLED = 7  # the authors pool no maps of this size or below


def pool_size(maps: torch.Size, *, most: int) -> int:
    """Return the side of the max pool, a power of two, before the fully connected layer of maps (N, C, H, W).

    It is 2, or 1 for maps of at most 7 x 7, and doubles until the layer has at most `most` weights, C * C * h * w.

    Raises:
        NetworkError: even one number a channel takes more weights.

    Example:
        >>> [pool_size(torch.Size(s), most=2**22) for s in ((8, 64, 7, 7), (8, 64, 32, 32), (8, 64, 112, 112))]
        [1, 2, 4]
    """
    _, C, H, W = maps
    if most < C * C:
        raise NetworkError(f"{C} channels take {C * C} weights to select from; at most {most} are allowed")
    pool = 1 if max(H, W) <= UNPOOLED else 2
    while C * C * math.ceil(H / pool) * math.ceil(W / pool) > most:
        pool *= 2
    return pool


class ChannelGate(nn.Module):
    """Decides which of C channels are needed, from all images of a batch together [Luo2018]_.

    Formula, for feature maps A (N, C, H, W): u = max_pool(mean over N of A), (C, h, w); z = W u + b with W (C, C h w);
    v = sigmoid(alpha z). As alpha grows, v becomes binary. All images share v, so that channels whose v is zero can be
    removed without changing anything. In eval mode v is the stored code.

    Args:
        maps: the shape (N, C, H, W) of what it will read.
        most: weights it may have; larger maps are pooled more, see `pool_size`.
        gain: the weights are drawn from N(0, (gain * sqrt(2 / n))^2), n = C h w.
        batch_average: False is the ablation: each image has a code (N, C) of its own while training.
        generator: draws the weights.

    Attributes:
        alpha: the scale of the sigmoid.
        kept: the code (C,), bool; None before it is known, and eval mode is refused till then.

    Cost: C * C * h * w multiply-accumulates a batch, nothing an image.

    Example:
        >>> gate = ChannelGate(torch.Size((2, 3, 4, 4)))
        >>> code = gate(torch.rand(2, 3, 4, 4))
        >>> code.shape, bool((code > 0).all() and (code < 1).all())
        (torch.Size([3]), True)

    Deviations: the pool rounds up, so that no row is lost; larger maps are pooled by more than 2.
    """

    kept: Tensor | None

    def __init__(
        self,
        maps: torch.Size,
        *,
        most: int = 2**24,
        gain: float = 10.0,
        batch_average: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _, C, H, W = maps
        self.pool, self.batch_average, self.alpha = pool_size(maps, most=most), batch_average, 1.0
        n = C * math.ceil(H / self.pool) * math.ceil(W / self.pool)
        self.weight = nn.Parameter(gain * math.sqrt(2 / n) * torch.randn(C, n, generator=generator))
        self.bias = nn.Parameter(torch.zeros(C))
        self.register_buffer("kept", None)

    def forward(self, maps: Tensor, *, share: float = 1.0, across: Across = None) -> Tensor:
        """Return the code (C,) of a batch of maps (N, C, H, W); without batch average (N, C) while training.

        With `across` the batch is that of all processes, of whose images this one has `share`.
        """
        if not self.training:
            if self.kept is None:
                raise NetworkError("a gate has no code before it is trained")
            return self.kept.to(maps.dtype)
        with torch.autocast(maps.device.type, enabled=False):
            seen = maps.float()
            if self.batch_average:
                seen = average_of_all(seen.mean(0, keepdim=True), share, across)
            if self.pool > 1:
                # maps of one column, such as a flattened layer's, have nothing to pool across
                side = (min(self.pool, seen.shape[2]), min(self.pool, seen.shape[3]))
                seen = functional.max_pool2d(seen, side, self.pool, ceil_mode=True)
            code = torch.sigmoid(self.alpha * functional.linear(seen.flatten(1), self.weight, self.bias))
        return code[0] if self.batch_average else code

    def settle(self, channels: Sequence[int]) -> None:
        """Store the code, in which these channels stay, and use it from now on."""
        code = torch.zeros(len(self.bias), dtype=torch.bool, device=self.bias.device)
        self.kept = code.index_fill_(0, torch.tensor(channels, device=code.device), True)
        self.eval()
