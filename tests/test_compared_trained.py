"""What examples/guides/measurements.md tells of the criteria of three houses after two epochs is what was found."""

from __future__ import annotations

import pytest

from guides_for_tests import README, section, tables
from three_houses_for_tests import (
    BOTH,
    COMPARED,
    CRITERIA,
    SEARCHES,
    TEXT,
    TRAINED,
    ahead,
    as_told,
    in_numbers,
    in_order,
    in_words,
    leads,
    one_leads,
    over_seeds,
)


def test_the_trained_cells_are_those_of_the_comparison() -> None:
    """What comes before training is the same to the last image."""
    keys = ("house", "criterion", "search", "budget", "seed")
    stages = ("accuracy_cut", "accuracy_recalibrated", "accuracy_compensated")
    before = {tuple(cell[key] for key in keys): [cell[stage] for stage in stages] for cell in COMPARED}
    trained = {tuple(cell[key] for key in keys): [cell[stage] for stage in stages] for cell in TRAINED}
    assert len(trained) == len(TRAINED)
    assert trained == before
    assert f"all {len(TRAINED)} cells in `resnet56_trained.csv`" in TEXT


@pytest.mark.parametrize(("table", "budget"), [(3, "50%"), (4, "30%"), (5, "70%")])
def test_what_two_epochs_leave_of_the_criteria(table: int, budget: str) -> None:
    order = in_order("uniform", budget, "fine_tuned")
    searches = (*SEARCHES, "greedy")
    assert tables(section("Criteria of three houses"))[table] == [
        [name, *(as_told(over_seeds(name, by, budget, at)) for by in searches for at in BOTH)] for name in order
    ]
    assert {*order[-2:]} == {"HRank, secateur", "random"}


@pytest.mark.parametrize("search", SEARCHES)
def test_nine_criteria_lie_together_after_two_epochs(search: str) -> None:
    trained = {name: over_seeds(name, search, "50%", "fine_tuned").value for name in CRITERIA}
    order = sorted(trained, key=lambda name: -trained[name])
    assert order[9:] == ["HRank, secateur", "random"]
    assert 0.5 < trained[order[0]] - trained[order[8]] <= 0.6
    assert all(ahead(order[0], name, search, "50%", "fine_tuned").ends[0] <= 0 for name in order[1:9])


def test_what_two_epochs_leave_at_70() -> None:
    assert f"gain by error curves {in_words(leads('curves', 'uniform', 'fine_tuned', '70%'))}." in TEXT
    dense = {100 * float(cell["accuracy_dense"]) for cell in TRAINED}
    last = min(over_seeds(name, "curves", "70%", "fine_tuned").value for name in CRITERIA)
    assert "each of the eleven, chance among them, comes within 0.8 points of the dense network" in TEXT
    assert 0.7 < max(dense) - last <= 0.8
    chance = ahead("random", "HRank, secateur", "uniform", "70%", "fine_tuned")
    assert chance.ends[0] < 0 < chance.ends[1]
    assert f"and random channels are ahead of HRank's by {in_numbers(chance)} with uniform widths." in TEXT
    assert not any(one_leads(search, "70%", "fine_tuned") for search in (*SEARCHES, "greedy"))


@pytest.mark.parametrize(
    ("told", "criterion", "other"),
    [
        ("it is ahead of L1 by {}", "DI, secateur", "L1, NNI"),
        ("HRank is behind L1 by {}", "L1, NNI", "HRank, secateur"),
        ("ahead of random ones by {}, which may be chance", "HRank, secateur", "random"),
    ],
)
def test_differences_after_two_epochs(told: str, criterion: str, other: str) -> None:
    by = ahead(criterion, other, "uniform", "50%", "fine_tuned")
    assert told.format(in_numbers(by)) in TEXT


def test_hrank_by_error_curves_after_two_epochs() -> None:
    by = ahead("L1, NNI", "HRank, secateur", "curves", "50%", "fine_tuned")
    assert f"By error curves it is behind L1 by {in_numbers(by)}" in TEXT


def test_what_three_seeds_leave_open_at_30_after_two_epochs() -> None:
    chance = ahead("HRank, secateur", "random", "uniform", "30%", "fine_tuned")
    behind = [ahead("L1, NNI", "HRank, secateur", search, "30%", "fine_tuned") for search in SEARCHES]
    assert all(by.ends[0] <= 0 < by.value for by in (chance, *behind))
    assert f"leave open, by {in_numbers(chance)} with uniform widths; and" in TEXT
    assert "behind L1, by {} with these and by {} by error curves".format(*map(in_numbers, behind)) in TEXT
    greedy = ahead("L1, NNI", "HRank, secateur", "greedy", "30%", "fine_tuned")
    assert greedy.ends[0] > 0
    assert f"by the greedy search it is, by {in_numbers(greedy)}." in TEXT
    assert not any(one_leads(search, "30%", "fine_tuned") for search in (*SEARCHES, "greedy"))


@pytest.mark.parametrize(
    ("budget", "said"),
    [("50%", "After two epochs: {} to {}% and {} to {}%"), ("30%", "with 30% of the MACs {} to {}% and {} to {}%")],
)
def test_what_the_readme_says_of_two_epochs(budget: str, said: str) -> None:
    ends = []
    for search in SEARCHES:
        means = [over_seeds(name, search, budget, "fine_tuned").value for name in CRITERIA]
        ends += [f"{min(means):.1f}", f"{max(means):.1f}"]
    assert said.format(*ends) in " ".join(README.split())
