"""Sums of products of counts."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.cost.terms import Count, Term, TermCost
from secateur.records import ChannelGroup, Member


def test_only_what_a_group_occurs_in_is_counted_anew() -> None:
    """The search asks for thousands of widths, one group at a time."""
    asked: list[str] = []

    class Watched(Term):
        def value(self, removed: Mapping[str, int]) -> float:
            asked.append(next(iter(self.counts[0].lost)))
            return super().value(removed)

    channels = tuple((c,) for c in range(4))
    groups = {name: ChannelGroup(name, 4, (Member(name, "producer", channels),)) for name in "abc"}
    cost = TermCost("macs", "MACs", groups, [Watched(1, (Count.of(4, {name: [1] * 4}),)) for name in "abc"])
    asked.clear()
    assert cost({"a": 4, "b": 1, "c": 4}) == 9
    assert asked == ["b"]
    assert cost({"a": 3, "c": 2}) == 9
    assert cost({"a": 0, "b": 1}) == 5
    assert cost({}) == 12
