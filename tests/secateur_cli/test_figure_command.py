"""`secateur figure` as a user gives it: files, the table, and what is refused before any work."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from runs_for_tests import User, contents, give
from secateur_cli.figures.catalogue import FIGURES

pytestmark = pytest.mark.filterwarnings("ignore::secateur.errors.SecateurWarning")  # few images, tiny network
QUICK = ("--set", "train=null", "--set", "fine_tune=null", "--set", "recover=none")


def test_writes_pictures_and_numbers_and_prints_a_table(user: User, tmp_path: Path) -> None:
    words = ("selection-variants", str(user.config), "--output", str(tmp_path / "out"), "--seeds", "2", *QUICK)
    code, out, err = give("figure", *words)
    assert (code, err) == (0, "")
    assert "middle" in out
    assert "Means over 2 seeds, on 48 held-out images; 95% intervals over the seeds (Student's t), or over" in out
    names = [f"selection-variants.{kind}" for kind in ("csv", "json", "pdf", "png", "svg")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["points", *names]
    record = json.loads((tmp_path / "out" / names[1]).read_text())
    assert (record["figure"], record["seeds"], record["until"]) == ("selection-variants", [0, 1], "recovered")
    assert record["network"]["build"] == "secateur_user_networks:Small"
    assert record["data"]["source"] == "secateur_user_data:load"
    assert record["config"]["plan"]["budget"] == {"macs": "50%"}
    assert {"secateur", "torch", "python", "matplotlib"} <= set(record["versions"])
    assert record["machine"]["cpu"]
    with (tmp_path / "out" / names[0]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(record["rows"]) == 2 * 6
    for row, known in zip(rows, record["rows"], strict=True):
        assert row["stage"] == known["stage"]
        assert float(row["accuracy"]) == known["accuracy"]
        assert row["macs"] == str(known.get("macs", ""))


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "selection-variants"])
def test_every_figure_runs_and_gives_the_same_again(user: User, tmp_path: Path, name: str) -> None:
    tuning = () if name == "frozen-shares" else ("--set", "fine_tune=null")
    known = {"criteria-over-ratios": ("--lines", "hrank,l1"), "widths": ("--lines", "uniform,greedy")}
    seen = []
    for turn in range(2 if name.endswith("stability") else 1):
        folder = tmp_path / str(turn)
        words = (name, str(user.config), "--output", str(folder), "--smoke", *tuning, *known.get(name, ()))
        code, out, err = give("figure", *words)
        assert (code, err) == (0, ""), err
        assert "a smoke run: its numbers mean nothing" in out
        assert len(list(folder.glob(f"{name}.*"))) == 5
        assert json.loads((folder / f"{name}.json").read_text())["smoke"] is True
        seen.append((folder / f"{name}.csv").read_bytes())
    assert len(set(seen)) == 1


def test_list_names_every_figure_and_needs_nothing_else() -> None:
    code, out, _ = give("figure", "--list")
    assert code == 0
    for kind in FIGURES.values():
        assert f"{kind.name}\n    {kind.shows}\n" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rank-stabilty",), "no figure 'rank-stabilty'; did you mean 'rank-stability'?"),
        (("widths", "--at", "50%"), "the figure widths does not take --at; it takes --seeds, --lines"),
        (("rank-stability", "--seeds", "3"), "the figure rank-stability does not take --seeds; it takes --images"),
        (("rank-stability", "--images", "1"), "--images 1: must be at least 2"),
        (("widths", "--seeds", "0"), "--seeds 0: must be at least 1"),
        (("allocations", "--at", "50%,much"), "--at 'much': must be numbers above 0 and below 1, or percentages of 1"),
        (("allocations", "--at", "150%"), "--at '150%': must be numbers above 0 and below 1"),
        (("accuracy-against-rho", "--at", "-1"), "--at '-1': must be numbers above 0, or percentages of 1"),
        (("frozen-shares", "--at", "0,nan"), "--at 'nan': must be numbers at least 0 and below 1"),
        (("allocations", "--at", "50%,0.5"), "--at: the same twice: 0.5, 0.5"),
        (("allocations", "--lines", "uniform,gredy"), "--lines 'gredy' is unknown; did you mean 'greedy'?"),
        (("criteria-over-ratios", "--lines", "hrnk"), "--lines: unknown criterion 'hrnk'; did you mean 'hrank'?"),
        (("selection-variants", "--lines", "edges"), "--lines 'edges' is unknown; did you mean 'edge'?"),
        (("widths", "--lines", "no/plan.json"), "no/plan.json"),
        (("allocations", "--until", "fine-tuned", "--set", "fine_tune=null"), "the run is not fine-tuned"),
        (("frozen-shares", "--set", "fine_tune=null"), "the figure frozen-shares is about fine-tuning"),
        (("frozen-shares", "--set", "plan.search=autopruner"), "frozen-shares needs a search that goes by scores"),
        (("frozen-shares", "--set", "recover=sketch"), "frozen-shares freezes filters by their scores, and a sketch"),
        (("frozen-shares", "--set", "fine_tune={like: hrank}"), "fine_tune.layer_by_layer: the figure frozen-shares"),
        (("widths", "--set", "network.build=nowhere:Net"), "nowhere"),
        (("selection-variants", "--set", "plan.budget={latency: 60%}"), "plan.budget.latency: the figure selection"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_nothing_is_written(
    user: User, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    folder = tmp_path / "out"
    code, out, err = give("figure", words[0], str(user.config), "--output", str(folder), *words[1:], columns=300)
    assert code == 2
    assert said in err
    assert "dense:" not in out
    assert not folder.exists()


def test_output_that_is_a_file_is_refused(user: User, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    code, _, err = give("figure", "widths", str(user.config), "--output", str(tmp_path / "out"))
    assert code == 2
    assert "cannot be used; choose another with --output" in err
    assert contents(tmp_path) == {"out": b"mine"}


def test_without_matplotlib_nothing_is_begun(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "secateur_cli.figures.drawings", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = give("figure", "widths", str(user.config), "--output", str(tmp_path / "out"))
    assert code == 2
    assert 'pip install "secateur[report]"' in err
    assert "groups of channels" not in out
