"""What examples/guides/measurements.md tells is what the records beside the benchmarks hold; the README repeats it."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from guides_for_tests import ROOT
from secateur_cli.intervals import mean

PAGE = (ROOT / "examples/guides/measurements.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = {"L1": "l1", "DI": "di", "HRank": "hrank", "reconstruction": "reconstruction"}


def recorded(name: str) -> dict[str, dict[str, float]]:
    """What a benchmark has recorded: seed and row -> stage -> figure, the last of each."""
    rows: dict[str, dict[str, float]] = {}
    for line in (ROOT / "examples/benchmarks" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        rows.setdefault(entry["row"], {})[entry["stage"]] = entry["value"]
    return rows


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a text without their headings: rows of cells, stars removed."""
    found = re.findall(r"^\|[-|]+\|\n((?:\|.*\n?)+)", text, re.MULTILINE)
    return [
        [[cell.strip() for cell in row.replace("*", "").strip("|").split("|")] for row in table.splitlines()]
        for table in found
    ]


SEARCHES = recorded("search_quality")


def over_seeds(name: str, stage: str) -> list[float]:
    return [SEARCHES[f"{seed} {name}"][stage] for seed in range(3)]


def test_what_the_budget_is_spent_on() -> None:
    table, _ = tables(section("What the budget is spent on"))
    columns = ("uniform 70%", "greedy 70%", "curves 70%", "uniform 50%", "curves 50%")
    expected = []
    for criterion in NAMES:
        found = [mean(over_seeds(f"{NAMES[criterion]}, {column}", "compensated")) for column in columns]
        expected.append([criterion, *(f"{m.value:.2f} ±{m.reach:.2f}" for m in found if m and m.reach is not None)])
    assert table == expected


@pytest.mark.parametrize("budget", ["70%", "50%"])
@pytest.mark.parametrize("criterion", NAMES)
def test_leads_are_differences_seed_by_seed(criterion: str, budget: str) -> None:
    text = " ".join(section("What the budget is spent on").split()).replace(" points", "")
    curves, uniform = (
        over_seeds(f"{NAMES[criterion]}, {search} {budget}", "compensated") for search in ("curves", "uniform")
    )
    found = mean([ours - theirs for ours, theirs in zip(curves, uniform, strict=True)])
    assert found is not None
    chance = "" if found.ends[0] > 0 else ", which may be chance,"
    assert f"{found.value:.1f} ({found.ends[0]:.1f} to {found.ends[1]:.1f}){chance} with {criterion}" in text


def test_the_curves_and_the_greedy_search_are_not_told_apart() -> None:
    for name in NAMES.values():
        curves, greedy = (over_seeds(f"{name}, {search} 70%", "compensated") for search in ("curves", "greedy"))
        found = mean([ours - theirs for ours, theirs in zip(curves, greedy, strict=True)])
        assert found is not None
        assert 0.1 <= round(found.value, 1) <= 0.4
        assert found.ends[0] < 0


def test_what_the_curves_lose() -> None:
    text = " ".join(section("What the budget is spent on").split())
    lost = [89.5 - sum(over_seeds(f"reconstruction, curves {b}", "layer by layer")) / 3 for b in ("70%", "50%", "40%")]
    assert "lose {:.2f} points at 70%, {:.2f} at 50% and {:.2f} at 40%".format(*lost) in text


def trained(name: str) -> list[float]:
    """Return what two epochs leave, of the seeds that were trained."""
    rows = (SEARCHES.get(f"{seed} {name} 50%", {}) for seed in range(3))
    return [row["trained"] for row in rows if "trained" in row]


def test_what_two_epochs_leave_of_it() -> None:
    _, table = tables(section("What the budget is spent on"))
    expected, uniform, curves = [], [], []
    for criterion, name in NAMES.items():
        found = mean(trained(f"{name}, uniform"))
        assert found is not None
        assert found.reach is not None
        first = [SEARCHES[f"0 {name}, {search} 50%"]["trained"] for search in ("uniform", "greedy", "curves")]
        expected.append([criterion, f"{found.value:.2f} ±{found.reach:.2f}", *(f"{share:.2f}" for share in first)])
        uniform.append(found.value)
        curves.append(statistics.mean(trained(f"{name}, curves")))
    assert table == expected
    ends = [f"{end(shares):.1f}" for shares in (uniform, curves) for end in (min, max)]
    assert "after two epochs at {} to {}% and {} to {}%".format(*ends) in " ".join(README.split())


@pytest.mark.parametrize("criterion", ["reconstruction", "L1"])
def test_what_two_epochs_leave_of_the_lead_of_curves(criterion: str) -> None:
    curves, uniform = (trained(f"{NAMES[criterion]}, {search}") for search in ("curves", "uniform"))
    found, lead = mean(curves), mean([ours - theirs for ours, theirs in zip(curves, uniform, strict=True)])
    assert found is not None
    assert found.reach is not None
    assert lead is not None
    told = f"{lead.value:.1f} points ({lead.ends[0]:.1f} to {lead.ends[1]:.1f}) with {criterion}"
    text = " ".join(section("What the budget is spent on").split())
    assert f"{told}, at {found.value:.2f} ±{found.reach:.2f}" in text


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
    for name in set(re.findall(r"`(?:secateur \w+(?: [a-z-]+)? )?(examples/[\w/.]+)", " ".join(PAGE.split()))):
        assert (ROOT / name.replace(" ", "")).exists(), name
    for name in set(re.findall(r"`(\w+\.(?:py|jsonl))", PAGE)):
        assert Path(ROOT / "examples/benchmarks" / name).exists(), name
