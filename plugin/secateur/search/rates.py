"""Widths from shares that are stated for each layer, as pruning papers publish them.

The grammar is that of the scripts of [Lin2020]_: parts joined by "+", each a rate in brackets that may be repeated,

    [0.95]+[0.5]*6+[0.9]*4+[0.8]*2

for 13 rates. A rate is the share removed and must have a decimal point: "[0.]", not "[0]".

.. [Lin2020] M. Lin et al. HRank: Filter Pruning using High-Rank Feature Map. CVPR 2020.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Real

from secateur.errors import BudgetError, ConfigError
from secateur.records import ChannelGroup, ChannelGroups, PruningPlan, Reduction, ScoreTable
from secateur.search.problem import Problem, plan_settings
from secateur.search.selection import CountMode, Variant, keep_count
from secateur.search.spending import Budgets, Costs, Spending, counted, state_spendings, told_apart

Groups = Mapping[str, ChannelGroup]
Rates = str | Sequence[float] | Mapping[str, float]


def parse_rates(text: str) -> list[float]:
    """Return the rates that a published string stands for.

    Args:
        text: rates in brackets, joined by +, each with a decimal point; `*n` repeats one n times.

    Raises:
        ConfigError: a part that is malformed, a rate outside 0..1, or a rate repeated less than once; the part and its
            number are named.

    Example:
        >>> parse_rates("[0.95]+[0.5]*2+[0.]")
        [0.95, 0.5, 0.5, 0.0]
    """
    rates = []
    for number, part in enumerate(text.split("+"), 1):
        match = re.fullmatch(r"\s*\[\s*(\d+\.\d*)\s*\]\s*(?:\*\s*(\d+)\s*)?", part)
        wrong = f"part {number} of the rates {text!r} is {part!r}"
        if match is None:
            point = "; a rate needs a decimal point" if re.search(r"\[\s*\d+\s*\]", part) else ""
            raise ConfigError(f"{wrong}{point}; allowed: a rate such as [0.5], or a repeated one such as [0.5]*6")
        rate, times = float(match[1]), int(match[2] or 1)
        if rate > 1 or times < 1:
            raise ConfigError(f"{wrong}; a rate must lie in 0..1 and be repeated at least once")
        rates += [rate] * times
    return rates


def rate_widths(
    groups: Groups, rates: Rates, *, mode: CountMode = "secateur", round_to: int = 1, min_keep: int = 1
) -> dict[str, int]:
    """Return how many channels each group keeps when the stated share of each is removed.

    Args:
        groups: the channel groups by name.
        rates: share removed, by the name of a group or of a layer that makes its channels; those that are not named
            keep all. Or one for each group, in their order, as a list or as `parse_rates` reads it.
        mode, round_to, min_keep: see `keep_count`; "hrank" and "hrankplus" round as the published scripts do.

    Raises:
        ConfigError: the rates are malformed, too few or too many; a name is not that of a layer that can be pruned; or
            layers of one group would keep different numbers.

    Example:
        >>> from secateur.records import Member
        >>> own = tuple((c,) for c in range(8))
        >>> groups = {name: ChannelGroup(name, 8, (Member(name, "producer", own),)) for name in ("stem", "conv")}
        >>> rate_widths(groups, "[0.25]+[0.9]"), rate_widths(groups, {"conv": 0.5})
        ({'stem': 6, 'conv': 1}, {'stem': 8, 'conv': 4})
    """
    widths = {name: group.width for name, group in groups.items()}
    for name, named in _by_group(groups, rates).items():
        step, least = groups[name].step(round_to), max(min_keep, len(groups[name].parts))
        kept = {
            layer: keep_count(widths[name], rate, mode=mode, round_to=step, min_keep=least)
            for layer, rate in named.items()
        }
        if len(set(kept.values())) > 1:
            told = ", ".join(f"{layer} {count} (rate {named[layer]:g})" for layer, count in kept.items())
            raise ConfigError(
                f"layers that share their {widths[name]} channels would keep different numbers of them: {told}; give "
                'them one rate, or mask each layer by itself (residual="mask" for the channel groups)'
            )
        widths[name] = next(iter(kept.values()))
    return widths


def rate_plan(
    groups: Groups,
    scores: ScoreTable,
    cost: Costs,
    rates: Rates,
    *,
    budget: Budgets | None = None,
    mode: CountMode = "secateur",
    round_to: int = 1,
    min_keep: int = 1,
    reduction: Reduction = "sum",
    variant: Variant = "low",
    seed: int = 0,
) -> PruningPlan:
    """Return the plan that removes the stated share of each group: it has its widths before anything is spent.

    With the scores of HRank, the mode "hrank", groups made with `residual="mask"` and the rates of `PUBLISHED_RATES`
    it is the plan of [Lin2020]_.

    Args:
        groups: the channel groups by name.
        scores: (C,) for at least one producer of each group that loses channels, larger = keep.
        cost: what the plan says it costs, one or several.
        budget: what it may cost, as `uniform_plan` takes it, or BudgetError says how much it is above that; None:
            whatever it costs, which is recorded as its budget.
        rates, mode, round_to, min_keep: see `rate_widths`.
        reduction: how the scores of a group's producers combine.
        variant, seed: which channels go, see `select`.

    Raises:
        ConfigError: as `rate_widths`, an unknown variant, or a negative seed.
        ScoreError: scores are missing, or do not fit their group.
        BudgetError: the rates do not meet a budget, or a budget is malformed or met by the dense network.

    Cost: a few evaluations of each `cost`, and a sort of each group's scores.

    Deviations: [Lin2020]_ computes the ranks anew for each layer, on other images, but on the dense network too, and
    trains between layers.

    Example:
        >>> import torch
        >>> from secateur.records import Member
        >>> class Channels:
        ...     name, unit = "channels", "channels"
        ...     def __call__(self, widths):
        ...         return float(widths.get("conv", 4))
        >>> group = ChannelGroup("conv", 4, (Member("conv", "producer", ((0,), (1,), (2,), (3,))),))
        >>> scores = ScoreTable({"conv": torch.tensor([4.0, 1.0, 3.0, 2.0])})
        >>> plan = rate_plan({"conv": group}, scores, Channels(), "[0.5]")
        >>> plan["conv"], plan.cost_before, plan.cost_after, plan.budget
        ((0, 2), 4.0, 2.0, 2.0)
    """
    widths = rate_widths(groups, rates, mode=mode, round_to=round_to, min_keep=min_keep)
    cut = {name: width for name, width in widths.items() if width < groups[name].width}
    settings = {
        "search": "rates",
        "rates": {layer: rate for named in _by_group(groups, rates).values() for layer, rate in named.items()},
        "mode": mode,
    }
    common = plan_settings(
        scores, round_to=round_to, min_keep=min_keep, reduction=reduction, variant=variant, seed=seed
    )
    problem = Problem(
        groups=groups,
        scores={name: groups[name].combine(scores, reduction=reduction) for name in cut},
        spendings=_spendings(groups, cost, budget, cut),
        widths={name: (width, groups[name].width) for name, width in cut.items()},
        reduction=reduction,
        variant=variant,
        seed=seed,
        settings=settings | common,
    )
    return problem.plan(cut, {})


def _spendings(groups: Groups, cost: Costs, budget: Budgets | None, widths: Mapping[str, int]) -> tuple[Spending, ...]:
    if budget is None:
        spent = [(each, counted(each, widths)) for each in told_apart(cost)]
        return tuple(Spending(each, after, counted(each, {}), after) for each, after in spent)
    spendings = state_spendings(cost, budget, {name: group.width for name, group in groups.items()})
    above = [
        f"{each.told(each.of(widths))} ({100 * each.of(widths) / each.dense:.1f}% of the dense network), above the "
        f"budget {each.given!r}, which allows {each.told(each.largest)}"
        for each in spendings
        if not each.met(widths)
    ]
    if above:
        raise BudgetError(f"the rates lead to {'; and to '.join(above)}; raise the budget, or the rates")
    return spendings


def _by_group(groups: Groups, rates: Rates) -> dict[str, dict[str, float]]:
    """Return the rates that are given for each group: group -> layer -> rate; only groups that have any."""
    if isinstance(rates, str):
        rates = parse_rates(rates)
    if not isinstance(rates, Mapping):
        if len(rates) != len(groups):
            raise ConfigError(
                f"there are {len(rates)} rates for {len(groups)} groups; give one for each, in this order: "
                f"{', '.join(groups)}; or a mapping from names to rates"
            )
        rates = dict(zip(groups, rates, strict=True))
    for layer, rate in rates.items():
        if not isinstance(rate, Real) or not 0 <= rate <= 1:
            raise ConfigError(f"the rate of {layer!r} is {rate!r}; a share of removed channels must lie in 0..1")
    makers = {name: {name, *(member.layer for member in group.producers)} for name, group in groups.items()}
    known = set().union(*makers.values())
    for layer, rate in rates.items():
        if rate and layer not in known:
            reasons = groups.skipped if isinstance(groups, ChannelGroups) else {}
            why = f" ({reasons[layer]})" if layer in reasons else ""
            raise ConfigError(
                f"channels of {layer!r} cannot be pruned{why}; rates can be given for {', '.join(sorted(known))}"
            )
    named = {name: {layer: rates[layer] for layer in rates if layer in layers} for name, layers in makers.items()}
    return {name: given for name, given in named.items() if given}
