"""What examples/guides/measurements.md tells of the criteria of three houses is what the comparison has found."""

from __future__ import annotations

import csv

import pytest

from guides_for_tests import MEASUREMENTS, README, ROOT, section, tables
from secateur_cli.intervals import Mean, mean

CRITERIA = {
    "group magnitude, p = 1, Torch-Pruning": ("Torch-Pruning", "magnitude p=1"),
    "reconstruction, secateur": ("secateur", "reconstruction"),
    "FPGM, NNI": ("NNI", "fpgm"),
    "FPGM, Torch-Pruning": ("Torch-Pruning", "fpgm"),
    "L1, NNI": ("NNI", "l1"),
    "Taylor, NNI": ("NNI", "taylor"),
    "scale of batch norm, Torch-Pruning": ("Torch-Pruning", "bn-scale"),
    "Taylor, Torch-Pruning": ("Torch-Pruning", "taylor"),
    "DI, secateur": ("secateur", "di"),
    "random": ("secateur", "random"),
    "HRank, secateur": ("secateur", "hrank"),
}
BUDGETS, SEARCHES = ("70%", "50%", "30%"), ("uniform", "curves")
SEEDS = ("0", "1", "2")
BOTH = ("compensated", "fine_tuned")
TEXT = " ".join(section("Criteria of three houses").split())


def recorded(name: str) -> list[dict[str, str]]:
    with (ROOT / "examples/compare" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


COMPARED, TRAINED, GREEDY = map(recorded, ("resnet56.csv", "resnet56_trained.csv", "resnet56_greedy.csv"))
FINER = recorded("resnet56_greedy_finer.csv")


def compared(criterion: str, search: str, budget: str, stage: str) -> dict[str, float]:
    """What the comparison of criteria found: seed -> top-1 in percent; one where no seed changes the channels."""
    trained = stage == "fine_tuned"
    cells = [
        cell
        for cell in (GREEDY if search == "greedy" else TRAINED if trained else COMPARED)
        if (cell["house"], cell["criterion"], cell["search"]) == (*CRITERIA[criterion], search)
        and cell["budget"] == f"{budget} of the MACs"
        and cell[f"accuracy_{stage}"]
    ]
    assert tuple(sorted(cell["seed"] for cell in cells)) == SEEDS
    shared = stage == "cut" and len({cell["plan"] for cell in cells}) == 1
    return {cell["seed"]: 100 * float(cell[f"accuracy_{stage}"]) for cell in (cells[:1] if shared else cells)}


def over_seeds(criterion: str, *where: str) -> Mean:
    over = mean([*compared(criterion, *where).values()])
    assert over is not None
    return over


def in_numbers(by: Mean) -> str:
    return f"{by.value:.1f} ({by.ends[0]:.1f} to {by.ends[1]:.1f})"


def as_told(over: Mean) -> str:
    return f"{over.value:.1f}" if over.reach is None else f"{over.value:.1f} ±{over.reach:.1f}"


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


def ahead(criterion: str, other: str, search: str, budget: str, stage: str = "compensated") -> Mean:
    """Return by how much a criterion is ahead of another at a stage, seed by seed."""
    ours, theirs = (compared(name, search, budget, stage) for name in (criterion, other))
    by = mean([ours[seed] - theirs[seed] for seed in ours])
    assert by is not None
    return by


def in_order(search: str, budget: str, stage: str) -> list[str]:
    """Return the criteria by what their networks have right, the best first."""
    return sorted(CRITERIA, key=lambda name: -over_seeds(name, search, budget, stage).value)


def one_leads(search: str, budget: str, stage: str) -> bool:
    """Return whether the first criterion is ahead of every other one beyond chance."""
    first, *others = in_order(search, budget, stage)
    return all(ahead(first, other, search, budget, stage).ends[0] > 0 for other in others)


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


def test_what_the_error_curves_give() -> None:
    ends = []
    for budget in BUDGETS:
        uniform, curves = (
            [over_seeds(n, search, budget, "compensated").value for n in CRITERIA] for search in SEARCHES
        )
        more = [after - before for before, after in zip(uniform, curves, strict=True)]
        ends += [f"{min(more):.1f}", f"{max(more):.1f}"]
    assert "gain {} to {} points at 70%, {} to {} at 50% and {} to {} at 30%".format(*ends) in TEXT


BEHIND = ("HRank, secateur", "random")


def of_nine(search: str, budget: str) -> list[float]:
    """Return what the criteria other than HRank and chance have right once compensated."""
    return [over_seeds(name, search, budget, "compensated").value for name in CRITERIA if name not in BEHIND]


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


def test_what_the_readme_says_of_nine_criteria_and_of_the_two_behind() -> None:
    readme = " ".join(README.split())
    ends = [f"{end(of_nine(search, '50%')):.0f}" for search in SEARCHES for end in (min, max)]
    assert "has {} to {}% by uniform widths and {} to {}% by error curves".format(*ends) in readme
    uniform, curves = ([over_seeds(name, by, "50%", "compensated").value for name in BEHIND] for by in SEARCHES)
    assert len({f"{share:.0f}" for share in uniform}) == 1
    said = f"HRank and random channels are behind, at {uniform[0]:.0f} and {min(curves):.0f} to {max(curves):.0f}%"
    assert said in readme


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


def leads(search: str, other: str, stage: str, budget: str = "50%") -> list[Mean]:
    """Return by how much each criterion does better by a search than by another, seed by seed."""
    found = []
    for name in CRITERIA:
        ours, theirs = (compared(name, by, budget, stage) for by in (search, other))
        by = mean([ours[seed] - theirs[seed] for seed in ours])
        assert by is not None
        found.append(by)
    return found


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


def in_words(found: list[Mean]) -> str:
    return f"{in_points([by.value for by in found])} (beyond chance for {sum(by.ends[0] > 0 for by in found)})"


def in_points(found: list[float]) -> str:
    return f"{min(found):z.1f} to {max(found):z.1f} points, {sum(found) / len(found):z.1f} in the mean"


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
