"""What examples/guides/measurements.md tells of the searches, over the criteria of three houses, is what was found."""

from __future__ import annotations

import pytest

from guides_for_tests import MEASUREMENTS
from three_houses_for_tests import (
    BOTH,
    BUDGETS,
    COMPARED,
    CRITERIA,
    GREEDY,
    SEARCHES,
    TEXT,
    in_points,
    in_words,
    leads,
    of_nine,
    over_seeds,
    recorded,
)

FINER = recorded("resnet56_greedy_finer.csv")


def test_what_the_error_curves_give() -> None:
    ends = []
    for budget in BUDGETS:
        uniform, curves = (
            [over_seeds(n, search, budget, "compensated").value for n in CRITERIA] for search in SEARCHES
        )
        more = [after - before for before, after in zip(uniform, curves, strict=True)]
        ends += [f"{min(more):.1f}", f"{max(more):.1f}"]
    assert "gain {} to {} points at 70%, {} to {} at 50% and {} to {} at 30%".format(*ends) in TEXT


def test_whether_the_widths_give_more_than_the_criterion() -> None:
    gained, apart = [], {search: [] for search in SEARCHES}
    for budget in BUDGETS:
        uniform, curves = (of_nine(search, budget) for search in SEARCHES)
        gained.append(sum(curves) / 9 - sum(uniform) / 9)
        for search, shares in zip(SEARCHES, (uniform, curves), strict=True):
            apart[search].append(max(shares) - min(shares))
    assert [more > spread for more, spread in zip(gained, apart["uniform"], strict=True)] == [False, True, True]
    said = (
        "it is {:.1f} points at 70%, {:.1f} at 50% and {:.1f} at 30%, where these nine lie within {:.1f}, {:.1f} and "
        "{:.1f} points of one another by uniform widths, and within {:.1f}, {:.1f} and {:.1f} by the curves."
    )
    assert said.format(*gained, *apart["uniform"], *apart["curves"]) in TEXT


@pytest.mark.parametrize(
    ("search", "other", "stages", "told"),
    [
        ("curves", "uniform", BOTH[::-1], "gain after two epochs {}, before them {}."),
        ("greedy", "uniform", BOTH, "of uniform widths by {}; after the epochs by {}."),
        ("curves", "greedy", BOTH, "ahead of it by {}; after the epochs by {}."),
    ],
)
def test_what_the_searches_give(search: str, other: str, stages: tuple[str, str], told: str) -> None:
    assert told.format(*(in_words(leads(search, other, stage)) for stage in stages)) in TEXT


def test_what_the_page_says_of_the_widths_first() -> None:
    gains = []
    for budget in ("50%", "30%", "70%"):
        for stage in BOTH:
            found = [by.value for by in leads("curves", "uniform", stage, budget)]
            gains.append(f"{min(found):.1f} to {max(found):.1f}")
    said = (
        "each gains {} points, and after two epochs of training {}, three seeds (with 70% removed {}, and {}; with 30% "
        "removed {}, and {})."
    )
    assert said.format(*gains) in " ".join(MEASUREMENTS.split())


def test_what_the_widths_give_at_30_after_two_epochs() -> None:
    assert f"gain by error curves {in_words(leads('curves', 'uniform', 'fine_tuned', '30%'))}:" in TEXT


@pytest.mark.parametrize(
    ("budget", "told"),
    [("30%", "after two epochs its networks are"), ("70%", "The greedy search's networks are after the epochs")],
)
def test_what_the_greedy_search_gives_after_two_epochs(budget: str, told: str) -> None:
    gained, lost = (leads(*pair, "fine_tuned", budget) for pair in (("greedy", "uniform"), ("curves", "greedy")))
    said = f"ahead of uniform widths by {in_words(gained)}, and behind the error curves by {in_words(lost)}."
    assert f"{told} {said}" in TEXT


@pytest.mark.parametrize("budget", ["70%", "30%"])
def test_what_the_greedy_search_gives_untrained(budget: str) -> None:
    gained, lost = (leads(*pair, "compensated", budget) for pair in (("greedy", "uniform"), ("curves", "greedy")))
    said = f"ahead of uniform widths by {in_words(gained)}, and behind the error curves by {in_words(lost)}"
    assert said in TEXT
    shares = {
        search: [
            float(cell["macs_share"]) for cell in cells if (cell["search"], cell["budget"][:3]) == (search, budget)
        ]
        for search, cells in (("greedy", GREEDY), ("curves", COMPARED))
    }
    greedy, curves = (f"{100 * sum(each) / len(each):.1f}%" for each in shares.values())
    assert f"{greedy} of the MACs, the curves at {curves}" in TEXT


def test_what_the_greedy_search_judges_by_at_30() -> None:
    right = [100 * float(cell["accuracy_cut"]) for cell in GREEDY if cell["budget"].startswith("30%")]
    assert f"at 30% its networks have {min(right):.0f} to {max(right):.0f}% right" in TEXT


def test_the_cells_of_the_greedy_search_are_counted() -> None:
    assert not any(cell["not_measured"] for cell in GREEDY)
    assert all(cell["accuracy_fine_tuned"] for cell in GREEDY)
    assert f"all {len(GREEDY)} cells in `resnet56_greedy.csv`" in TEXT


def in_first_seed(cells: list[dict[str, str]], search: str, budget: str) -> dict[tuple[str, str], float]:
    """Return what is right by each criterion once compensated, in percent."""
    return {
        (cell["house"], cell["criterion"]): 100 * float(cell["accuracy_compensated"])
        for cell in cells
        if (cell["search"], cell["budget"], cell["seed"]) == (search, f"{budget} of the MACs", "0")
    }


@pytest.mark.parametrize("budget", ["70%", "50%"])
def test_what_finer_steps_give_in_the_first_seed(budget: str) -> None:
    finer = in_first_seed(FINER, "greedy", budget)
    others = (
        in_first_seed(cells, search, budget)
        for cells, search in ((GREEDY, "greedy"), (COMPARED, "uniform"), (COMPARED, "curves"))
    )
    before, uniform, curves = ([finer[key] - other[key] for key in CRITERIA.values()] for other in others)
    gained = f"ahead of steps of 2% by {in_points(before)}, of uniform widths by {in_points(uniform)}"
    assert f"at {budget} {gained}, and behind the error curves by {in_points([-each for each in curves])}" in TEXT


def test_the_cells_of_finer_steps_are_those_of_the_first_seed() -> None:
    assert len(FINER) == 2 * len(CRITERIA)
    assert {cell["seed"] for cell in FINER} == {"0"}
    assert f"{len(FINER)} cells in `resnet56_greedy_finer.csv`" in TEXT
