"""What the comparison of the criteria of three houses has found, by the files in examples/compare, and in words."""

from __future__ import annotations

import csv

from guides_for_tests import ROOT, section
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
BEHIND = ("HRank, secateur", "random")
BOTH = ("compensated", "fine_tuned")
TEXT = " ".join(section("Criteria of three houses").split())


def recorded(name: str) -> list[dict[str, str]]:
    with (ROOT / "examples/compare" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


COMPARED, TRAINED, GREEDY = map(recorded, ("resnet56.csv", "resnet56_trained.csv", "resnet56_greedy.csv"))


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


def of_nine(search: str, budget: str) -> list[float]:
    """Return what the criteria other than HRank and chance have right once compensated."""
    return [over_seeds(name, search, budget, "compensated").value for name in CRITERIA if name not in BEHIND]


def leads(search: str, other: str, stage: str, budget: str = "50%") -> list[Mean]:
    """Return by how much each criterion does better by a search than by another, seed by seed."""
    found = []
    for name in CRITERIA:
        ours, theirs = (compared(name, by, budget, stage) for by in (search, other))
        by = mean([ours[seed] - theirs[seed] for seed in ours])
        assert by is not None
        found.append(by)
    return found


def in_words(found: list[Mean]) -> str:
    return f"{in_points([by.value for by in found])} (beyond chance for {sum(by.ends[0] > 0 for by in found)})"


def in_points(found: list[float]) -> str:
    return f"{min(found):z.1f} to {max(found):z.1f} points, {sum(found) / len(found):z.1f} in the mean"
