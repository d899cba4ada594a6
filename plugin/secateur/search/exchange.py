"""Better widths beside given ones: spend what the budgets leave over, and narrow one group to widen another.

Errors and costs are known as curves: what each width of a group errs, and what it costs while the others stay. From
widths that meet every budget on,

    spend       widens the group that loses most error for its cost, until nothing more can be paid;
    exchange    narrows one group and spends what that frees on another, where error is lost in all.

Where the cost of one depends on the width of the other, as that of layers in a row does, the wider costs less beside
the narrower. That is looked at once the plain exchanges, which leave it out, have come to an end.

All end where no such move is left. Every move lowers the error, so there is an end.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence

from secateur.search.problem import Problem

Curves = Mapping[str, Mapping[int, float]]
"""Group -> allowed width, ascending -> error, which does not rise with the width."""

ROUNDING = 1e-12  # share of a dense cost, or of an error, that is none


class Bill:
    """What each width of a group costs beside its full width, while the other groups stay; remembered.

    Only the budgets count that the dense network does not meet. Two groups meet if what one costs depends on the width
    of the other: if both at their narrowest cost more or less than each of them alone tells. For a sum of products of
    widths that says it all; for another cost that such a pair escapes what is billed is an estimate.

    Attributes:
        spendings: the costs that count.
        meets: group -> the groups that it meets.

    Cost: an evaluation of each cost for each pair of groups; then one for each width of a group, for each choice of the
    widths of those that it meets.
    """

    def __init__(self, problem: Problem) -> None:
        self.spendings = problem.unmet(problem.dense)
        self._widths = problem.widths
        self.meets = self._find_pairs(problem.narrowest)
        self._known: dict[tuple[str, tuple[int, ...]], dict[int, tuple[float, ...]]] = {}

    def __call__(self, name: str, widths: Mapping[str, int]) -> Mapping[int, tuple[float, ...]]:
        """Return width of the group -> what it adds to each cost, below 0 as a rule, the others having `widths`."""
        others = {other: widths[other] for other in self.meets[name]}
        key = name, tuple(others.values())
        if key not in self._known:
            dense = [spending.of(others) for spending in self.spendings]
            self._known[key] = {
                width: tuple(
                    spending.of({**others, name: width}) - whole
                    for spending, whole in zip(self.spendings, dense, strict=True)
                )
                for width in self._widths[name]
            }
        return self._known[key]

    def left(self, widths: Mapping[str, int]) -> list[float]:
        """Return how much of each budget is left, rounded up."""
        return [each.largest - each.of(widths) + ROUNDING * each.dense for each in self.spendings]

    def load(self, costs: tuple[float, ...]) -> float:
        """Return what costs come to together, as shares of those of the dense network."""
        return sum(cost / spending.dense for cost, spending in zip(costs, self.spendings, strict=True))

    def _find_pairs(self, narrowest: Mapping[str, int]) -> dict[str, list[str]]:
        meets: dict[str, list[str]] = {name: [] for name in narrowest}
        for spending in self.spendings:
            alone = {name: spending.of({name: width}) for name, width in narrowest.items()}
            for one, other in itertools.combinations(narrowest, 2):
                both = spending.of({one: narrowest[one], other: narrowest[other]})
                if abs(both - alone[one] - alone[other] + spending.dense) > ROUNDING * spending.dense:
                    meets[one].append(other)
                    meets[other].append(one)
        return {name: list(dict.fromkeys(others)) for name, others in meets.items()}


def total(errors: Curves, widths: Mapping[str, int]) -> float:
    """Return the summed error."""
    return sum(errors[name][width] for name, width in widths.items())


def improved(problem: Problem, bill: Bill, errors: Curves, widths: Mapping[str, int]) -> dict[str, int]:
    """Return widths that meet the budgets, as `widths` do, with at most their error, where no move helps."""
    better = dict(widths)
    while (
        (moved := _taken(problem, better, _spendings(bill, errors, better), at_most=1))
        or (moved := _taken(problem, better, _exchanges(bill, errors, better), at_most=len(better)))
        or (moved := _taken(problem, better, _joint_exchanges(problem, bill, errors, better), at_most=len(better)))
    ):
        better |= moved
    return better


_Move = tuple[float, dict[str, int]]
"""How good a move is, and the widths that it gives."""


def _taken(problem: Problem, widths: Mapping[str, int], moves: Iterator[_Move], *, at_most: int) -> dict[str, int]:
    """Return the widths that the best moves give together, each of other groups, so that the budgets are met."""
    given: dict[str, int] = {}
    for _, move in sorted(moves, key=lambda move: move[0], reverse=True):
        if given.keys().isdisjoint(move) and problem.met({**widths, **given, **move}):
            given |= move
            at_most -= 1
            if not at_most:
                break
    return given


def _spendings(bill: Bill, errors: Curves, widths: Mapping[str, int]) -> Iterator[_Move]:
    """Yield the groups that can be widened, by the error that they lose for their cost."""
    left = bill.left(widths)
    for name, curve in errors.items():
        costs, now = bill(name, widths), widths[name]
        for width, error in curve.items():
            if width > now and error < curve[now]:
                more = tuple(after - before for after, before in zip(costs[width], costs[now], strict=True))
                if all(cost <= rest for cost, rest in zip(more, left, strict=True)):
                    yield (curve[now] - error) / max(bill.load(more), 1e-300), {name: width}


def _exchanges(bill: Bill, errors: Curves, widths: Mapping[str, int]) -> Iterator[_Move]:
    """Yield the exchanges that lose error, by how much, each group billed while the other stays.

    What is freed and what is spent are added up. For a sum of products of widths that is no less than what the exchange
    really costs.
    """
    left, tiny = bill.left(widths), ROUNDING * total(errors, widths)
    bills = {name: bill(name, widths) for name in errors}
    ladders = {name: [*zip(*costs.values(), strict=True)] for name, costs in bills.items()}  # by cost, ascending
    for narrowed, widened in itertools.permutations(errors, 2):
        down, up, now = errors[narrowed], errors[widened], bills[widened][widths[widened]]
        allowed = [*up]
        wider = allowed.index(widths[widened]) + 1
        for width in down:
            if width >= widths[narrowed]:
                break
            freed = zip(bills[narrowed][widths[narrowed]], bills[narrowed][width], strict=True)
            largest = [before + rest + more - less for before, rest, (more, less) in zip(now, left, freed, strict=True)]
            payable = min(
                bisect.bisect_right(ladder, most, lo=wider)
                for ladder, most in zip(ladders[widened], largest, strict=True)
            )
            if payable > wider:
                to = allowed[payable - 1]
                gained = up[widths[widened]] - up[to] - (down[width] - down[widths[narrowed]])
                if gained > tiny:
                    yield gained, {narrowed: width, widened: to}


def _joint_exchanges(problem: Problem, bill: Bill, errors: Curves, widths: Mapping[str, int]) -> Iterator[_Move]:
    """Yield the exchanges that lose error between groups that meet, by how much, at what they cost together."""
    tiny = ROUNDING * total(errors, widths)
    for narrowed, others in bill.meets.items():
        for widened in others:
            up = errors[widened]
            allowed = [*up]
            wider = allowed.index(widths[widened]) + 1
            for width in errors[narrowed]:
                if width >= widths[narrowed]:
                    break
                most = up[widths[widened]] - (errors[narrowed][width] - errors[narrowed][widths[narrowed]])
                better = bisect.bisect_left(allowed, True, lo=wider, key=lambda to: most - up[to] > tiny)
                to = _widest(problem, {**widths, narrowed: width}, widened, allowed[better:])
                if to is not None:
                    yield most - up[to], {narrowed: width, widened: to}


def _widest(problem: Problem, widths: Mapping[str, int], name: str, candidates: Sequence[int]) -> int | None:
    """Return the widest of some widths of a group, ascending, that meets the budgets beside those of the others."""

    def unmet(width: int) -> bool:
        return not problem.met({**widths, name: width})

    if not candidates or unmet(candidates[0]):
        return None
    return candidates[bisect.bisect_left(candidates, True, lo=1, key=unmet) - 1]
