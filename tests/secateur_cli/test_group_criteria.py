"""A run by a criterion that scores groups of channels by the layers behind them."""

from __future__ import annotations

from pathlib import Path

from runs_for_tests import User


def test_a_run_by_reconstruction(user: User, tmp_path: Path) -> None:
    report = user.call(tmp_path / "run", "score.criterion=reconstruction", "score.options={labels: 0.5, rows: 2000}")
    assert report["plan"]["after"] <= report["plan"]["budget"]
    scored = report["scores"]["settings"]
    assert scored["criterion"] == "reconstruction"
    assert (scored["options"]["labels"], scored["samples"]) == (0.5, 64)
    assert scored["rows"] == {"second": 2000, "head": 64}


def test_bad_options_are_refused_before_anything_runs(user: User, tmp_path: Path) -> None:
    code, _, complained = user.command(tmp_path, "score.criterion=reconstruction", "score.options={rigde: 0.1}")
    assert code != 0
    assert "did you mean 'ridge'" in complained


def test_a_run_by_error_curves(user: User, tmp_path: Path) -> None:
    report = user.call(tmp_path / "run", "score.criterion=reconstruction", search="curves")
    assert report["plan"]["search"] == "curves"
    assert report["plan"]["after"] <= report["plan"]["budget"]


def test_curves_without_errors_are_refused(user: User, tmp_path: Path) -> None:
    code, _, complained = user.command(tmp_path, "plan.search=curves")
    assert code != 0
    assert "score.criterion: reconstruction" in " ".join(complained.split())
