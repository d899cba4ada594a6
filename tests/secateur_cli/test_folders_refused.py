"""Folders that hold something else, or another run, are refused before any work and left untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runs_for_tests import User, contents


def test_folders_that_hold_something_else_are_left_untouched(
    user: User, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    other, foreign, file, broken = (tmp_path / name for name in ("other", "foreign", "file", "broken"))
    for folder in (other, foreign, broken):
        folder.mkdir()
    (other / "run.json").write_bytes((finished[0] / "run.json").read_bytes())
    (foreign / "thesis.tex").write_text("the only copy")
    file.write_text("a file")
    (broken / "run.json").write_text('{"format": 1, "sett')
    before = contents(tmp_path)
    for output, settings, message in [
        (other, ("seed=1",), "holds another run (seed: 0 before, 1 now); choose another with --output"),
        (other, ("plan.search=[uniform, greedy]",), "holds another run or is a file"),
        (foreign, (), "holds files that are not a run's; choose another with --output"),
        (file, (), "is a file; it must be a folder"),
        (file / "below", (), "cannot be used (Not a directory)"),
        (broken, (), "run.json is not the record of a run"),
    ]:
        code, said, complained = user.command(output, *settings)
        assert (code, said) == (2, "")
        assert message in complained
        assert contents(tmp_path) == before


def test_of_several_searches_all_folders_are_looked_at_before_any_work(user: User, tmp_path: Path) -> None:
    (tmp_path / "greedy").mkdir()
    (tmp_path / "greedy" / "notes.txt").write_text("mine")
    code, said, complained = user.command(tmp_path, "plan.search=[uniform, greedy]")
    assert (code, said) == (2, "")
    assert "greedy holds files that are not a run's" in complained
    assert not (tmp_path / "uniform").exists()


def test_another_file_of_weights_is_another_run(
    user: User, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, output = tmp_path / "mine.safetensors", tmp_path / "run"
    dense = (finished[0] / "stages" / "dense.safetensors").read_bytes()
    path.write_bytes(dense)
    settings = ("train=null", "fine_tune=null", f"network.weights={path}")
    assert user.command(output, *settings)[0] == 0
    before = contents(output)
    path.write_bytes(dense[:-4] + b"\0\0\0\0")
    code, _, complained = user.command(output, *settings)
    assert code == 2
    assert "holds another run (weights_sha256: " in complained
    assert contents(output) == before
