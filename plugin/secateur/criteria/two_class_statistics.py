"""How well a channel tells one class from the others: four statistics of two classes, made multi-class one-vs-rest.

Every pixel of a channel's maps is one value. For class k, "+" are the values in images of class k and "-" all others;
with their means mu, population variances v = s^2 and n images on each side,

    snr                     |mu+ - mu-| / (s+ + s- + e)                                                      e = 1e-4
    fisher                  (mu+ - mu-)^2 / (v+ + v- + e)                                                    e = 1e-4
    symmetric_divergence    (v+ / (v- + e) + v- / (v+ + e)) / 2 + (mu+ - mu-)^2 / (v+ + v- + e) / 2 - 1      e = 0.05
    t                       |mu+ - mu-| / sqrt(v+ / n+ + v- / n- + e)                                        e = 1e-4

and the score is the mean over the classes. Larger = keep. A dead channel scores 0, and -1 in the symmetric divergence,
where it is the last one too. They are cheap relatives of discriminant information, by which [Hou2020]_ compares it; the
first, second and last rank nearly alike, and unlike DI.

Deviations from the paper and the code published with its sequel:

* *The absolute SNR.* Signed, it is useless one-vs-rest: with equally many images in each class mu+ - mu- is
  L/(L-1) (mu_k - mu), whose sum over the classes is zero, so that the average of the signed ratios all but cancels.
* *n counts images* in Welch's t [Welch1947]_, as that code has it, though the moments are taken over pixels: pixels of
  one map are not independent draws.
* *The symmetric divergence is not one.* Between two normal distributions the mean term is
  (mu+ - mu-)^2 (1/v+ + 1/v-) / 2. `exact_kl=True` gives the true one, of both distributions widened by e.
* *Streaming.* The published code holds the maps of all images; here counts, means and squared deviations of each class
  are joined batch by batch in float64, so that batches of any size and order give the same scores up to rounding.

.. [Hou2020] Z. Hou, S.-Y. Kung. A feature-map discriminant perspective for pruning deep neural networks.
   arXiv:2005.13796, 2020.
.. [Welch1947] B. L. Welch. The generalization of 'Student's' problem when several different population variances are
   involved. Biometrika 34, 1947.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from secateur.counts import check_counts
from secateur.criteria.inputs import as_feature_maps, as_labels
from secateur.criteria.moments import Moments, image_moments
from secateur.errors import ConfigError, DataError

Statistic = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Reduce = Literal["pixels", "gap"]
Aggregate = Literal["mean", "max", "sum"]
CHOICES = {"reduce": ("pixels", "gap"), "aggregate": ("mean", "max", "sum")}


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """The state: `labels` (L,) ascending, `images` (L,) of each class, and the `moments` (L, C) of their values."""

    labels: Tensor
    images: Tensor
    moments: Moments


@dataclass(frozen=True, eq=False)
class Side:
    """One side of every comparison: `mean` and `variance` (L, C), and `images` (L, 1), how many it has; float64."""

    mean: Tensor
    variance: Tensor
    images: Tensor


@dataclass(frozen=True)
class OneVsRest(ABC):
    """A statistic of two classes as a criterion: each class against all others.

    Formula: `compute` gives the aggregate over the classes k of statistic(mu+, mu-, v+, v-, n+, n-), (C,), float64.
    Classes may be missing from a batch, and a batch may hold one image or one class. A class with a single image is
    a class like any other; its variance is that of the pixels (zero with "gap").

    Args:
        samples: how many images to read unless the caller says otherwise.
        reduce: "pixels": every pixel of a map is a value; "gap": the map's average is (global average pooling).
        aggregate: "mean" over the classes, "max" or "sum".

    Raises:
        ConfigError: an option outside of what is allowed.
        DataError: by `update`, maps or labels that cannot be used; by `compute`, when no image or one class was seen.

    Cost of `update`: two passes over the maps in float64. The state holds 3 L C numbers.

    Source: [Hou2020]_. Deviations: see the module.
    """

    name: str = field(default="one_vs_rest", init=False)
    needs_labels: bool = field(default=True, init=False)
    batch_size: int | None = field(default=None, init=False)
    accepts_vectors: bool = field(default=True, init=False)
    samples: int = 1280
    reduce: Reduce = "pixels"
    aggregate: Aggregate = "mean"

    def __post_init__(self) -> None:
        for option, allowed in CHOICES.items():
            if getattr(self, option) not in allowed:
                raise ConfigError(
                    f"{self.name}: {option} is {getattr(self, option)!r}; allowed: {', '.join(map(str, allowed))}"
                )
        check_counts(of=self.name, least=2, samples=self.samples)
        epsilon = getattr(self, "epsilon", 1.0)
        if not 0 < epsilon < float("inf"):
            raise ConfigError(f"{self.name}: epsilon is {epsilon}; it must be a positive number")

    @abstractmethod
    def statistic(self, one: Side, rest: Side) -> Tensor:
        """Return the statistic (L, C) of each class against all others."""

    def init(self, channels: int) -> ClassMoments:
        """Return the empty state of a layer of `channels` channels."""
        return ClassMoments(
            torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64), Moments.none(0, channels)
        )

    def update(self, state: ClassMoments, feature_maps: Tensor, labels: Tensor | None) -> ClassMoments:
        """Add one batch: maps (N, C, H, W), labels (N,) integers. Returns a new state."""
        maps = as_feature_maps(feature_maps, state.moments.mean.shape[1])
        numbers = as_labels(labels, len(maps)).cpu()
        moments = image_moments(maps)
        if self.reduce == "gap":
            moments = Moments(torch.ones_like(moments.count), moments.mean, torch.zeros_like(moments.mean))
        return self.merge(state, ClassMoments(numbers, torch.ones(len(numbers), dtype=torch.float64), moments))

    def merge(self, state: ClassMoments, other: ClassMoments) -> ClassMoments:
        """Return the state of the images that either has seen."""
        union: Tensor = torch.unique(torch.cat([state.labels, other.labels]))
        old, new = (torch.searchsorted(union, known) for known in (state.labels, other.labels))
        images = torch.zeros(len(union), dtype=torch.float64).index_add_(0, new, other.images)
        images[old] += state.images
        joined = state.moments.summed(old, len(union)).joined(other.moments.summed(new, len(union)))
        return ClassMoments(union, images, joined)

    def compute(self, state: ClassMoments) -> Tensor:
        """Return the scores, (C,), float64."""
        L = len(state.labels)
        if L < 2:
            seen = f"only class {int(state.labels[0])} has" if L else "no image has"
            raise DataError(f"{seen} been seen; {self.name} needs images of at least two classes")
        others, images = _others(state.moments), state.images[:, None]
        one = Side(state.moments.mean, state.moments.variance, images)
        rest = Side(others.mean, others.variance, images.sum() - images)
        values = self.statistic(one, rest)
        if values.shape != one.mean.shape:
            raise ConfigError(
                f"the statistic of {self.name!r} must give one number for each class and channel, "
                f"{tuple(one.mean.shape)}; it gives {tuple(values.shape)}"
            )
        if self.aggregate == "max":
            return values.amax(0)
        return values.mean(0) if self.aggregate == "mean" else values.sum(0)


def _others(moments: Moments) -> Moments:
    """Return for each class the moments of all others, (L, C): those before it joined with those behind it."""
    rows = [Moments(*row) for row in zip(moments.count, moments.mean, moments.deviations, strict=True)]
    none = Moments.none(moments.mean.shape[1])
    before = list(accumulate(rows[:-1], Moments.joined, initial=none))
    behind = list(accumulate(rows[:0:-1], Moments.joined, initial=none))[::-1]
    rests = [a.joined(b) for a, b in zip(before, behind, strict=True)]
    return Moments(*(torch.stack([getattr(rest, name) for rest in rests]) for name in vars(none)))


@dataclass(frozen=True)
class SNR(OneVsRest):
    """The absolute signal-to-noise ratio, |mu+ - mu-| / (s+ + s- + epsilon), one-vs-rest; see `OneVsRest`.

    Example:
        >>> snr, features = SNR(), torch.tensor([[1.0, 4.0], [3.0, 4.0], [6.0, 4.0], [8.0, 4.0]])
        >>> state = snr.update(snr.init(channels=2), features, torch.tensor([0, 0, 1, 1]))
        >>> [round(score, 3) for score in snr.compute(state).tolist()]      # |2 - 7| / (1 + 1), and a dead channel
        [2.5, 0.0]
    """

    name: str = field(default="snr", init=False)
    epsilon: float = 1e-4

    def statistic(self, one: Side, rest: Side) -> Tensor:
        return (one.mean - rest.mean).abs() / (one.variance.sqrt() + rest.variance.sqrt() + self.epsilon)


@dataclass(frozen=True)
class Fisher(OneVsRest):
    """Fisher's discriminant ratio, (mu+ - mu-)^2 / (v+ + v- + epsilon), one-vs-rest; see `OneVsRest`.

    Example:
        >>> fisher, features = Fisher(), torch.tensor([[1.0], [3.0], [6.0], [8.0]])
        >>> state = fisher.update(fisher.init(channels=1), features, torch.tensor([0, 0, 1, 1]))
        >>> round(fisher.compute(state).item(), 3)                          # (2 - 7)^2 / (1 + 1)
        12.499
    """

    name: str = field(default="fisher", init=False)
    epsilon: float = 1e-4

    def statistic(self, one: Side, rest: Side) -> Tensor:
        return (one.mean - rest.mean).square() / (one.variance + rest.variance + self.epsilon)


@dataclass(frozen=True)
class SymmetricDivergence(OneVsRest):
    """The symmetric divergence as published, or the true one of two normal distributions; see `OneVsRest`.

    Formula: see the module; with `exact_kl`, w = v + epsilon and d = mu+ - mu-,

        KL(+ || -) + KL(- || +) = (w+ / w- + w- / w+) / 2 - 1 + d^2 (1 / w+ + 1 / w-) / 2      >= 0

    which is 0 for a dead channel, where the published form is exactly -1 (a lively channel that tells nothing has
    -epsilon / (v + epsilon), above it).

    Example:
        >>> features, labels = torch.tensor([[1.0], [3.0], [6.0], [8.0]]), torch.tensor([0, 0, 1, 1])
        >>> for rule in SymmetricDivergence(), SymmetricDivergence(exact_kl=True, epsilon=1e-9):
        ...     print(round(rule.compute(rule.update(rule.init(1), features, labels)).item(), 3))
        6.05
        25.0
    """

    name: str = field(default="symmetric_divergence", init=False)
    epsilon: float = 0.05
    exact_kl: bool = False

    def statistic(self, one: Side, rest: Side) -> Tensor:
        square = (one.mean - rest.mean).square()
        v, u = one.variance, rest.variance
        w, x = v + self.epsilon, u + self.epsilon
        if self.exact_kl:
            return (w / x + x / w) / 2 - 1 + square * (1 / w + 1 / x) / 2
        return (v / x + u / w) / 2 + square / (v + u + self.epsilon) / 2 - 1


@dataclass(frozen=True)
class WelchT(OneVsRest):
    """Welch's t, |mu+ - mu-| / sqrt(v+ / n+ + v- / n- + epsilon), n images, one-vs-rest; see `OneVsRest`.

    Example:
        >>> t, features = WelchT(), torch.tensor([[1.0], [3.0], [6.0], [8.0]])
        >>> state = t.update(t.init(channels=1), features, torch.tensor([0, 0, 1, 1]))
        >>> round(t.compute(state).item(), 3)                               # |2 - 7| / sqrt(1/2 + 1/2)
        5.0
    """

    name: str = field(default="t", init=False)
    epsilon: float = 1e-4

    def statistic(self, one: Side, rest: Side) -> Tensor:
        error = one.variance / one.images + rest.variance / rest.images
        return (one.mean - rest.mean).abs() / (error + self.epsilon).sqrt()


def one_vs_rest(
    statistic: Statistic,
    *,
    name: str = "one_vs_rest",
    samples: int = 1280,
    reduce: Reduce = "pixels",
    aggregate: Aggregate = "mean",
) -> OneVsRest:
    """Return a criterion from any statistic of two classes.

    Args:
        statistic: pure function of (mu+, mu-, v+, v-, n+, n-): means and variances (L, C), numbers of images (L, 1),
            float64; gives (L, C), larger = keep.
        name: what the settings of a score table call it.
        samples, reduce, aggregate: see `OneVsRest`.

    Raises:
        ConfigError: an option outside of what is allowed; by `compute`, a statistic of another shape.

    Example:
        >>> gap = one_vs_rest(lambda mu, rest_mu, v, rest_v, n, rest_n: (mu - rest_mu).abs(), name="gap of means")
        >>> state = gap.update(gap.init(channels=1), torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([0, 0, 1]))
        >>> gap.name, gap.compute(state).item()
        ('gap of means', 5.0)
    """
    given, called = statistic, name

    @dataclass(frozen=True)
    class Wrapped(OneVsRest):
        name: str = field(default=called, init=False)

        def statistic(self, one: Side, rest: Side) -> Tensor:
            return given(one.mean, rest.mean, one.variance, rest.variance, one.images, rest.images)

    return Wrapped(samples=samples, reduce=reduce, aggregate=aggregate)
