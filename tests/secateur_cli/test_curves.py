"""Error curves: found once, kept in the folder, shown with the widths that were chosen; and why groups stay whole."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reports_for_tests import HOSTILE, Page, full_report
from runs_for_tests import User
from secateur.records import ChannelGroup, Member, PruningPlan, ScoreTable
from secateur.search.swaps import losses_of
from secateur_cli.report.curve_plots import curves_plots
from secateur_cli.report.report import render_report
from secateur_cli.stages import error_curves, searching
from secateur_cli.stages.plan_record import plan_record

CURVES = ("score.criterion=l1", "plan.search=curves")


def test_curves_are_found_once_and_kept(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "run"

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(searching, "curve_plan", stop)
        assert user.command(output, *CURVES, name="search")[0] == 130
    monkeypatch.delattr(error_curves, "reconstruction_scores")
    code, said, complained = user.command(output, *CURVES, name="search", flags=("--resume",))
    assert (code, complained) == (0, "")
    assert "done so far: training, scores, error curves" in said
    (output / "stages/curves.json").unlink()
    code, said, complained = user.command(output, *CURVES, name="search", flags=("--resume",))
    assert code == 1
    assert "stages/curves.json is gone: making it again" in said


def test_a_report_holds_the_curves_that_the_widths_were_chosen_by(user: User, tmp_path: Path) -> None:
    report = user.call(tmp_path, *CURVES, "fine_tune=null", search="curves")
    kept = json.loads((tmp_path / "stages/curves.json").read_text())["scores"]
    total = 0.0
    for group in report["plan"]["groups"]:
        assert group["errors"] == losses_of(kept[group["name"]], "curves")
        assert len(group["errors"]) == group["width"] + 1
        assert group["errors"][-1] == 0
        total += group["errors"][group["kept"]]
    assert total == pytest.approx(report["plan"]["settings"]["error"])
    page = Page(render_report(report))
    (drawn,) = (a["aria-label"] or "" for tag, a in page.elements if tag == "svg" and "Error curves" in str(a))
    for group in report["plan"]["groups"]:
        error = 100 * group["errors"][group["kept"]]
        assert f"{group['name']} {error:.1f}% at {group['kept']} of {group['width']}" in drawn
    assert "measured on 64 images" in page.words


def with_curves(count: int, **changes: Any) -> dict[str, Any]:
    report = full_report()
    errors = [0.3 * (16 - kept) ** 2 / 256 for kept in range(17)]
    group = {"layers": ["a"], "width": 16, "kept": 8, "ties": 0, "scores": None, "errors": errors} | changes
    report["plan"]["groups"] = [group | {"name": f"layer{number}"} for number in range(count)]
    report["plan"]["search"] = "curves"
    return report


@pytest.mark.parametrize(
    ("count", "figures"),
    [(1, 1), (30, 1), (31, 2), *(pytest.param(count, 2, marks=pytest.mark.thorough) for count in (60, 70))],
)
def test_panels_are_in_figures_that_fit_a_screen(count: int, figures: int) -> None:
    page = Page(render_report(with_curves(count)))
    drawn = [str(a["aria-label"]) for tag, a in page.elements if tag == "svg" and "Error curves" in str(a)]
    assert len(drawn) == figures
    assert sum(label.count(" at 8 of 16") for label in drawn) == min(count, 60)
    assert ("10 more groups are in the table" in page.words) == (count == 70)
    assert "curves" in page.section_names


def test_long_names_stay_within_their_panels() -> None:
    groups = [
        with_curves(1)["plan"]["groups"][0] | {"name": f"features.denseblock4.denselayer{n}.conv1"} for n in (15, 16)
    ]
    ((_, svg),) = curves_plots(groups)
    texts = [text for text in ET.fromstring(svg).itertext() if "conv1" in text]
    assert texts == ["features…15.conv1", "features…16.conv1"]


def test_curves_that_are_nothing_or_more_than_all_and_hostile_names_can_be_drawn() -> None:
    for errors in ([0.0] * 17, [1e6] * 16 + [0.0], [1e-9] * 16 + [0.0]):
        report = with_curves(2, errors=errors)
        report["plan"]["groups"][0]["name"] = HOSTILE
        page = Page(render_report(report))
        assert "script" not in {tag for tag, _ in page.elements}
        assert "nan" not in "".join(str(a.get("d")) for tag, a in page.elements if tag == "path")


def test_the_dot_stands_on_the_curve_at_the_width_that_was_chosen() -> None:
    """Of 16 channels 4: a quarter of the way across, at an error of ten percent, two of three decades up."""
    errors = [1.0, 0.6, 0.4, 0.2, 0.1, *[0.05] * 11, 0.0]
    page = Page(render_report(with_curves(1, kept=4, errors=errors)))
    drawn = False
    places = []
    for tag, attributes in page.elements:
        if tag == "svg":
            drawn = "Error curves" in str(attributes.get("aria-label"))
        if drawn and tag == "use":
            places.append((float(attributes["x"] or 0), float(attributes["y"] or 0)))
        if drawn and tag == "path" and str(attributes.get("d")).count("L") == 16:
            points = [tuple(map(float, p.split())) for p in re.findall(r"[ML] ([-\d.]+ [-\d.]+)", str(attributes["d"]))]
    (dot,) = places
    assert dot == pytest.approx(points[4], abs=0.01)
    left, right, top, ground = points[0][0], points[-1][0], points[0][1], points[-1][1]
    assert dot[0] == pytest.approx(left + (right - left) / 4, abs=0.01)
    assert dot[1] == pytest.approx(ground - (ground - top) * 2 / 3, abs=0.01)


def test_groups_that_stay_whole_say_why() -> None:
    own = tuple((c,) for c in range(8))
    groups = tuple(ChannelGroup(name, 8, (Member(name, "producer", own),)) for name in "abcd")
    narrow = ChannelGroup("e", 4, (Member("e", "producer", own[:4]),))
    curves = ScoreTable(
        {"a": torch.ones(8), "d": torch.ones(8), "e": torch.ones(4)}, settings={"skipped": {"b": "none reads it"}}
    )
    scores = ScoreTable({name: torch.ones(8) for name in "abcd"})
    plan = PruningPlan((*groups, narrow), {"a": (0, 1, 2, 3)}, "macs", 4, 2, 2, settings={"round_to": 8})
    record = plan_record("curves", plan, scores, curves)
    assert {group["name"]: group.get("whole") for group in record["groups"]} == {
        "a": None,
        "b": "none reads it",
        "c": "none of its layers has scores",
        "d": "no smaller width is allowed: a multiple of 8, and at least 1",
        "e": "no smaller width is allowed: a multiple of 8, and at least 1",
    }
    assert [len(group.get("errors", [])) for group in record["groups"]] == [9, 0, 0, 9, 5]
    free = plan_record("curves", replace(plan, settings={"round_to": 2}), scores, curves)
    assert free["groups"][3]["whole"] == "the search met the budget without it"
    rates = plan_record("rates", replace(plan, settings={"round_to": 2}), scores, None)
    assert rates["groups"][3]["whole"] == "its stated share removes none"
    greedy = plan_record("greedy", plan, scores, curves)  # by the scores: the curves were but its start
    assert greedy["groups"][1]["whole"] == "no smaller width is allowed: a multiple of 8, and at least 1"
    page = Page(render_report({"plan": free}))
    assert "Groups that keep all of their channels" in page.words
    assert "none reads it" in page.words
