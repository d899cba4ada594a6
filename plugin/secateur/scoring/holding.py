"""The images that readers of channels are told by: this process's own, and what they give together with the others'.

Each process holds its share of the images and reads its part of the rows; equations add up, and so do the means and
squared deviations from which variances are had. All processes see the same example, so that all ask the same.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.batches import Batches, hold
from secateur.criteria import Reconstruction, options_of
from secateur.criteria.inputs import as_classes
from secateur.criteria.moments import Moments
from secateur.distributed import Across, Share, jointly, part_of, place_in, sum_of
from secateur.errors import DataError
from secateur.modes import device_of
from secateur.regression import FewRows, NormalEquations, sample_outputs, targets_of
from secateur.scoring.readers import fill, layout_with


@dataclass(frozen=True)
class Held:
    """The images of this process and what is known of those of all.

    Attributes:
        images: the batches of this process, (N, ...); there may be none.
        classes: for each of them (N, L), zeros and ones; None where labels are not asked for.
        example: two inputs, the same on all processes.
        total: how many images all processes hold.
        nbytes: of the images of the process that holds most.
        rank: of this process.
        across: the processes.
    """

    images: list[Tensor]
    classes: list[Tensor] | None
    example: Tensor
    total: int
    nbytes: int
    rank: int
    across: Across

    @property
    def width(self) -> int:
        """How many classes there are; 0 where they are not asked for."""
        return 0 if self.classes is None else self.classes[0].shape[1]


def held(network: nn.Module, batches: Batches, rule: Reconstruction, across: Across) -> Held:
    """Return the images of this process, its part of `rule.samples` at most.

    Raises:
        DataError: no process has any, they differ in shape, need more than half of the memory, or labels are missing
            that the rule asks for.
        ProcessError: another process failed, or has another network or rule.

    Example:
        >>> [*map(len, held(nn.ReLU(), [torch.zeros(4, 1), torch.zeros(4, 1)], Reconstruction(samples=6), None).images)]
        [4, 2]
    """
    images: list[Tensor] = []

    def read() -> tuple[Share, int, Tensor | None, Tensor]:
        part = part_of(rule.samples, across)
        found, marks = hold(batches, samples=part, memory=rule.memory, least=int(across is None))
        labels = [own for own in marks if own is not None]
        if rule.labels and len(labels) < len(found):
            raise DataError(f"labels={rule.labels} reads labels, but the batches hold inputs alone")
        images.extend(found)
        share = Share()
        for batch in found:
            share = share.with_batch(batch)
        example = found[0][:2].cpu() if found else None
        read = [own.cpu() for own in labels] if rule.labels else []
        return share, sum(batch.nbytes for batch in found), example, torch.cat([*read, torch.zeros(0).long()])

    settings = {"options": options_of(rule)}
    parts = jointly(read, across, what=f"scores by {rule.name!r}", network=network, settings=settings)
    total, _ = sum_of([share for share, _, _, _ in parts], fixed=False)
    rank = 0 if across is None else place_in(across)[0]
    classes = None
    if rule.labels:
        marks = functional.one_hot(as_classes(torch.cat([labels for _, _, _, labels in parts]), total))
        own = torch.split(marks, [share.images for share, _, _, _ in parts])[rank]
        classes = list(torch.split(own, [len(batch) for batch in images])) or [own]
    example = next(example for _, _, example, _ in parts if example is not None)
    return Held(images, classes, example, total, max(size for _, size, _, _ in parts), rank, across)


def joint_equations(
    network: nn.Module, layers: Iterable[str], images: Held, rows: int, *, few: Collection[str]
) -> dict[str, NormalEquations | FewRows]:
    """Return the equations of each layer over the images of all processes; see `fill`. Of a `few`, their rows.

    Cost: that of `fill`, and the memory of one layer's equations for each process beside all of this one.
    """
    device = device_of(network)
    own: dict[str, NormalEquations | FewRows] = {
        name: (FewRows if name in few else NormalEquations)(
            layout_with(network.get_submodule(name), images.width), device=device
        )
        for name in layers
    }

    def read() -> None:
        fill(network, own, images.images, images.classes, rows, total=images.total, seed=images.rank)

    jointly(read, images.across, what="the equations of the readers")
    if images.across is None:
        return own
    for name in own:
        send: Any = functools.partial(own[name].to, torch.device("cpu"))
        parts = jointly(send, images.across, what=f"the equations of {name!r}")
        own[name] = functools.reduce(lambda one, other: one.joined(other), parts).to(device)
    return own


def variations(network: nn.Module, layers: Collection[str], images: Held, rows: int) -> dict[str, float]:
    """Return for each layer the variance of what its output is added to, summed over its channels.

    That is what lies behind the layer's batch norm and residual sum, in the unit of the errors of `readings_of`; 1
    where nothing varies.

    Cost: a forward pass.
    """
    targets = targets_of(network, images.example.to(device_of(network)), layers, at="sum")
    share = -(-rows * sum(map(len, images.images)) // images.total)

    def read() -> dict[str, Moments]:
        samples = sample_outputs(network, images.images, targets, rows=share, seed=images.rank)
        values = {name: [sample.values for batch in own for sample in batch] for name, own in samples.items()}
        return {name: Moments.of(torch.cat(own).cpu(), dim=0) for name, own in values.items() if own}

    parts = jointly(read, images.across, what="the variance behind the readers")
    units = {}
    for name, target in targets.items():
        moments = functools.reduce(Moments.joined, [part[name] for part in parts if name in part])
        gain = target.gain if target.at == "layer" else None
        variance = moments.variance if gain is None else moments.variance * gain.cpu().double().square()
        units[name] = float(variance.sum()) or 1.0
    return units
