"""The reconstruction criterion: which channels the layers that read them can best do without, if they may adapt.

A reader of the channels regresses its outputs T (n, O) on its rows U (n, D), of which channel c owns the columns S_c
(K of them in a convolution with a kernel of K positions, H*W behind a flatten). With

    V = (U'U + r I)^-1,     B = V U'T,     r = ridge * mean(diag(U'U)),

the squared error (and r times the squared weights) that is added when c goes and all other weights adapt is

    loss_c = tr( B_c' (V_cc)^-1 B_c ),          B_c = B[S_c], V_cc = V[S_c, S_c]:

eq. (5) of discriminant information [Hou2020] with a reader's outputs where that has the labels, and the optimal brain
surgeon's saliency [Hassibi1993] for a block of weights. The channel with the smallest loss goes, then

    B <- B - V[:, c] V_cc^-1 B_c,       V <- V - V[:, c] V_cc^-1 V[c, :],

and so on to the last. Where several layers read the channels their losses are summed. A channel's score is the error
once it and all that fell before it are gone: the error curve of the layer, e(k) for k kept channels, and its ranking.

The errors are told once the order is known, be it this one or that of another criterion's scores, whose error curve
they then are. With the columns arranged so that those that go first stand last, U'U + r I = L L', and Z = L^-1 U'T,

    loss_c = |Z[S_c]|^2        once all that go before c are gone,

since the leading rows of L and Z are those of the regression on the columns that stay.

References:
    [Hassibi1993] B. Hassibi and D. Stork, Second Order Derivatives for Network Pruning: Optimal Brain Surgeon,
        NIPS 1993. For structures of weights also E. Frantar and D. Alistarh, Optimal Brain Compression, NeurIPS 2022.
    [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
        arXiv 2005.13796, 2020.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.counts import check_counts
from secateur.criteria.adapting import Reader, check_ridge
from secateur.errors import ConfigError, ScoreError


@dataclass(frozen=True)
class Reconstruction:
    """The error with which the readers of a group of channels are left: readings -> (C,), float64, larger = keep.

    Formula: the score of a channel is the readers' squared error, each about its best fit, once this channel and all
    that are worth less are gone; see the module.

    Args:
        samples: how many images to read unless the caller says otherwise.
        rows: of each reader, drawn at random from all images.
        ridge: r, as a share of the mean of the diagonal of U'U.
        labels: how much the images' classes weigh beside the readers' outputs, 0 for not at all: they join the targets
            T, scaled so that their variation is this many times that of the outputs.
        memory: bytes for images, equations and solving; channels whose readers need more are not scored.
        relative: whether a reader's error counts as a share of the variance of what it is added to, behind batch norm
            and residual sum. Errors of several readers, and scores of several groups, are in one unit then.

    Raises:
        ConfigError: an option out of range.

    Example:
        >>> from secateur.criteria.adapting import Reading
        >>> UU, UT = torch.diag(torch.tensor([4.0, 1.0, 9.0])), torch.ones(3, 1)
        >>> scores = Reconstruction(ridge=1e-9)([Reading(UU, UT, 2.0, ((0,), (1,), (2,)))])
        >>> [round(score, 3) for score in scores.tolist()]
        [1.0, 2.0, 0.75]
    """

    name: str = field(default="reconstruction", init=False)
    samples: int = 1000
    rows: int = 80_000
    ridge: float = 1e-2
    labels: float = 0.0
    memory: int = 2**31
    relative: bool = True

    def __post_init__(self) -> None:
        check_counts(of=self.name, samples=self.samples, rows=self.rows, memory=self.memory)
        check_ridge(self.ridge)
        if not 0 <= self.labels < float("inf"):
            raise ConfigError(f"reconstruction: labels is {self.labels}; allowed: numbers from 0 (no labels) on")

    def __call__(self, readings: Sequence[Reader], *, order: Sequence[int] | None = None) -> Tensor:
        """Return the score of each channel of a group from what its readers give; `order` as in `elimination`."""
        gone, errors = elimination(readings, ridge=self.ridge, order=order)
        scores = torch.empty(len(gone), dtype=torch.float64)
        scores[gone] = torch.tensor(errors, dtype=torch.float64)
        return scores


def elimination(
    readings: Sequence[Reader],
    *,
    ridge: float = 1e-2,
    keep: int = 0,
    order: Sequence[int] | None = None,
    parts: Collection[Collection[int]] = (),
) -> tuple[list[int], list[float]]:
    """Return the channels in the order in which they go, and the squared error once each is gone; see the module.

    Args:
        readings: of every layer that reads the channels; means taken away beforehand where the layer has an intercept.
        ridge: r, as a share of the mean of the diagonal of U'U.
        keep: at how many channels to stop.
        order: all channels in the order in which they go; None: always the one of least loss.
        parts: channels of which one must stay, `ChannelGroup.parts`: the last of a part does not go. A given order is
            followed whatever they are.

    Returns:
        Channels and errors, both of the length `len(owned) - keep`; errors never fall. Of equal losses the channel with
        the lower index goes first.

    Raises:
        ConfigError: a ridge that is not positive, or so small that float64 cannot solve.
        ScoreError: there is no reading, they tell of different numbers of channels, channels of one reader own
            different numbers of columns, `order` does not name each channel once, or fewer are to stay than there are
            parts.

    Cost: D^3 / 3 + D^2 O for each reader of D columns and O outputs, in float64, and twice 8 D^2 bytes; without an
    order first that of `cheapest_first`. Less for a reader of few rows: `secateur.criteria.adapting.RowReading`.

    Example:
        >>> from secateur.criteria.adapting import Reading
        >>> UU, UT = torch.diag(torch.tensor([4.0, 1.0, 9.0])).double(), torch.ones(3, 1).double()
        >>> order, errors = elimination([Reading(UU, UT, 2.0, ((0,), (1,), (2,)))], ridge=1e-9)
        >>> order, [round(e, 3) for e in errors]
        ([2, 0, 1], [0.75, 1.0, 2.0])
    """
    count = _channels(readings, ridge)
    if order is None:
        gone = cheapest_first(readings, ridge=ridge, keep=keep, parts=parts)
        order = [*gone, *sorted({*range(count)} - {*gone})]
    elif sorted(order) != list(range(count)):
        raise ScoreError(f"the order must name each of {count} channels once")
    solved = [reading.in_order(order, ridge) for reading in readings]
    error = sum(least for least, _ in solved)
    losses = sum((each for _, each in solved), torch.zeros(count, dtype=torch.float64)).tolist()
    return list(order[: count - keep]), list(itertools.accumulate(losses[: count - keep], initial=error))[1:]


def cheapest_first(
    readings: Sequence[Reader], *, ridge: float = 1e-2, keep: int = 0, parts: Collection[Collection[int]] = ()
) -> list[int]:
    """Return the channels in the order in which they go, always the one of least loss, down to `keep` channels.

    Args and errors as in `elimination`.

    Cost: D^3 + d^3 + d^2 O for each reader of D columns, d of them owned by the channels, and O outputs, in float64;
    three times 8 D^2 bytes, 9 d^2 of them throughout.

    Example:
        >>> from secateur.criteria.adapting import Reading
        >>> UU, UT = torch.diag(torch.tensor([4.0, 1.0, 9.0])).double(), torch.ones(3, 1).double()
        >>> cheapest_first([Reading(UU, UT, 2.0, ((0,), (1,), (2,)))], keep=1)
        [2, 0]
    """
    count = _channels(readings, ridge)
    if keep < len(parts):
        raise ScoreError(f"cannot keep {keep} channels, of which {len(parts)} parts need one each")
    alive = torch.ones(count, dtype=torch.bool)
    within = torch.zeros(len(parts), count, dtype=torch.bool)
    for row, part in zip(within, parts, strict=True):
        row[list(part)] = True
    readers = [reading.adapting(ridge) for reading in readings]
    gone: list[int] = []
    for _ in range(count - keep):
        losses = torch.zeros(count, dtype=torch.float64)
        for reader in readers:
            losses[reader.channels] += reader.losses().cpu()
        left = within & alive
        losses[~alive | left[left.sum(1) == 1].any(0)] = torch.inf
        channel = int(losses.argmin())
        for reader in readers:
            reader.remove(channel)
        alive[channel] = False
        gone.append(channel)
    return gone


def _channels(readings: Sequence[Reader], ridge: float) -> int:
    """Return how many channels there are, if the readings can be solved and compared."""
    check_ridge(ridge)
    if len({len(reading.owned) for reading in readings}) != 1:
        raise ScoreError("readings are needed, at least one, and all of the same channels")
    if any(len({len(columns) for columns in reading.owned if columns}) > 1 for reading in readings):
        raise ScoreError("the channels own different numbers of a reader's inputs, and cannot be compared")
    return len(readings[0].owned)
