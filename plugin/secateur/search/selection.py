"""How many channels a layer keeps, and which.

References:
    [Lin2020] M. Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020.
    [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
        arXiv 2005.13796, 2020.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Literal

import torch
from torch import Tensor

from secateur.counts import check_counts
from secateur.errors import ConfigError, ScoreError
from secateur.records.parts import spare

CountMode = Literal["secateur", "hrank", "hrankplus"]
Variant = Literal["low", "reverse", "random", "edge", "middle"]


def allowed_widths(width: int, *, min_keep: int = 1, round_to: int = 1) -> tuple[int, ...]:
    """Return the widths that a group of `width` channels may be cut to, ascending.

    Rule: the multiples of `round_to` from `min_keep` up, and always the full width: a group that is narrower than
    `round_to`, or no multiple of it, may stay as it is, but is never widened and never emptied.
    Where a channel stands for several of a layer, give `ChannelGroup.step(round_to)`; where layers have only a part of
    the channels, at least as many must stay as the group has `parts`.

    Raises:
        ConfigError: `min_keep` or `round_to` below 1 or no whole number, or no channel at all.

    Example:
        >>> allowed_widths(20, round_to=8), allowed_widths(6, round_to=8), allowed_widths(4, min_keep=3)
        ((8, 16, 20), (6,), (3, 4))
    """
    check_counts(width=width, min_keep=min_keep, round_to=round_to)
    first = -(-min_keep // round_to) * round_to
    return (*range(first, width, round_to), width)


def next_allowed(keep: int, allowed: Iterable[int]) -> int:
    """Return the first of the ascending widths that are allowed, from `keep` up.

    Example:
        >>> next_allowed(9, allowed_widths(20, round_to=8))
        16
    """
    return next(width for width in allowed if width >= keep)


def keep_count(width: int, rate: float, *, min_keep: int = 1, round_to: int = 1, mode: CountMode = "secateur") -> int:
    """Return how many of `width` channels stay when the share `rate` is removed.

    Formula: max(min_keep, width - floor(rate * width + 1e-9)), then up to the next width of `allowed_widths`, so that
    rounding never removes more than the rate asks for. The small addend makes 0.29 * 100 (28.999...) remove 29.

    Args:
        width: channels of the dense layer.
        rate: share removed, 0..1.
        min_keep: fewest channels that stay; a narrower layer keeps all.
        round_to: widths are multiples of this, or the full width.
        mode: "secateur" as above; "hrank": width - int(rate * width), as the code of [Lin2020]; "hrankplus":
            int(width * (1 - rate)), as its later code. Width 64 at rate 0.45 keeps 36 in the first two, 35 in the last.

    Raises:
        ConfigError: a rate outside 0..1, an unknown mode, or a count below 1.

    Deviations: the published codes can keep no channel at all; here at least `min_keep` stay in every mode.

    Example:
        >>> keep_count(64, 0.45), keep_count(64, 0.45, mode="hrankplus"), keep_count(64, 0.45, round_to=8)
        (36, 35, 40)
    """
    if not 0 <= rate <= 1:
        raise ConfigError(f"the rate is {rate}; a share of removed channels must lie in 0..1")
    if mode == "secateur":
        keep = width - math.floor(rate * width + 1e-9)
    elif mode == "hrank":
        keep = width - int(rate * width)
    elif mode == "hrankplus":
        keep = int(width * (1 - rate))
    else:
        raise ConfigError(f"unknown mode {mode!r}; allowed: secateur, hrank, hrankplus")
    return next_allowed(keep, allowed_widths(width, min_keep=min_keep, round_to=round_to))


def select(
    scores: Tensor, keep: int, *, variant: Variant = "low", seed: int = 0, parts: Collection[Collection[int]] = ()
) -> tuple[int, ...]:
    """Return the `keep` channels that stay, ascending.

    The channels are sorted by score, ascending and stable, so that among equal scores the lower index is removed
    first. Of C channels k = C - keep are removed:

        low      the first k: the method itself
        reverse  the last k
        edge     the first floor(k / 2) and the last ceil(k / 2); DI calls it two-end
        middle   k from position floor((C - k) / 2) on
        random   k drawn with `seed`, whatever the scores

    The variants are the ablations of [Lin2020] and [Hou2020]. What goes at k goes at k + 1 too.

    Args:
        scores: (C,), larger = keep.
        keep: how many stay, 1..C; exactly so many are returned.
        parts: channels of which one must stay, `ChannelGroup.parts`: of each the one that would go last stays, and the
            next in the order goes instead.

    Raises:
        ScoreError: the scores are not a vector of finite numbers.
        ConfigError: `keep` out of range or below the number of parts, or an unknown variant.

    Deviations: [Lin2020] sorts with an unstable sort; the split of `edge` is not published.

    Cost: O(C log C).

    Example:
        >>> scores = torch.tensor([3.0, 1.0, 1.0, 2.0])
        >>> select(scores, 3), select(scores, 2), select(scores, 2, variant="reverse")
        ((0, 2, 3), (0, 3), (1, 2))
        >>> select(scores, 2, parts=[{0, 3}, {1, 2}])
        (0, 2)
    """
    _check(scores, keep, parts)
    going = spare(_in_order(torch.argsort(scores, stable=True).tolist(), variant, seed), parts)
    return tuple(sorted(going[len(scores) - keep :]))


def _in_order(ascending: list[int], variant: Variant, seed: int) -> list[int]:
    """Return channels in the order in which a variant removes them, given those of ascending scores."""
    inwards = [ascending[rank // 2 if rank % 2 else -1 - rank // 2] for rank in range(len(ascending))]
    if variant == "low":
        return ascending
    if variant == "reverse":
        return ascending[::-1]
    if variant == "edge":
        return inwards
    if variant == "middle":
        return inwards[::-1]
    if variant == "random":
        return torch.randperm(len(ascending), generator=torch.Generator().manual_seed(seed)).tolist()
    raise ConfigError(f"unknown variant {variant!r}; allowed: low, reverse, edge, middle, random")


def ties_at_cut(scores: Tensor, keep: int, *, variant: Variant = "low", parts: Collection[Collection[int]] = ()) -> int:
    """Return how many channels share a score with one that `select(scores, keep, ...)` decides otherwise about.

    Zero where every removed channel differs in score from every kept one: only a number above zero means that the order
    of the channels decided. Zero for "random", which no score decides.

    Args:
        scores, keep, variant, parts: as `select`.

    Raises:
        ScoreError, ConfigError: as `select`.

    Example:
        >>> ties_at_cut(torch.tensor([3.0, 1.0, 1.0, 2.0]), 3), ties_at_cut(torch.tensor([3.0, 1.0, 1.0, 2.0]), 2)
        (2, 0)
    """
    kept = torch.zeros(len(scores), dtype=torch.bool)
    kept[list(select(scores, keep, variant=variant, parts=parts))] = True
    if variant == "random":
        return 0
    torn = scores[kept][torch.isin(scores[kept], scores[~kept])]
    return int(torch.isin(scores, torn).sum())


def _check(scores: Tensor, keep: int, parts: Collection[Collection[int]]) -> None:
    if scores.ndim != 1 or not bool(torch.isfinite(scores).all()):
        raise ScoreError(f"scores must be a vector of finite numbers; they have shape {tuple(scores.shape)}")
    least = min(len(scores), max(1, len(parts)))
    if not least <= keep <= len(scores):
        raise ConfigError(f"cannot keep {keep} of {len(scores)} channels; allowed: {least}..{len(scores)}")
