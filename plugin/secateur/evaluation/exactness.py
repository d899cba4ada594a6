"""Judge literally where rounding could decide: on the dense network, masked, in the batches that were given.

A cut network adds up in another order than a masked one. Its outputs differ by rounding, some 1e-6 of the largest, and
an image whose two largest outputs lie closer than that may be counted otherwise. Such images are few; they are judged
again as `MaskedAccuracy` does it, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.channel_graph.masks import masked
from secateur.modes import tf32_allowed
from secateur.protocols import Kept
from secateur.records import ChannelGroup

ROUNDING = 1e-4  # of the largest output: a hundred times what was seen
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
        """Return 1 for each of `images` (n,) that the candidate misses, else 0, float64."""
        if kept != self._candidate:
            self._candidate, self._found = dict(kept), {}
        places = [self._place[image] for image in images.tolist()]
        with masked(self._model, self._groups, kept), torch.inference_mode():
            for number in {number for number, _ in places} - self._found.keys():
                answers = self._model(self._images[number]).argmax(1)
                self._found[number] = (answers != self._labels[number]).double()
        return torch.stack([self._found[number][row] for number, row in places])
