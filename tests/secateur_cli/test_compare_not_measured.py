"""What a comparison cannot measure says why, and the rest goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comparisons_for_tests import SMALL, compare, report_of
from runs_for_tests import User
from secateur.errors import DataError
from secateur_cli.comparison import measuring


def test_what_cannot_be_scored_says_so_and_the_others_go_on(owner: User, tmp_path: Path) -> None:
    """The second layer has no batch norm, by which Slim masks; the first one alone cannot meet the budget."""
    output = tmp_path / "comparison"
    code, printed, complained = compare(
        owner,
        output,
        "compare.criteria=[l1,'nni:slim','torch-pruning:bn-scale']",
        "compare.searches=[uniform]",
        "compare.seeds=[0]",
        "compare.budgets=[20%]",
    )
    assert code == 0, complained
    cells = {c["name"]: c for c in report_of(output)["cells"]}
    assert cells["l1"]["not_measured"] is None
    assert "SlimPruner masks by batch norm, and 'second' has none" in cells["nni:slim"]["not_measured"]
    assert "the lowest cost that can be reached is" in cells["torch-pruning:bn-scale"]["not_measured"]
    assert cells["nni:slim"]["accuracy"] == {"cut": None, "recalibrated": None, "compensated": None}
    assert "not measured: slim (NNI)" in printed
    assert cells["l1"]["unscored"] == {}
    assert "bn-scale (Torch-Pruning) leaves groups as they are (second: Torch-Pruning's importance has no" in printed
    page = (output / "comparison.html").read_text(encoding="utf-8")
    assert "SlimPruner masks by batch norm" in page


def test_what_fails_under_one_seed_is_measured_under_the_others(
    owner: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both seeds share the plan, and what follows it reads the images of each."""
    compensated = measuring._Work.compensated

    def diverging(work: measuring._Work) -> dict[str, Any]:
        if work.cell.seed == 0:
            raise DataError("it diverged")
        return compensated(work)

    monkeypatch.setattr(measuring._Work, "compensated", diverging)
    code, printed, complained = compare(owner, tmp_path / "comparison", *SMALL, "compare.criteria=[l1]")
    assert code == 0, complained
    first, second = report_of(tmp_path / "comparison")["cells"]
    assert first["plan"] == second["plan"]
    assert (first["not_measured"], second["not_measured"]) == ("it diverged", None)
    assert first["accuracy"]["compensated"] is None
    assert second["accuracy"]["compensated"] is not None
    assert "not measured: l1 (secateur) (60% of the MACs, uniform, seed 0): it diverged" in printed


def test_an_option_that_is_not_finite_stops_no_results(owner: User, tmp_path: Path) -> None:
    """Torch-Pruning's magnitude takes any p, and gives no scores by the largest weight."""
    output, largest = tmp_path / "comparison", "{name: 'torch-pruning:magnitude', options: {p: .inf}}"
    code, _, complained = compare(owner, output, *SMALL, f"compare.criteria=[l1, {largest}]", "compare.seeds=[0]")
    assert (code, complained) == (0, "")
    ours, theirs = report_of(output)["cells"]
    assert (ours["not_measured"], theirs["options"]) == (None, {"p": None})
    assert theirs["criterion"] == "magnitude p=inf"
    assert "NaN or infinite" in theirs["not_measured"]
