"""What examples/guides/measurements.md tells is what the records beside the benchmarks hold; the README repeats it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from guides_for_tests import MEASUREMENTS, README, ROOT, section, tables
from secateur_cli.intervals import Mean, mean

NAMES = {"L1": "l1", "DI": "di", "HRank": "hrank", "reconstruction": "reconstruction"}


def recorded(name: str) -> dict[str, dict[str, float]]:
    """What a benchmark has recorded: seed and row -> stage -> figure, the last of each."""
    rows: dict[str, dict[str, float]] = {}
    for line in (ROOT / "examples/benchmarks" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        rows.setdefault(entry["row"], {})[entry["stage"]] = entry["value"]
    return rows


SEARCHES = recorded("search_quality")


def found(name: str, stage: str) -> dict[int, float]:
    """Return what a stage of a search gave: seed -> share, of the seeds that were measured."""
    rows = {seed: SEARCHES.get(f"{seed} {name}", {}) for seed in range(3)}
    return {seed: row[stage] for seed, row in rows.items() if stage in row}


def told(shares: dict[int, float]) -> str:
    """Return a cell of a table: the mean of three seeds with its reach, or what fewer seeds gave."""
    over = mean([*shares.values()])
    if len(shares) == 3 and over is not None and over.reach is not None:
        return f"{over.value:.2f} ±{over.reach:.2f}"
    each = ", ".join(f"{share:.2f}" for share in shares.values())
    return f"{each} ({'seed' if len(shares) == 1 else 'seeds'} {', '.join(map(str, shares))})"


@pytest.mark.parametrize(
    ("table", "stage", "searches"),
    [
        (0, "compensated", ("uniform 70%", "greedy 70%", "curves 70%", "uniform 50%", "greedy 50%", "curves 50%")),
        (1, "trained", ("uniform 70%", "greedy 70%", "uniform 50%", "greedy 50%", "curves 50%")),
    ],
)
def test_what_the_budget_is_spent_on(table: int, stage: str, searches: tuple[str, ...]) -> None:
    expected = [
        [criterion, *(told(found(f"{name}, {search}", stage)) for search in searches)]
        for criterion, name in NAMES.items()
    ]
    assert tables(section("What the budget is spent on"))[table] == expected


def lead(criterion: str, stage: str, ahead: str, behind: str) -> Mean:
    """Return by how much a search is ahead of another, over three seeds, seed by seed."""
    ours, theirs = (found(f"{NAMES[criterion]}, {search}", stage) for search in (ahead, behind))
    by = mean([ours[seed] - theirs[seed] for seed in range(3)])
    assert by is not None
    return by


def worth(judged: str, budget: str) -> dict[int, float]:
    """Return what L1's greedy search left, candidates judged by a measure and a recovery: seed -> share."""
    raw = found(f"l1, greedy {budget}", "compensated") if judged == "accuracy none" else {}
    return found(f"l1, greedy {judged} {budget}", "compensated") or raw


def test_what_a_candidate_is_worth() -> None:
    budgets, judged = ("70%", "50%", "40%"), ("accuracy none", "accuracy compensate", "loss compensate")
    table = tables(section("What the budget is spent on"))[2]
    assert [cells[1:] for cells in table] == [[told(worth(by, budget)) for budget in budgets] for by in judged]
    for budget in budgets:
        raw, other = worth("accuracy none", budget), worth("accuracy compensate", budget)
        for by in judged[1:]:
            over = mean([worth(by, budget)[seed] - raw[seed] for seed in range(3)])
            assert over is not None
            assert over.ends[0] < 0 < over.ends[1]  # not told apart
        behind = 1 if budget == "70%" else -1
        lead = mean([behind * (raw[seed] - other[seed]) for seed in range(3)])
        assert lead is not None
        said = f"{lead.value:.1f} at {budget} ({lead.ends[0]:.1f} to {lead.ends[1]:.1f})"
        assert said in " ".join(section("What the budget is spent on").split())


PAIRS = (
    ("compensated", "curves 70%", "uniform 70%", NAMES),
    ("compensated", "curves 50%", "uniform 50%", NAMES),
    ("compensated", "curves 50%", "greedy 50%", NAMES),
    ("trained", "greedy 70%", "uniform 70%", NAMES),
    ("trained", "greedy 50%", "uniform 50%", NAMES),
    ("trained", "curves 50%", "uniform 50%", ["L1", "reconstruction"]),  # the others lack two seeds
    ("trained", "curves 50%", "greedy 50%", ["L1", "reconstruction"]),
)
LEADS = [(criterion, *pair) for *pair, criteria in PAIRS for criterion in criteria]


@pytest.mark.parametrize(("criterion", "stage", "ahead", "behind"), LEADS)
def test_leads_are_differences_seed_by_seed(criterion: str, stage: str, ahead: str, behind: str) -> None:
    by = lead(criterion, stage, ahead, behind)
    chance = "" if by.ends[0] > 0 else ", which may be chance,"
    text = " ".join(section("What the budget is spent on").split()).replace(" points", "")
    assert f"{by.value:.1f} ({by.ends[0]:.1f} to {by.ends[1]:.1f}){chance} with {criterion}" in text


def test_the_curves_and_the_greedy_search_are_not_told_apart_at_70() -> None:
    for criterion in NAMES:
        by = lead(criterion, "compensated", "curves 70%", "greedy 70%")
        assert 0.1 <= round(by.value, 1) <= 0.4
        assert by.ends[0] < 0


def test_what_the_curves_lose() -> None:
    text = " ".join(section("What the budget is spent on").split())
    curves = [found(f"reconstruction, curves {budget}", "layer by layer") for budget in ("70%", "50%", "40%")]
    lost = [89.5 - sum(shares.values()) / 3 for shares in curves]
    assert "lose {:.2f} points at 70%, {:.2f} at 50% and {:.2f} at 40%".format(*lost) in text


def test_training() -> None:
    rows = {name.split(", hrank")[0]: row for name, row in recorded("fine_tuning").items()}
    (table,) = tables(section("Training"))
    names = ["recalibrated", "plain", "plain, recalibrated first", "frozen 25%", "frozen 15%", "teacher"]
    assert [cells[1] for cells in table] == [f"{rows[f'0 {name}']['held-out']:.2f}" for name in names]


def test_fewer_bits() -> None:
    rows = recorded("quantization")
    levels, rules, _ = tables(section("Fewer bits"))
    mixed = {"8": "10 and 6", "4": "6 and 3", "3": "4 and 2"}
    for bits, size, *cells in levels:
        average = bits.split()[0]
        assert bits == f"{average} ({mixed[average]})"
        names = ["uniform", *(f"{mixed[average]} by {order}" for order in ("DI", "reversed", "random"))]
        found = [rows[f"0 {average} bits, {name}, least_squares"] for name in names]
        assert size == f"{found[0]['bytes']:,.0f}"
        assert cells == [f"{row['rounded']:.2f} / {row['trained']:.2f}" for row in found]
    for name, *cells in rules:
        for cell, rule in zip(cells, ("", ", largest", ", least_squares"), strict=True):
            row = rows[f"0 {name}{rule}"]
            stages = [row[stage] for stage in ("rounded", "trained 10,000", "trained") if stage in row]
            assert cell == " / ".join(f"{share:.2f}" for share in stages)


def test_whole_runs_are_those_of_the_readme() -> None:
    page = tables(section("Whole runs"))[0]
    assert page in tables(README)


def test_every_script_and_configuration_that_is_named_exists() -> None:
    for name in set(re.findall(r"`(?:secateur \w+(?: [a-z-]+)? )?(examples/[\w/.]+)", " ".join(MEASUREMENTS.split()))):
        assert (ROOT / name.replace(" ", "")).exists(), name
    for name in set(re.findall(r"`(\w+\.(?:py|jsonl))", MEASUREMENTS)):
        assert Path(ROOT / "examples/benchmarks" / name).exists(), name
