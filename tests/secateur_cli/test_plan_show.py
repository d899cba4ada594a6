"""`secateur plan show`: a plan from wherever it lies, as tables of any width or as data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from runs_for_tests import give
from secateur.files import write_json
from secateur.records import ChannelGroup, Member, PruningPlan, Spent
from secateur_cli.workspace import LEARNT

LAYERS = [f"stage{stage}.block{block}.second" for stage in range(2) for block in range(6)]


def own(width: int) -> tuple[tuple[int, ...], ...]:
    return tuple((c,) for c in range(width))


PLAN = PruningPlan(
    groups=(
        ChannelGroup("stem", 64, tuple(Member(name, "producer", own(64)) for name in ("stem", *LAYERS))),
        ChannelGroup("head.[bold]0", 8, (Member("head.[bold]0", "producer", own(8)),)),
    ),
    kept={"stem": tuple(range(0, 64, 2)), "head.[bold]0": (1, 2, 7)},
    cost="macs",
    cost_before=125.49e6,
    cost_after=61.2e6,
    budget=62.7e6,
    ties={"stem": 5},
    settings={"search": "greedy", "delta": 0.01, "scores": {"criterion": "hrank", "options": {}, "tap": None}},
    further={"bytes": Spent(3.4e6, 1.4e6, 2e6)},
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    write_json(path, PLAN.to_json())
    return path


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_tables_hold_everything_at_any_width(file: Path, columns: int) -> None:
    code, said, complained = give("plan", "show", str(file), columns=columns)
    assert (code, complained) == (0, "")
    assert max(map(len, said.splitlines())) <= columns
    assert "…" not in said
    words = said.split()
    for word in (
        *LAYERS[:-1], "stem", "64", "32", "50.0%", "5", "head.[bold]0", "37.5%", "125", "62.7", "1.40", "MB", "58.8%",
        "greedy", "criterion", "hrank", PLAN.fingerprint,
    ):  # fmt: skip
        assert word in {w.rstrip(",") for w in words}, word
    assert "2 groups, 35 of 72 channels kept" in said
    assert "tap" not in words, "is not set"


def test_the_criterion_of_curves_is_that_of_their_order(tmp_path: Path) -> None:
    order = {"criterion": "hrank", "tap": "act", "samples": 500}
    scores = {"criterion": "reconstruction", "samples": 1000, "rows": {"stem": 4096}, "order": order}
    plan = dataclasses.replace(PLAN, settings={"search": "curves", "scores": scores})
    write_json(tmp_path / "curves.json", plan.to_json())
    lines = [line.split() for line in give("plan", "show", str(tmp_path / "curves.json"))[1].splitlines()]
    found = lines[lines.index(["how", "it", "was", "found"]) + 1 : -1]
    assert found == [
        ["search", "curves"], ["criterion", "hrank"], ["tap", "act"], ["images", "500"],
        ["curves", "by", "reconstruction"], ["images", "of", "the", "curves", "1000"],
    ]  # fmt: skip


def test_groups_that_share_nothing_need_no_column(tmp_path: Path) -> None:
    plan = PruningPlan(groups=PLAN.groups[1:], kept={}, cost="macs", cost_before=4, cost_after=4, budget=5)
    write_json(tmp_path / "alone.json", plan.to_json())
    code, said, _ = give("plan", "show", str(tmp_path / "alone.json"))
    assert code == 0
    assert "shared" not in said


def test_data_instead_of_a_table(file: Path) -> None:
    code, said, _ = give("plan", "show", str(file), "--json")
    facts: dict[str, Any] = json.loads(said)
    assert code == 0
    assert facts["fingerprint"] == PLAN.fingerprint
    assert facts["costs"]["bytes"] == {"before": 3.4e6, "after": 1.4e6, "budget": 2e6}
    assert facts["groups"][1] == {
        "name": "head.[bold]0",
        "width": 8,
        "kept": 3,
        "kept_channels": [1, 2, 7],
        "ties": 0,
        "layers": ["head.[bold]0"],
    }
    assert facts["settings"] == PLAN.to_json()["settings"]


@pytest.mark.parametrize("latency", [5, [1], "fast", {"a": [1]}, {"rounds": [], "chosen": 0}])
def test_a_latency_that_tells_of_no_search_is_printed_as_it_is(tmp_path: Path, latency: Any) -> None:
    write_json(tmp_path / "plan.json", PLAN.to_json() | {"settings": {"latency": latency}})
    code, said, complained = give("plan", "show", str(tmp_path))
    assert (code, complained) == (0, "")
    assert "latency" in said


def test_names_cannot_command_the_terminal(tmp_path: Path) -> None:
    name = "\x1b[31mred\x1b]0;title\x07\x9b1m\u202e\ud800caf\u00e9"
    group = ChannelGroup(name, 8, (Member(name, "producer", own(8)), Member(f"{name}2", "producer", own(8))))
    plan = PruningPlan((group,), {}, name, 4, 4, 5, settings={name: name})
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()), encoding="utf-8")
    code, said, complained = give("plan", "show", str(tmp_path), columns=400)
    assert (code, complained) == (0, "")
    assert said.count(r"\x1b[31mred\x1b]0;title\x07\x9b1m\u202e\ud800" + "caf\u00e9") >= 4
    assert all(c.isprintable() or c == "\n" for c in said)


def test_complaints_cannot_command_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[31mred"
    assert r"\x1b[31mred" in give("plan", "show", str(path), columns=400)[2]


def test_a_plan_is_found_wherever_it_lies(file: Path, tmp_path: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    assert give("plan", "show", str(tmp_path))[1] == give("plan", "show", str(file))[1]
    output, report = finished
    for path in (output, output / "plan.json", output / "stages" / "plan.json"):
        code, said, _ = give("plan", "show", str(path))
        assert code == 0
        assert f"fingerprint {report['plan']['fingerprint']}" in said


@pytest.mark.parametrize("search", LEARNT)
def test_where_channels_are_learnt_the_plan_is_what_was_learnt(tmp_path: Path, search: str) -> None:
    widths, learnt = tmp_path / "stages" / "plan.json", tmp_path / "stages" / "learnt.json"
    widths.parent.mkdir()
    write_json(tmp_path / "run.json", {"settings": {"search": search}})
    write_json(widths, PLAN.to_json())
    code, said, complained = give("plan", "show", str(tmp_path))
    assert (code, said) == (2, "")
    assert complained.startswith(f"error: {tmp_path} holds no plan yet: which channels stay is still being learnt")
    write_json(learnt, PLAN.to_json() | {"settings": {"search": search}})
    for path in (tmp_path, learnt):
        assert search in give("plan", "show", str(path))[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no plan {path}; give a plan.json, or the folder of a run or a search"),
        ("{", "{path} is not a plan: it is not JSON"),
        ("[1]", "{path} is not a plan: it holds list, not a mapping"),
        ("{}", "{path}: not a pruning plan of secateur"),
        ('{"plan": {"format": 9}}', "{path}: the plan has format 9; this version reads format 1"),
    ],
)
def test_what_is_no_plan_is_told_in_a_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    code, said, complained = give("plan", "show", str(path))
    assert (code, said) == (2, "")
    assert complained.startswith("error: " + message.format(path=path))
    assert complained.count("\n") == 1


def test_folders_without_a_plan_are_told(file: Path, tmp_path: Path) -> None:
    for name in ("uniform", "greedy"):
        (tmp_path / "both" / name).mkdir(parents=True)
        file.with_name("both").joinpath(name, "plan.json").write_bytes(file.read_bytes())
    both = tmp_path / "both"
    complained = give("plan", "show", str(both))[2]
    assert complained == f"error: {both} holds several plans; choose one of {both / 'greedy'}, {both / 'uniform'}\n"
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    assert give("plan", "show", str(unfinished))[2] == f"error: {unfinished} holds no plan.json\n"
    (unfinished / "run.json").write_text("{}")
    assert "holds no plan yet: its search is not finished" in give("plan", "show", str(unfinished))[2]
