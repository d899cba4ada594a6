"""Which unknowns of a layer are left, (G, D), once channels that it read have gone, and what is solved for those."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from secateur.records import Member
from secateur.regression.layer_rows import columns_of


def drop(live: Tensor, module: nn.Module, member: Member, gone: Collection[int]) -> None:
    """Note, in place, that a layer no longer reads some channels of a group.

    Args:
        live: (G, D), True for what is read.
        module: the layer.
        member: which of its inputs the channels of the group are.
        gone: channels of the group.

    Example:
        >>> live = torch.ones(1, 4, dtype=torch.bool)
        >>> drop(live, nn.Linear(4, 1), Member("", "consumer", ((0, 2), (1, 3))), [1])
        >>> live.tolist()
        [[True, False, True, False]]
    """
    for block, owned in enumerate(columns_of(module, member.indices)):
        live[block, [column for channel in gone for column in owned[channel]]] = False


def unknowns_of(live: Tensor) -> Tensor:
    """Return where the unknowns of each block are that are left, (G, d); all blocks have as many.

    Example:
        >>> unknowns_of(torch.tensor([[True, False, True]]))
        tensor([[0, 2]])
    """
    return torch.stack([row.nonzero()[:, 0] for row in live])


def spread(found: Tensor, unknowns: Tensor, weight: Tensor) -> Tensor:
    """Return a matrix like `weight` (G, D, O) with the rows `found` (G, d, O) at `unknowns` (G, d), and 0 elsewhere.

    Example:
        >>> spread(torch.ones(1, 1, 1), torch.tensor([[2]]), torch.zeros(1, 3, 1)).flatten().tolist()
        [0.0, 0.0, 1.0]
    """
    return torch.zeros_like(weight).scatter_(1, unknowns[:, :, None].expand_as(found), found)
