"""Judge literally where arithmetic could decide: on the dense network, masked, in the batches that were given.

A cut network adds up in another order than a masked one. Its outputs differ by rounding, some 1e-6 of the largest, and
an image whose two largest outputs lie closer than that may be counted otherwise. Such images are few; they are judged
again as `MaskedAccuracy` does it, bit for bit.

In half precision they would be nearly all: bfloat16 moves the outputs of a ResNet-20 by 0.4 of the largest. And batch
norm without running statistics gives an image other outputs in other company. Only the literal way is right there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.channel_graph.masks import masked
from secateur.evaluation.penalties import penalties
from secateur.modes import own_copy
from secateur.protocols import Kept
from secateur.records import ChannelGroup
from secateur.tf32 import rounds_on_processors, tf32_allowed

ROUNDING = 1e-4  # of the largest output, in float32: a hundred times what was seen
TF32_ROUNDING = 1e-2  # where a GPU multiplies numbers of ten bits


def undecided(outputs: Tensor, safety: Tensor) -> Tensor:
    """Return which images (N,) rounding could decide, by their outputs (N, K) and margins (N,).

    Example:
        >>> outputs = torch.tensor([[1.0, 1.00001], [1.0, 2.0]])
        >>> undecided(outputs, torch.tensor([0.00001, 1.0])).tolist()
        [True, False]
    """
    coarse = outputs.is_cuda and tf32_allowed()
    return ~(safety.abs() > (TF32_ROUNDING if coarse else ROUNDING) * outputs.abs().amax(1))


def computes_coarsely(network: nn.Module, example: Tensor) -> bool:
    """Return whether a forward pass meets numbers coarser than float32, be it inside of an autocast block.

    Cost: a forward pass of the example (N, ...).

    Example:
        >>> class Autocast(nn.Linear):
        ...     def forward(self, x):
        ...         with torch.autocast("cpu", dtype=torch.bfloat16):
        ...             return super().forward(x).float()
        >>> [computes_coarsely(layer(2, 2), torch.ones(1, 2)) for layer in (nn.Linear, Autocast)]
        [False, True]
    """
    with torch.inference_mode(), _Precision() as met:
        network(own_copy(network, example))
    return bool(met.eps > torch.finfo(torch.float32).eps)


def told_to_round(device: torch.device) -> bool:
    """Return whether whoever calls has asked for coarser arithmetic, by an autocast block or torch's switches.

    TensorFloat-32 on a GPU is not meant: see `undecided`.

    Example:
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     told_to_round(torch.device("cpu")), told_to_round(torch.device("cuda"))
        (True, False)
    """
    return torch.is_autocast_enabled(device.type) or (device.type == "cpu" and rounds_on_processors())


def norms_by_batch(network: nn.Module) -> list[str]:
    """Return the batch norms that keep no running statistics, and so use those of the batch in eval mode too.

    Example:
        >>> norms_by_batch(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)))
        ['1']
    """
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is None
    ]


class Referee:
    """Tells which images a candidate misses, as the dense network with its mask does.

    Args:
        model: the dense network, in eval mode; masked for the duration of a call.
        groups: its channel groups by name.
        images: batches.
        labels: of all images, (N,).

    Cost: a forward pass over each batch that is asked about, the first time.

    Example:
        >>> referee = Referee(nn.Identity(), {}, [torch.eye(2), torch.eye(2)], torch.tensor([0, 1, 1, 1]))
        >>> referee.misses({}, torch.tensor([3, 2])).tolist()
        [0.0, 1.0]
    """

    def __init__(
        self, model: nn.Module, groups: Mapping[str, ChannelGroup], images: Sequence[Tensor], labels: Tensor
    ) -> None:
        self._model, self._groups, self._images = model, groups, images
        self._labels = torch.split(labels, [len(batch) for batch in images])
        self._place = [(number, row) for number, batch in enumerate(images) for row in range(len(batch))]
        self._candidate: Kept | None = None
        self._found: dict[int, Tensor] = {}

    def misses(self, kept: Kept, images: Tensor) -> Tensor:
        """Return 1 for each of `images` (n,) that the candidate misses, else 0, float64.

        Raises:
            DataError: an output is NaN.
        """
        if kept != self._candidate:
            self._candidate, self._found = dict(kept), {}
        places = [self._place[image] for image in images.tolist()]
        with masked(self._model, self._groups, kept), torch.inference_mode():
            for number in {number for number, _ in places} - self._found.keys():
                outputs = self._model(own_copy(self._model, self._images[number]))
                self._found[number] = penalties("accuracy", outputs, self._labels[number]).values
        return torch.stack([self._found[number][row] for number, row in places])


class _Precision(TorchDispatchMode):
    """Notes the coarsest floating-point numbers that operations read or give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves the base untyped
        self.eps = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, found)):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                self.eps = max(self.eps, torch.finfo(leaf.dtype).eps)
        return found
