"""What a layer's equations tell a criterion about the channels of a group that it reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.criteria.adapting import Reading, RowReading
from secateur.errors import DataError
from secateur.records import Member
from secateur.regression.equations import NormalEquations
from secateur.regression.few_rows import FewRows
from secateur.regression.layer_rows import columns_of, layout_of
from secateur.regression.targets import Target


def readings_of(
    equations: NormalEquations,
    module: nn.Module,
    target: Target,
    member: Member,
    *,
    labels: float = 0.0,
    unit: float = 1.0,
    live: Tensor | None = None,
) -> list[Reading]:
    """Return what each block of a layer that reads channels of a group gives, per row.

    Errors count as they are seen behind the batch norm that alone reads the layer: times its gain.

    Args:
        equations: of what the layer's outputs should be, and beside them, where `labels` asks for it, the classes.
        module, target: the layer.
        member: which of its inputs the channels of the group are.
        labels: how many times the outputs' variation that of the classes shall be; 0 where there are none.
        unit: the squared error that counts as 1.
        live: (G, D), which unknowns of each block are still read; None for all.

    Raises:
        DataError: the classes are asked for, and all rows are of one.

    Example:
        >>> layer, target = nn.Linear(2, 1, bias=False), Target("layer", None)
        >>> equations = NormalEquations(layout_of(layer))
        >>> equations.add(2 * torch.eye(2)[None], torch.tensor([[[1.0], [3.0]]]))
        >>> [reading] = readings_of(equations, layer, target, Member("", "consumer", ((0,), (1,))))
        >>> reading.UU.diagonal().tolist(), reading.UT.flatten().tolist(), reading.TT
        ([2.0, 2.0], [1.0, 3.0], 5.0)
    """
    outputs = layout_of(module).outputs
    gain = _gain(module, target).to(equations.UE)
    UU, UT, TT = equations.moments(intercept=target.can_shift(module))
    UT, TT = UT[:, :, :outputs] * gain[:, None], TT[:, :outputs] * gain.square()
    if labels:
        _, about, variation = equations.moments(intercept=True)
        own = (variation[:, :outputs] * gain.square()).sum(1)
        scale = (labels * own / _of_classes(variation[:, outputs:], member))[:, None]
        UT = torch.cat([UT, about[:, :, outputs:] * scale.sqrt()[:, None]], dim=2)
        TT = torch.cat([TT, variation[:, outputs:] * scale], dim=1)
    readings = []
    for block, owned in enumerate(columns_of(module, member.indices)):
        if any(owned):
            n, there = equations.rows, UU[block] / equations.rows
            reading = Reading(there, UT[block] / n / unit**0.5, float(TT[block].sum()) / n / unit, owned)
            readings.append(reading if live is None else _restricted(reading, live[block]))
    return readings


def row_readings_of(
    few: FewRows, module: nn.Module, target: Target, member: Member, *, labels: float = 0.0, unit: float = 1.0
) -> list[RowReading]:
    """Return what `readings_of` does, of a layer whose rows themselves are held.

    Args:
        few: of what the layer's outputs should be, and beside them, where `labels` asks for it, the classes.
        module, target: the layer.
        member: which of its inputs the channels of the group are.
        labels: how many times the outputs' variation that of the classes shall be; 0 where there are none.
        unit: the squared error that counts as 1.

    Raises:
        DataError: the classes are asked for, and all rows are of one.

    Example:
        >>> layer, target = nn.Linear(2, 1, bias=False), Target("layer", None)
        >>> few = FewRows(layout_of(layer))
        >>> few.add(torch.tensor([[[2.0, 4.0]]]), torch.tensor([[[3.0]]]))
        >>> [reading] = row_readings_of(few, layer, target, Member("", "consumer", ((0,), (1,))))
        >>> reading.U.tolist(), reading.T.tolist()
        ([[2.0, 4.0]], [[3.0]])
    """
    outputs = layout_of(module).outputs
    U, T = few.about_means(intercept=target.can_shift(module))
    gain = _gain(module, target).to(T)[:, None]
    T = T[:, :, :outputs] * gain
    if labels:
        about = few.about_means(intercept=True)[1]
        own, marks = (about[:, :, :outputs] * gain).square().sum((1, 2)), about[:, :, outputs:]
        scale = labels * own / _of_classes(marks.square().sum(1), member)
        T = torch.cat([T, marks * scale.sqrt()[:, None, None]], dim=2)
    share = few.rows**-0.5
    return [
        RowReading(U[block] * share, T[block] * (share / unit**0.5), owned)
        for block, owned in enumerate(columns_of(module, member.indices))
        if any(owned)
    ]


def _of_classes(variation: Tensor, member: Member) -> Tensor:
    """Return the variation (G,) of all classes together, from that of each, (G, L)."""
    if not bool(variation.any()):
        raise DataError(
            f"the rows that were drawn of layer {member.layer!r} are all of one class, which `labels` cannot tell from "
            "others: read more rows"
        )
    return variation.sum(1)


def _gain(module: nn.Module, target: Target) -> Tensor:
    """Return how much an error of each output of each block counts, (G, O)."""
    blocks, _, outputs = layout_of(module)
    return torch.ones(blocks, outputs) if target.gain is None else target.gain.view(blocks, outputs)


def _restricted(reading: Reading, live: Tensor) -> Reading:
    """Return the reading of a block that reads only some of its inputs, live (D,)."""
    columns = live.nonzero()[:, 0]
    place = {column: idx for idx, column in enumerate(columns.tolist())}
    owned = tuple(tuple(place[column] for column in own) for own in reading.owned)
    return Reading(reading.UU[columns][:, columns], reading.UT[columns], reading.TT, owned)
