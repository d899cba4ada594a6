"""What examples/guides/measurements.md tells of the criteria of three houses is what the comparison has found."""

from __future__ import annotations

import pytest

from guides_for_tests import README, section, tables
from three_houses_for_tests import (
    BEHIND,
    BUDGETS,
    COMPARED,
    CRITERIA,
    SEARCHES,
    TEXT,
    ahead,
    as_told,
    in_numbers,
    in_order,
    of_nine,
    one_leads,
    over_seeds,
)


def test_every_cell_of_the_comparison_was_measured() -> None:
    cells = {tuple(cell[key] for key in ("house", "criterion", "search", "budget", "seed")) for cell in COMPARED}
    assert len(cells) == len(COMPARED) == len(CRITERIA) * len(SEARCHES) * len(BUDGETS) * 3 == 198
    assert not any(cell["not_measured"] for cell in COMPARED)
    assert "all 198 cells" in TEXT


@pytest.mark.parametrize(("table", "search"), [*enumerate((*SEARCHES, "greedy"))])
def test_criteria_of_three_houses(table: int, search: str) -> None:
    """Compensated at three budgets, then the two stages before at half of the MACs; the best at half comes first."""
    found = {
        name: [
            *(over_seeds(name, search, budget, "compensated") for budget in BUDGETS),
            *(over_seeds(name, search, "50%", stage) for stage in ("cut", "recalibrated")),
        ]
        for name in CRITERIA
    }
    first = sorted(found, key=lambda name: -found[name][1].value)
    rows = tables(section("Criteria of three houses"))[table]
    assert rows == [[name, *map(as_told, found[name])] for name in first]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("search", SEARCHES)
def test_none_leads_and_chance_and_hrank_are_last(search: str, budget: str) -> None:
    order = in_order(search, budget, "compensated")
    assert not one_leads(search, budget, "compensated")
    assert {*order[-2:]} == {"random", "HRank, secateur"}


@pytest.mark.parametrize(
    ("told", "criterion", "other"),
    [
        ("ahead of random ones by {}, {} and {} points", "HRank, secateur", "random"),
        ("DI is behind L1 by {}, {} and {}", "L1, NNI", "DI, secateur"),
    ],
)
def test_differences_by_uniform_widths(told: str, criterion: str, other: str) -> None:
    by = [ahead(criterion, other, "uniform", budget) for budget in BUDGETS]
    assert told.format(*map(in_numbers, by)) in TEXT


def test_what_the_readme_says_of_nine_criteria_and_of_the_two_behind() -> None:
    readme = " ".join(README.split())
    ends = [f"{end(of_nine(search, '50%')):.0f}" for search in SEARCHES for end in (min, max)]
    assert "has {} to {}% by uniform widths and {} to {}% by error curves".format(*ends) in readme
    uniform, curves = ([over_seeds(name, by, "50%", "compensated").value for name in BEHIND] for by in SEARCHES)
    assert len({f"{share:.0f}" for share in uniform}) == 1
    said = f"HRank and random channels are behind, at {uniform[0]:.0f} and {min(curves):.0f} to {max(curves):.0f}%"
    assert said in readme
