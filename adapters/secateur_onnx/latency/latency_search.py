"""A budget of latency met for real: any search, again and again, with a cost that each real run corrects.

A search finds a plan by the cost as it stands; the plan is timed as a whole network; what was measured says which
share of the layer times goes with the budget, and the search runs again, until a measured time is at most the budget
and little below it. Two runs on either side of the budget are joined by a line; before there are two, the dense
network is the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from secateur.counts import check_counts
from secateur.errors import BudgetError, ConfigError, DataError, SecateurWarning
from secateur.records import PruningPlan, Spent
from secateur.search.budget import allowed_cost
from secateur_onnx.latency.latency import LatencyCost
from secateur_onnx.latency.whole_runs import WholeRun

Find = Callable[[LatencyCost], PruningPlan]
"""A search with all but the cost of latency given."""
REPEATS = 2  # plans in a row that were timed before, found by looser costs, after which there is nothing between
NEAREST, FARTHEST = 0.98, 0.5  # the next share of layer times, as a share of the smallest that was too slow


@dataclass(frozen=True)
class Round:
    """One plan of the search.

    Attributes:
        layers: its layer times as a share of the dense network's: what the table alone says.
        predicted: the share of the dense network's time that was expected, by the runs before it.
        measured: what the whole network took.
    """

    layers: float
    predicted: float
    measured: WholeRun

    @property
    def error(self) -> float:
        """By how much the prediction was off: predicted / measured - 1."""
        return self.predicted / self.measured.share - 1

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "error": self.error}


@dataclass(frozen=True)
class LatencySearch:
    """Where a search for a budget of latency has ended.

    Attributes:
        plan: its latency, before and after, is a measurement; its settings hold `to_json` under "latency".
        cost: the cost model of the last round.
        rounds: every plan that was timed, in order.
        chosen: which of them it is.
        allowed: the share of the dense network's time that the budget is.
        met: whether the measured time is at most that.
    """

    plan: PruningPlan
    cost: LatencyCost
    rounds: tuple[Round, ...]
    chosen: int
    allowed: float
    met: bool

    @property
    def verdict(self) -> str:
        """What was asked for, measured and predicted, in a sentence."""
        return said(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "allowed": self.allowed,
            "met": self.met,
            "dense_ms": self.cost.dense_ms,
            "chosen": self.chosen,
            "rounds": [each.to_json() for each in self.rounds],
        }


def said(search: Mapping[str, Any]) -> str:
    """Return what `LatencySearch.to_json` holds in a sentence.

    Example:
        >>> run = {"share": 0.58, "lower": 0.57, "upper": 0.6, "dense_ms": 2.0}
        >>> rounds = [{"layers": 0.5, "predicted": 0.6, "measured": run, "error": 0.034}]
        >>> said({"allowed": 0.6, "met": True, "chosen": 0, "rounds": rounds})
        'measured 58.0% of the dense time (57.0% to 60.0%), 60.0% allowed; predicted 60.0%, off by +3.4%'
    """
    found = search["rounds"][search["chosen"]]
    run = found["measured"]
    short = "" if search["met"] else f", missed by {run['share'] / search['allowed'] - 1:.1%}"
    return (
        f"measured {run['share']:.1%} of the dense time ({run['lower']:.1%} to {run['upper']:.1%}), "
        f"{search['allowed']:.1%} allowed{short}; predicted {found['predicted']:.1%}, off by {found['error']:+.1%}"
    )


def latency_search(
    find: Find,
    cost: LatencyCost,
    budget: str | float,
    measure: Callable[[PruningPlan | None], WholeRun],
    *,
    tolerance: float = 0.05,
    rounds: int = 8,
    on_round: Callable[[int, Round], None] | None = None,
) -> LatencySearch:
    """Return the plan of a search whose measured latency meets the budget, from below and by at most the tolerance.

    Args:
        find: a cost of latency -> a plan that meets the budget by it; other costs and budgets may bind as well.
        cost: from `latency_cost`.
        budget: "60%" of the dense network's time, or milliseconds as a number. These are a share of the time that the
            dense network takes at first, and times are told as that share of it: each plan is timed in turn with the
            dense network, so that a clock that drops meanwhile changes no decision.
        measure: a plan, or None for the dense network against itself -> its real time; see `WholeRuns`.
        tolerance: how far below the budget, as a share of it, is near enough.
        rounds: plans that are timed at most.
        on_round: called with the number of each, from 1, and what was found.

    Returns: the slowest plan that meets the budget; where none does, the fastest of all, with a SecateurWarning.

    Raises:
        ConfigError: `tolerance` or `rounds` cannot be used.
        BudgetError: the budget is malformed, met by the dense network, or out of reach before any plan was timed.
        DataError: a measurement is not positive and finite.
        what `find` and `measure` raise.

    Cost: for each round a search, an export and the timing of two networks.

    Example:
        >>> from secateur.cost import TermCost
        >>> from secateur.cost.terms import Count, Term
        >>> from secateur.records import ChannelGroup, Member
        >>> own = tuple((c,) for c in range(20))
        >>> group = ChannelGroup("a", 20, (Member("a", "producer", own),))
        >>> layers = TermCost("latency", "ms", {"a": group}, [Term(1.0, (Count.of(20, {"a": [1] * 20}),))])
        >>> def find(cost):
        ...     width = max(w for w in range(21) if cost({"a": w}) <= 0.61 * cost({}))
        ...     return PruningPlan((group,), {"a": tuple(range(width))}, "latency", cost({}), cost({"a": width}), 12.0)
        >>> def measure(plan):  # a fifth of the time lies outside the layers
        ...     share = 1.0 if plan is None else 0.2 + 0.8 * plan.widths["a"] / 20
        ...     return WholeRun(share, share, share, 3.0)
        >>> found = latency_search(find, LatencyCost(layers, 20.0), "61%", measure)
        >>> found.plan.widths, round(found.plan.cost_after, 2), [round(each.error, 2) for each in found.rounds]
        ({'a': 10}, 1.8, [-0.12, 0.0])
    """
    check_counts(rounds=rounds)
    if not 0 < tolerance < 1:
        raise ConfigError(f"tolerance must lie between 0 and 1; found {tolerance}")
    dense_ms = _checked(measure(None)).dense_ms
    cost = replace(cost, dense_ms=dense_ms)
    allowed = allowed_cost(budget, dense_ms, unit=cost.unit) / dense_ms
    timed: list[tuple[Round, PruningPlan]] = []
    points, aim, repeats = [(1.0, 1.0)], allowed, 0
    while True:
        plan: PruningPlan | None
        try:
            plan = find(cost)
        except BudgetError:
            if not timed:
                raise
            plan = None  # the correction has moved the budget out of reach: is there anything on the way to it?
        if plan is None or any(other.widths == plan.widths for _, other in timed):
            repeats += 1
            if repeats > REPEATS:
                break  # widths go in steps, or another budget binds: a looser cost finds nothing wider
            aim = (aim + _slow(points, allowed)[0]) / 2
        else:
            repeats, share = 0, cost.share(plan.widths)
            found = Round(share, _expected(points, share), _checked(measure(plan)))
            timed.append((found, plan))
            if on_round is not None:
                on_round(len(timed), found)
            time = found.measured.share
            if allowed * (1 - tolerance) <= time <= allowed or len(timed) == rounds or allowed >= 1:
                break
            points = _joined(points, (share, time))
            aim = _aim(points, allowed, allowed * (1 - tolerance / 4))
        cost = cost.corrected(aim, allowed)
    return _chosen(timed, cost, allowed)


def _joined(points: list[tuple[float, float]], new: tuple[float, float]) -> list[tuple[float, float]]:
    """Return the points ascending, without those that contradict the new one: less is faster, more is slower."""
    share, time = new
    kept = [p for p in points if p == (1.0, 1.0) or (p[0] - share) * (p[1] - time) > 0]
    return sorted([*kept, new])


def _expected(points: list[tuple[float, float]], share: float) -> float:
    """Return the time expected at a share of the layer times: between two runs, or beyond the last from the dense."""
    lowest, time = points[0]
    if share >= lowest or lowest == 1:
        shares, times = zip((0.0, 0.0), *points, strict=True)
        return float(np.interp(share, shares, times))
    return max(1 - (1 - share) * (1 - time) / (1 - lowest), share * time / lowest)


def _slow(points: list[tuple[float, float]], allowed: float) -> tuple[float, float]:
    """Return the smallest share of the layer times that was too slow, and its time; the dense network always is."""
    return min(p for p in points if p[1] > allowed)


def _aim(points: list[tuple[float, float]], allowed: float, target: float) -> float:
    """Return the share of the layer times at which the time is expected to be `target`."""
    slow = _slow(points, allowed)
    fast = max((p for p in points if p[0] < slow[0]), default=None)
    if fast is not None:
        aim = fast[0] + (target - fast[1]) / (slow[1] - fast[1]) * (slow[0] - fast[0])
        return min(max(aim, fast[0]), NEAREST * slow[0] + (1 - NEAREST) * fast[0])
    gained = max(1 - slow[1], 1e-9)
    aim = 1 - (1 - target) * (1 - slow[0]) / gained
    return min(max(aim, FARTHEST * slow[0]), NEAREST * slow[0])


def _checked(run: WholeRun) -> WholeRun:
    if not all(0 < value < float("inf") for value in (run.share, run.lower, run.upper, run.dense_ms)):
        raise DataError(f"a measured time must be positive and finite; found {run}")
    return run


def _chosen(timed: list[tuple[Round, PruningPlan]], cost: LatencyCost, allowed: float) -> LatencySearch:
    shares = [each.measured.share for each, _ in timed]
    within = [share for share in shares if share <= allowed]
    met = bool(within)
    chosen = shares.index(max(within) if met else min(shares))
    search = LatencySearch(timed[chosen][1], cost, tuple(each for each, _ in timed), chosen, allowed, met)
    if not met:
        warnings.warn(
            f"the latency is not met after {len(timed)} rounds: {search.verdict}", SecateurWarning, stacklevel=3
        )
    before = cost.dense_ms
    spent = Spent(before, shares[chosen] * before, allowed * before)
    settings = {**search.plan.settings, "latency": search.to_json()}
    if search.plan.cost == cost.name:
        plan = replace(search.plan, cost_before=before, cost_after=spent.after, budget=spent.budget, settings=settings)
    else:
        plan = replace(search.plan, further={**search.plan.further, cost.name: spent}, settings=settings)
    return replace(search, plan=plan)
