"""DI: a channel is worth the discriminant information that its feature maps carry about the classes.

Flatten the maps of a batch to one row per image, X (N, D), D = C*H*W, and let Y (N, L) mark the class of each image;
centre both over the batch. The discriminant information is the signal beside the noise,

    DI = tr( (K + rho I)^-1 K_B ),      K = X'X (total scatter),      K_B = X'Y Y'X (between classes),

and equals what the ridge regression of the class marks on the features explains (`secateur.criteria.ridge`), whose
coefficients are F = (K + rho I)^-1 X'Y. Channel c owns the rows S_c of F and scores

    eq. (6):    phi6_c = dDI/dm_c at m = 1 = 2 rho |F[S_c]|^2           m_c multiplies the maps of channel c
    eq. (5):    phi5_c = DI - DI without channel c                      exactly, in closed form

Deviations from the paper and the code published with its sequel:

* *Eq. (6) is printed without "+ rho I".* It is then not the derivative of DI, and not even defined for D >= N, which is
  the rule for full feature maps. Here rho stays, as the derivative has it.
* *No automatic differentiation.* The published code differentiates tr(YY'(XX' + rho I)^-1) = (|Y|^2 - DI) / rho with
  respect to the masks; the closed form is that up to the sign and the factor rho, and ranks alike. It is float64
  throughout.
* *All layers in one pass over the same images*, training images in evaluation mode, fed in batches of 128, ten of
  them. One kernel of more images is another estimator, not a better one: scores are summed over batches of one size,
  and scores of different batch sizes must not be compared.
* *Features are the full maps*, as in that code; `pool="gap"` takes each channel's average instead (D = C).
* *Ties keep channel order*; breaking them is left to whoever cuts.

.. [Hou2020] Z. Hou, S.-Y. Kung. A feature-map discriminant perspective for pruning deep neural networks.
   arXiv:2005.13796, 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from secateur.counts import check_counts
from secateur.criteria import ridge
from secateur.criteria.inputs import as_classes, as_feature_maps
from secateur.criteria.map_products import channels_at_once
from secateur.errors import ConfigError, DataError

Labelling = Literal["onehot", "scaled"]
CHOICES = {
    "equation": (5, 6),
    "rho_mode": ("absolute", "relative"),
    "labelling": ("onehot", "scaled"),
    "pool": ("none", "gap"),
    "precision": ("mixed", "double"),
}


@dataclass(frozen=True, eq=False)
class InformationSums:
    """The state of DI: `sums` (C,) float64, the scores of all batches so far, and `batches`, how many there were."""

    sums: Tensor
    batches: int


def class_marks(labels: Tensor | None, images: int, *, labelling: Labelling = "onehot") -> Tensor:
    """Return Y (N, L), float64, not centred: 1 where the image belongs to the class, over the classes of the batch.

    `labelling="scaled"` divides the column of class k by sqrt(n_k), its number of images: K_B becomes the classical
    between-class scatter sum_k n_k (mu_k - mu)(mu_k - mu)', one-hot weighs large classes by n_k^2. With equal classes
    the two differ by a constant.

    Raises:
        DataError: labels that `secateur.criteria.inputs.as_classes` refuses.

    Example:
        >>> class_marks(torch.tensor([4, 9, 4]), 3)
        tensor([[1., 0.],
                [0., 1.],
                [1., 0.]], dtype=torch.float64)
    """
    marks = torch.nn.functional.one_hot(as_classes(labels, images)).double()
    return marks / marks.sum(0).sqrt() if labelling == "scaled" else marks


def discriminant_information(
    features: Tensor, labels: Tensor, *, rho: float = 0.1, labelling: Labelling = "onehot"
) -> Tensor:
    """Return DI = tr((K + rho I)^-1 K_B) of features (N, D) and labels (N,): a scalar, float64.

    It lies between 0 and |Y|^2 = N - sum_k n_k^2 / N (one-hot), never falls when features are added, and is close to
    its upper bound as soon as D > N: the value then says little, its derivative (`DI`) still ranks.

    Args:
        features: (N, D) floating, or maps (N, C, H, W), taken flat.
        labels: (N,) integers, at least two classes.
        rho: the ridge, > 0, in the unit of K (a sum of squares over the batch).
        labelling: see `class_marks`.

    Raises:
        ConfigError: rho is not positive, or too small for float64.
        DataError: features or labels cannot be used.

    Cost: O(N D min(N, D) + min(N, D)^3) operations.

    Example:
        >>> features, labels = torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([0, 0, 1, 1])
        >>> round(float(discriminant_information(features, labels, rho=1.0)), 6)        # K = 1, K_B = 2
        1.0

    Source: [Hou2020]_, the definition of DI.
    """
    marks = class_marks(labels, len(features), labelling=labelling)
    return ridge.explained_variation(features, marks, rho=rho)


@dataclass(frozen=True)
class DI:
    """The discriminant information that a channel carries, as a criterion.

    Formula: with eq. (6), `compute` gives the sum over batches of 2 rho |F[S_c]|^2; with eq. (5), the sum of the exact
    losses of DI when the channel alone is removed. (C,), float64, >= 0; larger = keep. A channel that never changes
    scores 0.

    Each call of `update` is one kernel of its own: feed batches of `batch_size` images. The scores do not depend on the
    order of the batches, nor on that of the images inside one, but they do on which images share a batch.

    Of two equal channels each scores a quarter by eq. (6) of what it would alone, and almost nothing by eq. (5), since
    the other stays: removing by eq. (5) in one go loses both.

    Args:
        equation: 6 (the derivative, default) or 5 (leave one channel out). phi5 >= phi6 / 2 always. On full maps they
            rank alike; with fewer features than images eq. (6) disregards a feature's scale, and they may not.
        rho: the ridge, > 0. On full maps anything from 1e-5 to 10 ranks alike.
        rho_mode: "absolute", or "relative" for rho * tr(K) / N, batch by batch.
        labelling: "onehot", or "scaled" by 1/sqrt(n_k); see `class_marks`.
        pool: "none" for the full maps, "gap" for their averages (global average pooling).
        batch_size: images in a kernel, at least 2.
        samples: how many images to read unless the caller says otherwise.
        precision: "double" is float64 throughout; "mixed" multiplies large maps in float32 for eq. (6) where a bound on
            rounding allows it, which moves no score by more than 4e-3 of the largest (1e-6 on common networks).
        memory: bytes that `update` may hold beside the maps; it works on fewer channels at a time to keep to it.

    Raises:
        ConfigError: an option outside of what is allowed, a rho too small for float64, or too little memory for one
            channel.
        DataError: by `update`, maps or labels that cannot be used: labels missing or of another number, a batch of one
            image or one class, NaN; by `compute`, when no batch was seen.

    Cost of `update`: N^2 D + 2 N D L operations and O(N^3), two passes over the maps, a few channels (some 20 MiB) at a
    time; eq. (5) adds a factorisation of min(N, H*W) rows for every channel. Where D <= N, O(N D^2 + D^3). On two
    CPU cores that is about the forward pass once more for images of 32 x 32, half of it for 224 x 224.

    Example:
        >>> maps = torch.tensor([[1.0, 0.0, 5.0], [1.0, 1.0, 5.0], [0.0, 0.0, 5.0], [0.0, 1.0, 5.0]])
        >>> di = DI()
        >>> state = di.update(di.init(channels=3), maps, torch.tensor([0, 0, 1, 1]))
        >>> [round(score, 4) for score in di.compute(state).tolist()]       # telling, blind, constant
        [0.3306, 0.0, 0.0]

    Source: [Hou2020]_, eq. (5) and (6). Deviations: see the module.
    """

    name: str = field(default="di", init=False)
    needs_labels: bool = field(default=True, init=False)
    accepts_vectors: bool = field(default=True, init=False)
    batch_size: int | None = 128
    samples: int = 1280
    equation: Literal[5, 6] = 6
    rho: float = 0.1
    rho_mode: Literal["absolute", "relative"] = "absolute"
    labelling: Labelling = "onehot"
    pool: Literal["none", "gap"] = "none"
    precision: ridge.Precision = "mixed"
    memory: int = ridge.MEMORY

    def __post_init__(self) -> None:
        for option, allowed in CHOICES.items():
            if getattr(self, option) not in allowed:
                raise ConfigError(f"di: {option} is {getattr(self, option)!r}; allowed: {', '.join(map(str, allowed))}")
        if not (math.isfinite(self.rho) and self.rho > 0):
            raise ConfigError(f"di: rho is {self.rho}; it must be a positive number")
        check_counts(of=self.name, least=2, batch_size=self.batch_size, samples=self.samples)

    def init(self, channels: int) -> InformationSums:
        """Return the empty state of a layer of `channels` channels."""
        return InformationSums(torch.zeros(channels, dtype=torch.float64), 0)

    def update(self, state: InformationSums, feature_maps: Tensor, labels: Tensor | None) -> InformationSums:
        """Add the scores of one batch: maps (N, C, H, W), labels (N,) integers. Returns a new state."""
        maps = as_feature_maps(feature_maps, len(state.sums))
        marks = class_marks(labels, len(maps), labelling=self.labelling)
        if self.pool == "gap":
            parts = torch.split(maps, channels_at_once(maps, columns=0, memory=self.memory), dim=1)
            maps = torch.cat([part.mean((2, 3), keepdim=True, dtype=torch.float64) for part in parts], dim=1)
        rho = self.rho
        if self.rho_mode == "relative":
            # Maps that never change score 0 whatever rho is.
            rho *= ridge.total_variation(maps, memory=self.memory) / len(maps) or 1.0
        if self.equation == 6:
            scores = ridge.mask_derivatives(maps, marks, rho=rho, precision=self.precision, memory=self.memory)
        else:
            scores = ridge.removal_losses(maps, marks, rho=rho, memory=self.memory)
        return InformationSums(state.sums + scores.to(state.sums.device), state.batches + 1)

    def merge(self, state: InformationSums, other: InformationSums) -> InformationSums:
        """Return the state of the batches that either has seen, each batch a kernel of its own as before."""
        return InformationSums(state.sums + other.sums, state.batches + other.batches)

    def compute(self, state: InformationSums) -> Tensor:
        """Return the summed scores, (C,), float64."""
        if state.batches == 0:
            raise DataError("no batch has been seen; DI needs at least one")
        return state.sums.clone()
