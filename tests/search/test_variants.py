"""Ablations of a selection: which channels go, and what a search values by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from chains_for_tests import Case, ChainCost, small_case
from secateur.errors import ConfigError
from secateur.search import greedy_plan, uniform_plan


@pytest.mark.parametrize(
    ("variant", "kept", "ties"),
    [
        ("low", (0, 4, 5, 6, 7), {}),
        ("reverse", (0, 1, 2, 3, 6), {}),
        ("edge", (0, 2, 3, 4, 6), {"a": 3}),
        ("middle", (1, 2, 4, 5, 7), {"a": 3}),
    ],
)
def test_a_variant_changes_which_channels_go_not_how_many(variant: Any, kept: tuple[int, ...], ties: Any) -> None:
    """The scores of a are 5 1 1 1 7 8 6 9; three of eight channels go."""
    case = small_case()
    plan = uniform_plan(*case.arguments, "60%", variant=variant, round_to=1)
    assert plan["a"] == kept
    assert plan.widths == uniform_plan(*case.arguments, "60%", round_to=1).widths
    assert (plan.settings["variant"], plan.ties) == (variant, ties)
    assert "seed" not in plan.settings


def test_the_random_variant_draws_for_each_group_by_the_seed() -> None:
    dense = dict.fromkeys("abcdef", 20)
    case = Case(dense, {name: list(range(20)) for name in dense}, ChainCost(dense, dict.fromkeys(dense, 1)))
    plan = uniform_plan(*case.arguments, "30%", variant="random", seed=3, round_to=1)
    assert plan.settings["seed"] == 3
    assert plan.ties == {}
    assert len({plan[name] for name in dense}) == len(dense)
    assert uniform_plan(*case.arguments, "30%", variant="random", seed=3, round_to=1).kept == plan.kept
    assert uniform_plan(*case.arguments, "30%", variant="random", seed=4, round_to=1).kept != plan.kept


def test_the_greedy_search_values_what_the_variant_keeps() -> None:
    case, asked = small_case(), []

    def evaluate(kept: Mapping[str, tuple[int, ...]]) -> float:
        asked.append(dict(kept))
        return 1.0

    plan = greedy_plan(*case.arguments, "90%", evaluate, delta=0.05, variant="reverse", round_to=1)
    assert asked[:2] == [{"a": (0, 1, 2, 3, 4, 5, 6)}, {"b": (0, 1, 2, 3, 4, 5, 6)}]
    assert plan.kept["a"] == (0, 1, 2, 3, 4, 5, 6)
    assert plan.settings["variant"] == "reverse"


def test_unknown_variants_and_negative_seeds_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown variant 'high'; allowed: low, reverse, random, edge, middle"):
        uniform_plan(*small_case().arguments, "60%", variant="high", round_to=1)
    with pytest.raises(ConfigError, match=r"^seed is -1"):
        greedy_plan(*small_case().arguments, "60%", lambda kept: 1.0, variant="random", seed=-1, round_to=1)
