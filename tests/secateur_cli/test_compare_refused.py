"""What a comparison refuses, or warns of, before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from comparisons_for_tests import SMALL, compare
from runs_for_tests import User
from secateur import precision
from secateur_cli.comparison.setting import check_folder
from started_for_tests import Started


def test_other_folders_are_refused(owner: User, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    code, _, complained = compare(owner, tmp_path)
    assert code == 2
    assert "holds 'letter.txt', which is no comparison's" in complained
    code, _, complained = compare(owner, tmp_path / "letter.txt")
    assert code == 2
    assert "is a file" in complained
    code, _, complained = compare(owner, tmp_path / "nothing", flags=("--show",))
    assert code == 2
    assert "holds no comparison yet" in complained
    assert not (tmp_path / "nothing").exists()


def test_what_a_killed_process_left_unfinished_is_no_other_folder(tmp_path: Path) -> None:
    for name in ("claims", ".dense.safetensors.4242.tmp"):  # killed while the dense network was written
        (tmp_path / name).touch()
    check_folder(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system makes no copies of a process")
def test_without_nni_its_pruners_are_refused_before_any_work(owner: User, tmp_path: Path) -> None:
    script = tmp_path / "without.py"
    script.write_text("import sys\nsys.modules['nni'] = None\nfrom secateur_cli.main import app\napp()\n")
    words = (script, "compare", owner.config, "--output", tmp_path / "out")
    code, _, complained = Started(*words, folder=tmp_path, output=tmp_path / "printed").wait()
    assert code == 2
    assert "NNI 3.0 cannot be imported" in complained
    assert 'pip install "secateur[nni]"' in complained
    assert not (tmp_path / "out").exists()


def test_a_training_that_cannot_be_is_refused_before_any_work(owner: User, tmp_path: Path) -> None:
    output, compared = tmp_path / "comparison", ("fine_tune.feature_weight=1", "compare.stages=[cut, fine-tuned]")
    code, _, complained = compare(owner, output, *SMALL, *compared)
    assert code == 2
    assert "fine_tune.feature_weight: no module of the network ends a residual block" in complained
    assert not output.exists()
    code, _, complained = compare(owner, output, *SMALL, "compare.seeds=[0]", *compared, "compare.stages=[cut]")
    assert code == 0, complained  # nothing is trained by that schedule


def test_a_precision_that_is_emulated_is_warned_of_before_any_work_if_anything_is_trained_in_it(
    owner: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_is_native", lambda _: False)
    precision._warn_of_emulation.cache_clear()
    said, output = "warning: this processor does not compute in bfloat16", tmp_path / "comparison"
    schedule = (*SMALL, "compare.criteria=[l1]", "compare.seeds=[0]", "fine_tune.precision=bfloat16")
    code, printed, complained = compare(owner, output, *schedule, "compare.stages=[cut]")
    assert (code, said in printed) == (0, False), complained
    code, printed, complained = compare(owner, output, *schedule, "compare.stages=[cut, fine-tuned]")
    assert code == 0, complained
    assert printed.count(said) == 1
    assert printed.index(said) < printed.index("dense:")


def test_a_budget_out_of_reach_is_refused_before_any_work(owner: User, tmp_path: Path) -> None:
    code, _, complained = compare(owner, tmp_path / "out", "compare.budgets=[60%,1%]")
    assert code == 2
    assert "the lowest cost that can be reached is" in complained
    assert not (tmp_path / "out").exists()
