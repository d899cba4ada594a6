"""How many bits each filter gets: levels by score, in shares that are given or solved from a size.

.. [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
   arXiv 2005.13796, 2020, section 3.6.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from secateur.errors import BudgetError, ConfigError, NetworkError, ScoreError
from secateur.quantization.filters import filters_of, layers_with_filters
from secateur.quantization.plan import BitPlan
from secateur.quantization.quantizer import LEAST, MOST, ThresholdRule, check_bits
from secateur.records import ScoreTable

Order = Literal["scores", "reversed", "random"]


def uniform_bits(
    model: nn.Module, bits: int, *, ends: int | None = 8, thresholds: ThresholdRule = "published"
) -> BitPlan:
    """Return the plan in which every filter of `model` has `bits` bits; of the first and last layer `ends`, if given.

    Raises:
        ConfigError: bits outside 2..16, or an unknown rule of thresholds.
        NetworkError: there is no layer to quantize.

    Example:
        >>> plan = uniform_bits(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)), 4)
        >>> [bits.tolist() for bits in plan.bits.values()]
        [[8, 8], [4, 4], [8, 8]]
    """
    names = _layers(model)
    own = {name: bits if ends is None or name not in (names[0], names[-1]) else ends for name in names}
    found = {name: torch.full((len(filters_of(model.get_submodule(name))),), b) for name, b in own.items()}
    return BitPlan(found, {"levels": [bits], "ends": ends}, thresholds=thresholds)


def largest_uniform(
    model: nn.Module,
    size: float,
    measured: Callable[[BitPlan], int],
    *,
    ends: int | None = 8,
    thresholds: ThresholdRule = "published",
) -> BitPlan:
    """Return the uniform plan of the most bits that takes at most `size` bytes.

    Args:
        model, ends, thresholds: see `uniform_bits`.
        size: bytes that `measured` may give at most.
        measured: a plan -> bytes, see `bit_plan`.

    Raises:
        BudgetError: two bits are too many; the size they take is named.

    Example:
        >>> from secateur.quantization import quantized_bytes
        >>> net = nn.Sequential(nn.Linear(64, 64))
        >>> largest_uniform(net, 3000, lambda plan: quantized_bytes(net, plan), ends=None).settings["levels"]
        [4]
    """
    for bits in range(MOST, LEAST - 1, -1):
        plan = uniform_bits(model, bits, ends=ends, thresholds=thresholds)
        smallest = measured(plan)
        if smallest <= size:
            return plan
    raise _out_of_reach(str(LEAST), size, smallest)


def bit_plan(
    model: nn.Module,
    scores: ScoreTable,
    *,
    levels: Sequence[int] = (8, 4),
    shares: Sequence[float] | None = None,
    size: float | None = None,
    measured: Callable[[BitPlan], int] | None = None,
    order: Order = "scores",
    ends: int | None = 8,
    seed: int = 0,
    thresholds: ThresholdRule = "published",
) -> BitPlan:
    """Return the plan that gives the filters of high scores more bits, layer by layer in the same shares [Hou2020]_.

    Formula: of a layer of C filters in the order of their scores, the first ceil(C * shares[0]) get levels[0] bits, the
    next up to ceil(C * (shares[0] + shares[1])) levels[1], and so on. With a size the shares are solved: two
    neighbouring levels are mixed, and the share of the higher one is the largest that fits.

    Args:
        model: the network, after pruning and fine-tuning.
        scores: (C,) for each layer, larger = more bits; in a layer without scores its filters' L1 norms stand in.
        levels: bits in 2..16, falling.
        shares: of each level, adding up to one; None with a size.
        size: bytes that `measured` may give at most.
        measured: a plan -> bytes, such as `lambda plan: quantized_bytes(model, plan)`; needed with a size.
        order: "scores" is the method; "reversed" and "random" are its ablations.
        ends: bits of the first and of the last layer; None: as all others.
        seed: draws the random order.
        thresholds: the rule by which each filter is clipped, see `thresholds_of`.

    Raises:
        ConfigError: levels, shares, an order or a rule that cannot be.
        NetworkError: there is no layer to quantize.
        ScoreError: scores of another structure.
        BudgetError: no assignment is as small; the smallest is named.

    Cost: a sort of each layer; with a size about log2(sum of C) measurements.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False))
        >>> scores = ScoreTable({"0": torch.tensor([4.0, 1.0, 3.0, 2.0])})
        >>> bit_plan(net, scores, levels=(8, 4), shares=(0.5, 0.5), ends=None).bits["0"].tolist()
        [8, 4, 8, 4]

    Deviations: the paper states neither bits nor shares. Its model sizes count no scales; ours count everything.
    """
    ranks = _ranks(model, scores, order=order, seed=seed)
    falling = all(a > b for a, b in itertools.pairwise(levels))
    if not levels or not falling:
        raise ConfigError(f"the levels must be falling numbers of bits, such as (8, 4); found {tuple(levels)}")
    check_bits(torch.tensor(levels))
    names = list(ranks)
    fixed = {} if ends is None else dict.fromkeys((names[0], names[-1]), ends)
    settings = {"levels": list(levels), "order": order, "ends": ends, "scores": dict(scores.settings)}
    settings |= {"seed": seed} if order == "random" else {}

    def assigned(own: Sequence[float]) -> BitPlan:
        bits = {
            name: torch.full((len(rank),), fixed[name]) if name in fixed else _assign(rank, levels, own)
            for name, rank in ranks.items()
        }
        return BitPlan(bits, settings | {"shares": list(own)}, thresholds=thresholds)

    if (shares is None) == (size is None):
        raise ConfigError("give either the shares of the levels or a size, not both")
    if shares is not None:
        if len(shares) != len(levels) or min(shares) < 0 or not abs(sum(shares) - 1) <= 1e-6:
            raise ConfigError(
                f"the shares must be one for each of {len(levels)} levels and add up to 1; found {tuple(shares)}"
            )
        return assigned(shares)
    if measured is None or size is None:
        raise ConfigError("a size needs what measures it: give measured")
    return _solved(assigned, measured, size, levels, sum(map(len, ranks.values())))


def _solved(
    assigned: Callable[[Sequence[float]], BitPlan],
    measured: Callable[[BitPlan], int],
    size: float,
    levels: Sequence[int],
    filters: int,
) -> BitPlan:
    """Return the largest plan within the size: the highest pair of levels whose lower one fits, mixed."""
    smallest = measured(assigned(_mixed(levels, len(levels) - 1, 0.0)))
    if smallest > size:
        raise _out_of_reach("/".join(map(str, levels)), size, smallest)
    for lower in range(len(levels)):
        if measured(assigned(_mixed(levels, lower, 0.0))) <= size:
            break
    if lower == 0:
        return assigned(_mixed(levels, 0, 0.0))
    low, high = 0, filters  # of so many parts of the higher level, `low` fit and `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        fits = measured(assigned(_mixed(levels, lower, middle / filters))) <= size
        low, high = (middle, high) if fits else (low, middle)
    return assigned(_mixed(levels, lower, low / filters))


def _out_of_reach(levels: str, size: float, smallest: int) -> BudgetError:
    return BudgetError(
        f"no assignment of {levels} bits is as small as {size:,.0f} bytes; the smallest takes {smallest:,} bytes"
    )


def _mixed(levels: Sequence[int], lower: int, share: float) -> list[float]:
    """Return shares: `share` of the level above `lower`, and the rest of `lower`."""
    shares = [0.0] * len(levels)
    shares[lower] = 1 - share
    if share:
        shares[lower - 1] = share
    return shares


def _assign(rank: Tensor, levels: Sequence[int], shares: Sequence[float]) -> Tensor:
    """Return the bits of each filter by its place, 0 the best."""
    C, bits, done = len(rank), torch.full((len(rank),), levels[0]), 0.0
    for level, share in zip(levels[1:], shares, strict=False):
        done += share
        bits[rank >= math.ceil(done * C - 1e-9)] = level
    return bits


def _ranks(model: nn.Module, scores: ScoreTable, *, order: Order, seed: int) -> dict[str, Tensor]:
    """Return layer -> the place of each filter in the order, 0 the best; equal filters in the order of the channels."""
    if order not in get_args(Order):
        raise ConfigError(f"unknown order {order!r}; allowed: {', '.join(get_args(Order))}")
    random, ranks = torch.Generator().manual_seed(seed), {}
    for name in _layers(model):
        weight = filters_of(model.get_submodule(name))
        values = scores[name].double() if name in scores else weight.detach().cpu().double().abs().flatten(1).sum(1)
        if len(values) != len(weight):
            raise ScoreError(f"{name!r} has {len(weight)} filters and {len(values)} scores: of another structure?")
        best = torch.argsort(values, descending=True, stable=True)
        best = best.flip(0) if order == "reversed" else best
        best = torch.randperm(len(values), generator=random) if order == "random" else best
        ranks[name] = torch.empty_like(best).scatter_(0, best, torch.arange(len(best)))
    return ranks


def _layers(model: nn.Module) -> list[str]:
    names = layers_with_filters(model)
    if not names:
        raise NetworkError("the network has no convolution and no linear layer to quantize")
    return names
