"""Files of a run that are gone or damaged: made again with what follows from them, or named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runs_for_tests import Finished, User, assert_same_end
from secateur.errors import CheckpointError
from secateur_cli.stages import planning


def test_a_file_that_is_gone_is_made_again_with_what_follows(
    user: User, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = shutil.copytree(finished[0], tmp_path / "run")
    for name in ("plan.json", "recovered.safetensors"):
        (output / "stages" / name).unlink()
        monkeypatch.delattr(planning, "scores_by_name", raising=False)  # what came before is not repeated
        code, said, complained = user.command(output)
        assert (code, complained) == (0, "")
        assert f"{output / 'stages' / name} is gone: making it again, and what follows from it" in said
        assert_same_end(output, json.loads((output / "report.json").read_text()), finished)


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "stages/recovered.safetensors"])
def test_a_file_that_is_not_what_was_written_is_made_again_with_what_follows(
    user: User, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    output = shutil.copytree(finished[0], tmp_path / "run")
    whole = (output / name).read_bytes()
    (output / name).write_bytes(whole[: len(whole) // 2])
    monkeypatch.delattr(planning, "scores_by_name")
    code, said, complained = user.command(output)
    assert (code, complained) == (0, "")
    assert said.count(f"{output / name} is not what was written: making it again, and what follows from it") == 1
    assert (output / name).stat().st_size == len(whole)
    assert_same_end(output, json.loads((output / "report.json").read_text()), finished)
    assert "making it again" not in user.command(output)[1]


def test_a_damaged_file_is_named_where_nothing_tells_what_was_written(
    user: User, finished: Finished, tmp_path: Path
) -> None:
    output = shutil.copytree(finished[0], tmp_path / "run")
    record = json.loads((output / "run.json").read_text())
    del record["files"]
    (output / "run.json").write_text(json.dumps(record))
    recovered = output / "stages" / "recovered.safetensors"
    recovered.write_bytes(recovered.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"recovered\.safetensors is not a safetensors file, or it is truncated"):
        user.call(output)
    recovered.unlink()
    (output / "stages" / "scores.json").write_text('{"sco')
    with pytest.raises(CheckpointError, match=r"scores\.json is damaged .*delete it, and the same command"):
        user.call(output)
    (output / "stages" / "scores.json").unlink()
    user.call(output)
