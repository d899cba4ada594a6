"""The candidates of a race as masks on one network, each run on images of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from secateur.evaluation.forks import Beginning, Forks
from secateur.evaluation.stage import Edit, Stage
from secateur.protocols import Kept

WORTHWHILE = 2  # candidates that want an image, on average, from which on what is common to them is computed first


class Field:
    """Some candidates on a stage, and from which layer on each differs from it: by its mask, or by its edits.

    Args:
        stage: the network that they share.
        forks: of the network.
        candidates: number of a candidate -> what it keeps.
        edits: number of a candidate -> what it changes beside its mask.
        memory_format: of the images.
    """

    def __init__(
        self,
        stage: Stage,
        forks: Forks,
        candidates: Mapping[int, Kept],
        edits: Mapping[int, Sequence[Edit]],
        memory_format: torch.memory_format,
    ) -> None:
        self._stage, self._forks, self._candidates, self._edits = stage, forks, candidates, edits
        self._format = memory_format
        owners = _owners(stage.network) if any(edits.values()) else {}
        self._entries = {}
        for number, kept in candidates.items():
            edited = [name for target, _ in edits[number] for name in owners[target.data_ptr()]]
            self._entries[number] = forks.first([*stage.layers(kept), *edited])

    def outputs(
        self, images: Tensor, wanted: Mapping[int, Tensor], *, at_once: int, chunk: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield each candidate's number with its outputs on the images that it wants, (n, K).

        Args:
            images: all images, (N, ...).
            wanted: number of a candidate -> which of them, (n,).
            at_once: of how many images what is common may be held.
            chunk: how many images are run at a time.

        Cost: what is common for each image that anyone wants, and the rest for each candidate; where few want the same,
        the whole network for each.
        """
        union = torch.unique(torch.cat(list(wanted.values())))
        if not at_once or sum(map(len, wanted.values())) < WORTHWHILE * len(union):
            for number, which in wanted.items():
                yield (
                    number,
                    torch.cat([self._run(number, images[part], "", Beginning()) for part in _even(which, chunk)]),
                )
            return
        found: dict[int, list[tuple[Tensor, Tensor]]] = {number: [] for number in wanted}
        for some in union.split(at_once):
            begun = self._begin(images, some, list(wanted), chunk)
            for number, which in wanted.items():
                here = torch.isin(which, some).nonzero()[:, 0]
                for part in _even(here, chunk):
                    rows = torch.searchsorted(some, which[part])
                    outputs = self._run(number, images[which[part]], self._entries[number], begun, rows)
                    found[number].append((part, outputs))
        for number, parts in found.items():
            places, outputs = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
            yield number, outputs[torch.argsort(places)]

    def _begin(self, images: Tensor, some: Tensor, numbers: Sequence[int], chunk: int) -> Beginning:
        """Run what is common to some candidates on some of the images."""
        parts = []
        for part in _even(some, chunk):
            entries = [self._entries[number] for number in numbers]
            with self._forks.keeping(self._stage.network, entries) as begun, torch.inference_mode():
                self._stage.network(images[part].contiguous(memory_format=self._format))
            parts.append(begun)
        return Beginning.joined(parts)

    def _run(self, number: int, images: Tensor, entry: str, begun: Beginning, rows: Tensor | None = None) -> Tensor:
        """Return a candidate's outputs on some images: those at `rows` of a batch whose beginning is known."""
        network = self._stage.network
        with (
            self._stage.candidate(self._candidates[number], self._edits[number]),
            self._forks.resuming(network, entry, begun, rows),
            torch.inference_mode(),
        ):
            outputs: Tensor = network(images.contiguous(memory_format=self._format))
        return outputs


def _owners(network: nn.Module) -> dict[int, list[str]]:
    """Return the modules that hold the tensor at each address."""
    owners: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for tensor in chain(module.parameters(recurse=False), module.buffers(recurse=False)):
            owners.setdefault(tensor.data_ptr(), []).append(name)
    return owners


def _even(which: Tensor, chunk: int) -> Sequence[Tensor]:
    """Return parts of at most `chunk`, of nearly the same size; none of nothing."""
    return which.tensor_split(-(-len(which) // chunk)) if len(which) else ()
