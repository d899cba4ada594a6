"""The shapes that a stranger can plug in: criteria over maps, weights or gradients, a cost model, an evaluation.

The three kinds of criteria share what they return, one score per channel, and nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor

S = TypeVar("S")
Kept = Mapping[str, tuple[int, ...]]
"""A candidate of a search: group -> the channels that it keeps; absent groups keep all."""


@runtime_checkable
class Criterion(Protocol[S]):
    """A streaming statistic over feature maps that gives each channel of a layer one score; larger = keep.

    Attributes:
        name: the key in `secateur.criteria.CRITERIA`.
        needs_labels: whether `update` reads `labels`.
        batch_size: the size of the batches the statistic is defined on (None: any split gives the same scores).
        samples: how many images to read by default.
        accepts_vectors: whether the outputs of linear layers, (N, C, 1, 1), can be scored.

    The attributes are only read: a frozen dataclass or plain class attributes serve.
    The state is returned, never hidden: `update` may add to the tensors of `state` in place, but callers use only
    what it returns.
    """

    @property
    def name(self) -> str: ...
    @property
    def needs_labels(self) -> bool: ...
    @property
    def batch_size(self) -> int | None: ...
    @property
    def samples(self) -> int: ...
    @property
    def accepts_vectors(self) -> bool: ...

    def init(self, channels: int) -> S:
        """Return the empty state for a layer of `channels` channels."""
        ...

    def update(self, state: S, feature_maps: Tensor, labels: Tensor | None) -> S:
        """Add one batch: `feature_maps` (N, C, H, W) floating, `labels` (N,) int64 or None."""
        ...

    def compute(self, state: S) -> Tensor:
        """Return the scores (C,), float64, larger = keep."""
        ...


@runtime_checkable
class Mergeable(Criterion[S], Protocol[S]):
    """A criterion whose states add up, so that several processes may each read a share of the images.

    `merge` in any order and of any shares gives the state of one process that read all of their batches, up to
    rounding. States must survive pickle, in which they are sent.
    """

    def merge(self, state: S, other: S) -> S:
        """Return the state of the batches that either of two states has seen; both may be empty."""
        ...


@runtime_checkable
class WeightCriterion(Protocol):
    """A function of a layer's weights that gives each of its channels one score; larger = keep.

    Attributes:
        name: the key in `secateur.criteria.WEIGHT_CRITERIA`.
        reads: whose weight is handed over: the layer's own "filters", (C, C_in/groups, k, k), or the scale, (C,), of
            the batch "norm" that reads the layer's output.
    """

    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> Literal["filters", "norm"]: ...

    def __call__(self, weight: Tensor) -> Tensor:
        """Return the scores (C,), float64, larger = keep, of weights (C, ...)."""
        ...


@runtime_checkable
class GradientCriterion(Protocol):
    """A function of a layer's weights and of the loss's gradient by them, averaged over batches; larger = keep.

    Attributes:
        name: the key in `secateur.criteria.GRADIENT_CRITERIA`.
        batch_size: images in one gradient.
        samples: how many images to read by default.
    """

    @property
    def name(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def samples(self) -> int: ...

    def __call__(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Return the scores (C,), float64, larger = keep, of weights and gradients (C, ...)."""
        ...


class CostModel(Protocol):
    """What a network costs, as a function of the widths of its channel groups; non-decreasing in each of them."""

    name: str
    unit: str

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the cost when group g keeps `widths[g]` channels; groups that are absent keep all of theirs."""
        ...


class Evaluate(Protocol):
    """What a candidate of the search is worth; larger is better."""

    def __call__(self, kept: Kept) -> float:
        """Return the worth of the network that keeps the channels `kept[g]` of group g, and all of absent groups."""
        ...


class Worth(NamedTuple):
    """What a candidate is worth, or, if not `exact`, a number that its worth does not exceed."""

    value: float
    exact: bool = True


@runtime_checkable
class Race(Evaluate, Protocol):
    """An evaluation that finds the best of several candidates with less work than by judging each to the end."""

    def race(
        self,
        candidates: Sequence[Kept],
        *,
        known: Mapping[int, Worth] = ...,
        record: Callable[[int, Worth], None] = ...,
    ) -> list[Worth]:
        """Return the worth of each candidate; it is exact wherever no other candidate is worth more.

        Args:
            candidates: what is compared; `evaluate(candidates[i])` is the exact worth of each.
            known: number of a candidate -> what an earlier race, of these or other candidates, found for it.
            record: called with a candidate's number and worth as soon as either is settled.
        """
        ...
