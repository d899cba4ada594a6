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


def test_more_images_than_it_holds_are_refused_before_the_training(user: User, tmp_path: Path) -> None:
    """An image takes 256 bytes, and half of the memory is for the 64 that there are."""

    def given(memory: int) -> tuple[int, str, str]:
        score = f"score={{criterion: reconstruction, options: {{memory: {memory}, relative: false}}}}"
        return user.command(tmp_path / "run", score, name="search")

    code, _, complained = given(2 * 63 * 256)
    assert code == 2
    assert "score.samples: 1,000 images of (1, 8, 8) do not fit into the 0 MiB" in complained
    assert "at most 63 do" in complained
    assert not (tmp_path / "run").exists()
    code, _, complained = given(2 * 64 * 256)
    assert "do not fit" not in complained


def test_a_run_by_error_curves(user: User, tmp_path: Path) -> None:
    report = user.call(tmp_path / "run", "score.criterion=reconstruction", search="curves")
    assert report["plan"]["search"] == "curves"
    assert report["plan"]["after"] <= report["plan"]["budget"]


def test_error_curves_of_any_criterion(user: User, tmp_path: Path) -> None:
    report = user.call(tmp_path / "run", "score.criterion=l1", search="curves")
    assert report["plan"]["after"] <= report["plan"]["budget"]
    scores = {"reconstruction", "l1"}
    recorded = report["plan"]["settings"]["scores"]
    assert {recorded["criterion"], recorded["order"]["criterion"]} == scores
    by_l1 = user.call(tmp_path / "other", "score.criterion=l1")  # uniformly: the same channels at the same widths
    for one, other in zip(report["plan"]["groups"], by_l1["plan"]["groups"], strict=True):
        fewer, more = sorted((set(one["kept_channels"]), set(other["kept_channels"])), key=len)
        assert fewer <= more


def test_swaps_from_the_error_curves(user: User, tmp_path: Path) -> None:
    settings = ("plan.evaluations=12", "plan.worth={measure: loss, recovery: compensate, images: 40}")
    report = user.call(tmp_path / "run", *settings, search="refine")
    found = report["plan"]["settings"]
    assert found["worth"] >= found["worth_at_start"]
    assert found["evaluations"] <= 12
    assert report["plan"]["after"] <= report["plan"]["budget"]
    assert len(report.get("search", {"steps": []})["steps"]) == found["steps"]
    assert (tmp_path / "run/journal.sqlite").is_file()
