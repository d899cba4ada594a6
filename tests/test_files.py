"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from secateur.files import replacing, write_json


def test_an_earlier_file_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("earlier")
    with pytest.raises(RuntimeError, match="stop"), replacing(path) as temporary:
        _fail_half_way(temporary)
    assert path.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def _fail_half_way(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError("stop")


def test_a_success_replaces_it_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("earlier")
    with replacing(path) as temporary:
        temporary.write_text("later")
    assert path.read_text() == "later"
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_others_may_read_what_a_writer_keeps_to_itself(tmp_path: Path) -> None:
    """Some writers rename a private temporary file of their own over the name that they are given."""
    path, usual = tmp_path / "model", tmp_path / "usual"
    usual.touch()
    with replacing(path) as temporary:
        handle, private = tempfile.mkstemp(dir=tmp_path)
        os.close(handle)
        Path(private).rename(temporary)
    assert path.stat().st_mode == usual.stat().st_mode


def test_json_that_is_none_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    write_json(path, {"a": [1, 2.5]})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, 2.5]}
