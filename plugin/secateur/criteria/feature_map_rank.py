"""HRank: a channel is worth the average rank of its feature maps.

    r_c = (1/N) sum_n rank(A[n, c])                                A: (N, C, H, W), the maps of one layer

A map of low rank is made of few patterns, the others can be had from its neighbours: its filter goes first. No labels
are read, and the ranks are taken once, on the network as it was trained.

Deviations from the paper and the code published with it:

* *500 images by default*, the number of the paper. The published rank files are averages over 768 randomly cropped and
  mirrored ones. The average settles slowly where nearly all maps have full rank (block outputs of early stages).
* *One pass, the same images for all layers.* The published code draws other images for every layer: scores could then
  not be repeated and layers not be compared.
* *Ranks are summed in int64 and divided once* in float64, instead of averaging averages in float32: the score depends
  neither on the order of the images nor on how they are split into batches.
* *Ties are left as they are.* Equal averages stay equal; whoever cuts breaks ties by a stated rule (a stable order,
  lower channel first) and reports them, while the published order among ties is left to an unstable sort.

.. [Lin2020] M. Lin, R. Ji, Y. Wang, Y. Zhang, B. Zhang, Y. Tian, L. Shao. HRank: filter pruning using high-rank feature
   map. CVPR 2020.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.counts import check_counts
from secateur.criteria.certified_rank import certified_ranks
from secateur.criteria.inputs import as_feature_maps, is_finite
from secateur.criteria.rank_certificate import OPEN
from secateur.errors import DataError

CHUNK = 2**22  # numbers looked at in one go: 16 MiB, and a few times that in work space
ALIGNED = 16  # float32 numbers in 64 bytes, to which torch aligns the first matrix of a batch


@dataclass(frozen=True, eq=False)
class RankSums:
    """The state of HRank: `sums` (C,) int64, the summed ranks of each channel, and `images`, how many were seen."""

    sums: Tensor
    images: int


def feature_map_ranks(feature_maps: Tensor) -> Tensor:
    """Return the rank of every feature map, (N, C, H, W) -> (N, C), int64.

    Formula: the number of singular values of the map, in float32, that are strictly larger than

        sigma_max * max(H, W) * eps,            eps = 2^-23, float32's spacing at one

    which is what `torch.linalg.matrix_rank` gives for each map alone, in float32. A map of zeros has rank 0. The
    larger side counts in the tolerance also where rows or columns of the map are all zero. Scaling a map does not
    change its rank.

    Args:
        feature_maps: (N, C, H, W), or (N, C) taken as maps of one pixel. Other types are cast to float32 first, also
            float64: the tolerance is part of the score, and with float64's half a percent of the ranks are others.

    Returns:
        The ranks, on the device of the maps. Two libraries' decompositions (processor, graphics card) may differ by one
        where a singular value lies within rounding of the tolerance; that is a few maps in a million.

    Raises:
        DataError: maps of another shape, empty, NaN, or infinite (in float32).

    Cost: O(H W min(H, W)) a map. With numba (`pip install secateur[fast]`) about 3 us for 32 x 32 and 0.25 us for 8 x 8
    on one processor core, and half of torch's threads are used; without it, or on a graphics card, several times that.
    Few maps need a singular value decomposition (25 us and 2 us): see `secateur.criteria.rank_certificate`. Memory
    beside the maps: some 100 MiB, however many there are.

    Example:
        >>> cross = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
        >>> feature_map_ranks(torch.stack([cross, 0 * cross, torch.eye(3)])[None])
        tensor([[2, 0, 3]])

    Source: [Lin2020]_; the tolerance is that of the code published with it.
    """
    return _ranks_of_maps(as_feature_maps(feature_maps, finite=False))


def _ranks_of_maps(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C) int64. Raises DataError for a map that is not finite."""
    N, C, H, W = maps.shape
    ranks = [_ranks(chunk) for chunk in torch.split(maps.flatten(0, 1), max(1, CHUNK // (H * W)))]
    return torch.cat(ranks).view(N, C)


def _ranks(matrices: Tensor) -> Tensor:
    """(M, H, W) -> (M,) int64. Maps that are not finite are never certain, so that only open ones are looked at."""
    matrices = matrices.float()
    ranks = certified_ranks(matrices)
    uncertain = (ranks == OPEN).nonzero()[:, 0]
    if len(uncertain):
        rest = matrices[uncertain]
        if not is_finite(rest):
            raise DataError("feature maps hold NaN or infinite values (in float32, in which ranks are defined)")
        ranks[uncertain] = _decomposed(rest)
    return ranks


def _decomposed(matrices: Tensor) -> Tensor:
    """(M, H, W) -> (M,), M > 0: what torch gives for each matrix alone, wherever it lies in memory.

    LAPACK rounds a matrix of 7 x 7 differently if it starts at another multiple of its vector length, as it does inside
    a batch. A singular value within that rounding of the tolerance would make the score depend on the split.
    """
    H, W = matrices.shape[1:]
    if matrices.device.type != "cpu" or H * W % ALIGNED == 0:
        ranks: Tensor = torch.linalg.matrix_rank(matrices)
        return ranks
    return torch.stack([torch.linalg.matrix_rank(matrix.clone()) for matrix in matrices])


@dataclass(frozen=True)
class HRank:
    """The average rank of a channel's feature maps, as a criterion.

    Formula: `compute` gives (1/N) sum_n rank(A[n, c]), (C,), float64, between 0 (dead) and min(H, W); larger = keep.
    The ranks are those of `feature_map_ranks`, where cost, memory and tolerance are told.

    On a processor batches of any size and order give the same scores to the last bit; a GPU decomposes one matrix
    otherwise than several, which may count a singular value within rounding of the threshold otherwise.

    Args:
        samples: how many images to read unless the caller says otherwise.

    Raises:
        ConfigError: samples that are no whole number from 1 on.
        DataError: by `update`, maps with a side of one pixel (each has rank 0 or 1, which says only whether the channel
            is alive), of another shape or width than announced, NaN or infinite; by `compute`, when no map was seen.

    Example:
        >>> hrank = HRank()
        >>> maps = torch.stack([torch.eye(4), torch.ones(4, 4)]).expand(10, 2, 4, 4)
        >>> state = hrank.update(hrank.init(channels=2), maps)
        >>> hrank.compute(state)
        tensor([4., 1.], dtype=torch.float64)

    Source: [Lin2020]_. Deviations: see the module.
    """

    name: str = field(default="hrank", init=False)
    needs_labels: bool = field(default=False, init=False)
    batch_size: int | None = field(default=None, init=False)
    accepts_vectors: bool = field(default=False, init=False)
    samples: int = 500

    def __post_init__(self) -> None:
        check_counts(of=self.name, samples=self.samples)

    def init(self, channels: int) -> RankSums:
        """Return the empty state of a layer of `channels` channels."""
        return RankSums(torch.zeros(channels, dtype=torch.int64), 0)

    def update(
        self,
        state: RankSums,
        feature_maps: Tensor,
        labels: Tensor | None = None,  # noqa: ARG002  # callers pass labels to every criterion alike
    ) -> RankSums:
        """Add a batch of maps (N, C, H, W); labels are not looked at. Returns a new state."""
        maps = as_feature_maps(feature_maps, len(state.sums), finite=False)
        N, _, H, W = maps.shape
        if min(H, W) == 1:
            raise DataError(
                f"the rank of a feature map of {H} x {W} is 0 or 1 and does not tell channels apart; "
                "both sides must be larger than one (the criterion 'di' can score such a layer)"
            )
        return RankSums(state.sums + _ranks_of_maps(maps).sum(0).to(state.sums.device), state.images + N)

    def merge(self, state: RankSums, other: RankSums) -> RankSums:
        """Return the state of the images that either has seen, exactly."""
        return RankSums(state.sums + other.sums, state.images + other.images)

    def compute(self, state: RankSums) -> Tensor:
        """Return the average ranks, (C,), float64."""
        if state.images == 0:
            raise DataError("no feature map has been seen; HRank needs at least one image")
        return state.sums.double() / state.images
