"""Parts of a comparison by themselves: intervals, verdicts, and what a block of work took."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console

from comparisons_for_tests import record
from secateur.quantiles import t_quantile
from secateur_cli.comparison import plots
from secateur_cli.comparison.results import rows_of
from secateur_cli.comparison.tables import missing, notes, share, tables
from secateur_cli.comparison.verdicts import standing, verdicts
from secateur_cli.intervals import mean
from secateur_cli.wording import NONE


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_the_interval_is_student_s(values: list[float]) -> None:
    found = mean(values)
    count, centre = len(values), math.fsum(values) / len(values)
    variance = math.fsum((value - centre) ** 2 for value in values) / (count - 1)
    assert found is not None
    assert found.value == pytest.approx(centre)
    assert found.reach == pytest.approx(t_quantile(count - 1) * math.sqrt(variance / count), abs=1e-9)
    assert found.count == count


def test_intervals_against_cost_lie_within_the_panel_and_within_0_to_100(monkeypatch: pytest.MonkeyPatch) -> None:
    panels: list[Figure] = []

    def drawn(_name: str, _said: str, _size: Any, draw: Callable[[Figure], None]) -> str:
        panels.append(Figure())
        draw(panels[-1])
        return ""

    monkeypatch.setattr(plots, "drawn", drawn)
    cost, row = {"value": 50.0}, {"house": "secateur", "search": "uniform", "criterion": "l1"}
    shares = ({"value": 0.5, "reach": 0.25, "count": 3}, {"value": 0.9, "reach": 0.75, "count": 3})
    rows = [row | {"accuracy": {"cut": share}, "macs": cost} for share in shares]
    plots.cost_panels(rows, "cut", dense={"macs": 100.0, "accuracy": 0.95})
    (axes,) = panels[0].axes
    ends = [segment[:, 1].tolist() for bars in axes.collections for segment in cast(Any, bars).get_segments()]
    assert sorted(ends) == [pytest.approx([15, 100]), pytest.approx([25, 75])]
    low, high = axes.get_ylim()
    assert low < 15
    assert high > 100
    panels.clear()
    elsewhere = {"criterion": "hrank", "macs": {"value": 40.0}, "accuracy": {"cut": shares[0]}}
    plots.cost_panels([*rows, row | elsewhere], "cut", dense={"macs": 100.0, "accuracy": 0.95})
    first, second = (panel.axes[0] for panel in panels)
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim()


def test_one_measurement_has_no_interval() -> None:
    assert mean([]) is None
    assert share(mean([0.5]).to_json()) == "50.0"
    assert share(None) == NONE


def test_the_best_comes_first_and_is_compared_seed_by_seed() -> None:
    records = [record("l1", seed, 0.7 + 0.1 * seed, house="NNI", plan=f"b{seed}") for seed in range(3)]
    records += [record("hrank", seed, 0.72 + 0.1 * seed, plan=f"a{seed}") for seed in range(3)]
    rows = rows_of(records, ["cut"])
    assert [row["criterion"] for row in rows] == ["hrank", "l1"]
    (said,) = verdicts(rows, ["cut"])
    assert said == (
        "50% of the MACs, uniform: hrank (secateur) leads (cut: 82.0%), 2.0 points (2.0 to 2.0 over 3 seeds) ahead of "
        "l1 (NNI)."
    )


def test_a_difference_that_seeds_do_not_agree_on_may_be_chance() -> None:
    records = [record("l1", seed, share, house="NNI", plan=f"b{seed}") for seed, share in enumerate((0.7, 0.9, 0.8))]
    records += [record("di", seed, share, plan=f"a{seed}") for seed, share in enumerate((0.8, 0.85, 0.81))]
    (said,) = verdicts(rows_of(records, ["cut"]), ["cut"])
    assert "which may be chance, ahead of l1 (NNI)" in said


def test_who_leads_is_ahead_of_every_other_beyond_chance() -> None:
    """The first is chosen by the figures that show its lead: a clear lead over the best of the others is not enough."""
    shares = {"di": (0.80, 0.81, 0.82), "l1": (0.79, 0.80, 0.805), "hrank": (0.83, 0.75, 0.81)}
    houses = {"di": "secateur", "l1": "NNI", "hrank": "secateur"}
    records = [
        record(name, seed, value, house=houses[name], plan=f"{name}{seed}")
        for name, values in shares.items()
        for seed, value in enumerate(values)
    ]
    (said,) = verdicts(rows_of(records, ["cut"]), ["cut"])
    assert "di (secateur) is first (cut: 81.0%), 1.2 points (0.4 to 1.9 over 3 seeds) ahead of l1 (NNI)." in said
    assert said.endswith(" Within chance of it: hrank (secateur), of 2 others.")
    (alone,) = verdicts(rows_of([r for r in records if r["criterion"] != "hrank"], ["cut"]), ["cut"])
    assert "di (secateur) leads" in alone
    assert "chance" not in alone


def test_a_lead_of_a_few_images_may_be_chance() -> None:
    """Of 200 images five are 2.5 points, six are 3: the sign test needs six."""
    for ahead, verb in ((0.025, "is first"), (0.03, "leads")):
        records = [record("l1", seed, 0.7, house="NNI", plan=f"b{seed}") for seed in range(3)]
        records += [record("di", seed, 0.7 + ahead, plan=f"a{seed}") for seed in range(3)]
        (said,) = verdicts(rows_of(records, ["cut"]), ["cut"], images=200)
        assert f"di (secateur) {verb}" in said
        assert ("which may be chance" in said) == (verb == "is first")
        assert "di (secateur) leads" in verdicts(rows_of(records, ["cut"]), ["cut"])[0]


@pytest.mark.parametrize("images", [400, 1000, 5000])
def test_a_lead_of_six_images_is_one_whatever_the_accuracies(images: int) -> None:
    for right in range(0, images - 6, max(1, images // 200)):
        records = [record("l1", seed, right / images, house="NNI", plan=f"b{seed}") for seed in range(3)]
        records += [record("di", seed, (right + 6) / images, plan=f"a{seed}") for seed in range(3)]
        (said,) = verdicts(rows_of(records, ["cut"]), ["cut"], images=images)
        assert "di (secateur) leads" in said, right


def test_a_speed_over_networks_is_a_ratio_as_far_from_one_as_its_inverse() -> None:
    def found(ratios: list[float]) -> dict[str, float]:
        records = []
        for seed, ratio in enumerate(ratios):
            latency = {"comparisons": [{"batch_size": 1} | timed("end to end", ratio)]}
            records.append(record("l1", seed, 0.7, plan=f"b{seed}") | {"latency": latency})
        (row,) = rows_of(records, ["cut"])
        return dict(row["speed"]["1"])

    speed, inverse = found([1.4, 1.8]), found([1 / 1.4, 1 / 1.8])
    assert speed["ratio"] == pytest.approx((1.4 * 1.8) ** 0.5)
    assert 0 < speed["lower"] < speed["ratio"] < speed["upper"]
    assert (inverse["ratio"], inverse["lower"]) == pytest.approx((1 / speed["ratio"], 1 / speed["upper"]))
    reach = t_quantile(1) * math.log(1.8 / 1.4) / 2
    assert math.log(speed["upper"] / speed["ratio"]) == pytest.approx(reach)


def test_what_no_seed_changes_is_one_difference_and_no_lead() -> None:
    records = [
        record(name, seed, share, house=house, plan=name) | {"measured_as": {"cut": f"cut {name}"}}
        for name, house, share in (("l1", "NNI", 0.7), ("magnitude", "Torch-Pruning", 0.71))
        for seed in range(3)
    ]
    (said,) = verdicts(rows_of(records, ["cut"]), ["cut"])
    assert "magnitude (Torch-Pruning) is first (cut: 71.0%), in one measurement 1.0 points ahead of l1 (NNI)." in said


def test_channels_that_some_seeds_share_count_for_each_of_them() -> None:
    """Each seed has its own images, and may come to the same channels as another: the mean is over seeds."""
    networks = (("a", 0.6), ("a", 0.6), ("b", 0.9))
    records = [
        record("hrank", seed, share, plan=plan) | {"measured_as": {"cut": f"cut {plan}"}}
        for seed, (plan, share) in enumerate(networks)
    ]
    (row,) = rows_of(records, ["cut"])
    assert row["accuracy"]["cut"]["value"] == pytest.approx(0.7)
    assert row["accuracy"]["cut"]["count"] == 3


def test_others_within_chance_are_named_up_to_four() -> None:
    records = [
        record(f"c{number}", seed, 0.8 - 0.001 * number + 0.01 * number * (seed - 1), plan=f"{number}{seed}")
        for number in range(8)
        for seed in range(3)
    ]
    (said,) = verdicts(rows_of(records, ["cut"]), ["cut"])
    assert said.endswith("c2 (secateur), c3 (secateur), c4 (secateur), c5 (secateur) and 2 more, of 7 others.")


def test_the_same_channels_are_said_to_be_the_same() -> None:
    rows = rows_of([record("l1", 0, 0.7, house="NNI"), record("l1", 0, 0.7), record("di", 0, 0.6, plan="b")], ["cut"])
    assert [row["same_channels_as"] for row in rows] == [["l1 (secateur)"], ["l1 (NNI)"], []]
    assert "is first (cut: 70.0%), by the same channels as" in verdicts(rows, ["cut"])[0]
    assert standing(rows, "cut").houses == {"NNI", "secateur"}
    found = {"rows": rows, "seeds": [0], "dense": {"accuracy": 0.9, "images": 10, "macs": 20.0, "parameters": 9.0}}
    assert sum("chooses the same channels as" in line for line in notes(found)) == 1
    assert "top-1 in percent: one measurement, of seed 0." in notes(found)


def test_what_is_not_measured_is_named_with_its_reason() -> None:
    rows = rows_of([record("slim", seed, None, house="NNI") for seed in (0, 1)], ["cut"])
    cells = "; ".join(f"50% of the MACs, uniform, seed {seed}" for seed in (0, 1))
    unplanned = rows_of([record(name, 0, None) | {"plan": None} for name in ("slim", "l1")], ["cut"])
    assert [row["same_channels_as"] for row in unplanned] == [[], []]
    assert missing({"rows": rows}) == [f"not measured: slim (NNI) ({cells}): SlimPruner fails"]
    assert verdicts(rows, ["cut"]) == ["50% of the MACs, uniform: nothing has been measured yet."]


def test_what_has_not_come_to_the_last_stage_stands_by_the_one_before() -> None:
    records = [record(name, 0, share, plan=name) for name, share in (("l1", 0.6), ("di", 0.7))]
    for each in records:
        each["accuracy"] |= {"fine-tuned": None}
    rows = rows_of(records, ["cut", "fine-tuned"])
    assert [row["criterion"] for row in rows] == ["di", "l1"]
    (said,) = verdicts(rows, ["cut", "fine-tuned"])
    assert said.startswith(
        "50% of the MACs, uniform: nothing has been fine-tuned yet; di (secateur) is first (cut: 70.0%"
    )


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("stages", [("cut", "compensated"), ("cut", "recalibrated", "compensated", "fine-tuned")])
def test_tables_fit_the_terminal_with_all_their_numbers(stages: tuple[str, ...], width: int) -> None:
    latency = {"comparisons": [timed("end to end", 1.5), timed("device bound", 9.0)]}
    records = [
        record("magnitude p=1 group_reduction=max", seed, 0.5, house="Torch-Pruning", plan=f"a{seed}")
        | {
            "accuracy": dict.fromkeys(stages, 0.7 + 0.2 * seed),
            "measured_as": {stage: f"{stage} {seed}" for stage in stages},
            "score_peak_bytes": 12345 * 2**20,
            "score_processor_seconds": 1234.5,
            "latency": latency,
        }
        for seed in range(3)
    ]
    rows = rows_of(records, stages)
    found = {"rows": rows, "stages": stages, "dense": {"macs": 20.0, "parameters": 9.0}}
    console = Console(file=io.StringIO(), width=width)
    for table in tables(found, width=width):
        console.print(table)
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    assert printed.count("90.0 ±49.7") == len(stages)
    for number in ("50.0%", "1.50"):
        assert number in printed
    for number in ("55.6%", "1234.5", "12,345"):
        assert (number in printed) == (width == 100)


def timed(measured: str, ratio: float) -> dict[str, Any]:
    return {"measured": measured, "batch_size": 1, "ratio": ratio, "lower": ratio - 0.1, "upper": ratio + 0.1}
