"""The folder of a run: it belongs to one run and one process, and holds nothing half-written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runs_for_tests import contents
from secateur.errors import ConfigError
from secateur_cli.workspace import Workspace

SETTINGS = {"seed": 0, "plan": {"round_to": 8}}
FILES = {"scores": ("stages/scores.json",), "model": ("plan.json", "model.safetensors")}


def with_stages(folder: Path) -> Workspace:
    """A folder in which three stages are done, closed."""
    workspace = Workspace(folder, SETTINGS, files=FILES).open()
    for stage, names in {"training": (), **FILES}.items():
        for name in names:
            workspace.path(name).write_text('{"of": 1}')
        workspace.done(stage, {"of": stage})
    workspace.close()
    return workspace


def test_looking_writes_nothing(tmp_path: Path) -> None:
    Workspace(tmp_path / "run", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_the_same_run_is_continued(tmp_path: Path) -> None:
    before = with_stages(tmp_path / "run")
    again = Workspace(tmp_path / "run", SETTINGS, files=FILES)
    assert list(again.stages) == ["training", "scores", "model"]
    assert again.stages["scores"] == {"of": "scores"}
    assert again.seconds == before.seconds > 0
    assert again.lost is None


def test_the_seconds_of_several_calls_add_up(tmp_path: Path) -> None:
    for calls in (1, 2):
        workspace = Workspace(tmp_path, SETTINGS, begun=time.monotonic() - 1000).open()
        workspace.done(f"stage {calls}", {})
        workspace.close()
        assert 1000 * calls <= Workspace(tmp_path, SETTINGS).seconds < 1000 * calls + 500


@pytest.mark.parametrize(
    ("gone", "left"), [("stages/scores.json", ["training"]), ("model.safetensors", ["training", "scores"])]
)
def test_a_stage_whose_file_is_gone_is_forgotten_with_all_later_ones(
    tmp_path: Path, gone: str, left: list[str]
) -> None:
    with_stages(tmp_path)
    (tmp_path / gone).unlink()
    again = Workspace(tmp_path, SETTINGS, files=FILES)
    assert list(again.stages) == left
    assert again.lost == gone


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def turned(data: bytes) -> bytes:
    return data[::-1]


@pytest.mark.parametrize("damage", [cut, turned])
@pytest.mark.parametrize(
    ("damaged", "left"), [("stages/scores.json", ["training"]), ("model.safetensors", ["training", "scores"])]
)
def test_a_stage_whose_file_is_not_what_was_written_is_forgotten_with_all_later_ones(
    tmp_path: Path, damage: Callable[[bytes], bytes], damaged: str, left: list[str]
) -> None:
    with_stages(tmp_path)
    path = tmp_path / damaged
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again = Workspace(tmp_path, SETTINGS, files=FILES)
    assert list(again.stages) == left
    assert again.lost == damaged
    path.write_bytes(whole)
    assert Workspace(tmp_path, SETTINGS, files=FILES).lost is None


def test_a_caller_that_knows_fewer_files_leaves_what_is_known_of_the_others(tmp_path: Path) -> None:
    with_stages(tmp_path)
    Workspace(tmp_path, SETTINGS).open().close()
    (tmp_path / "plan.json").write_text("[]")
    assert Workspace(tmp_path, SETTINGS, files={"scores": FILES["scores"]}).lost is None
    assert Workspace(tmp_path, SETTINGS, files=FILES).lost == "plan.json"


def test_a_record_without_what_was_written_takes_the_files_as_they_are(tmp_path: Path) -> None:
    with_stages(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    del record["files"], record["images"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "plan.json").write_text("[]")
    assert Workspace(tmp_path, SETTINGS, files=FILES).lost is None


def test_other_images_are_refused_once_a_stage_is_done(tmp_path: Path) -> None:
    images = {"held-out": "1", "training": "2"}
    Workspace(tmp_path, SETTINGS).open({"held-out": "0"}).close()
    Workspace(tmp_path, SETTINGS).open({}).close()
    first = Workspace(tmp_path, SETTINGS).open({"held-out": "1"})
    first.done("training", {})
    first.close()
    Workspace(tmp_path, SETTINGS).open(images).close()
    Workspace(tmp_path, SETTINGS).open().close()
    before = contents(tmp_path)
    for other, which in [
        ({"held-out": "0"}, "held-out"),
        ({"held-out": "0", "training": "0"}, "held-out and training"),
    ]:
        with pytest.raises(ConfigError, match=f"holds a run on other {which} images"):
            Workspace(tmp_path, SETTINGS).open(other)
    assert contents(tmp_path) == before
    Workspace(tmp_path, SETTINGS).open(images).close()


def test_another_run_is_refused_once_a_stage_is_done(tmp_path: Path) -> None:
    other = SETTINGS | {"plan": {"round_to": 4}}
    Workspace(tmp_path / "new", SETTINGS).open().close()
    Workspace(tmp_path / "new", other).open().close()
    assert json.loads((tmp_path / "new" / "run.json").read_text())["settings"] == other
    with_stages(tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=re.escape("holds another run (plan.round_to: 8 before, 4 now)")):
        Workspace(tmp_path / "run", other)
    assert contents(tmp_path) == before


def test_other_settings_and_images_are_refused_once_a_stage_has_left_a_file(tmp_path: Path) -> None:
    images = {"held-out": "1", "training": "2"}
    workspace = Workspace(tmp_path, SETTINGS | {"seed": 1}).open({"held-out": "0"})
    workspace.path("stages/.epochs.safetensors.4711.tmp").write_text("half")
    workspace.close()
    workspace = Workspace(tmp_path, SETTINGS).open(images)
    workspace.path("stages/epochs.safetensors").write_text("whole")
    workspace.close()
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=re.escape("holds another run (seed: 0 before, 1 now)")):
        Workspace(tmp_path, SETTINGS | {"seed": 1})
    with pytest.raises(ConfigError, match="holds a run on other training images"):
        Workspace(tmp_path, SETTINGS).open({"training": "0"})
    assert contents(tmp_path) == before
    Workspace(tmp_path, SETTINGS).open(images).close()


@pytest.mark.parametrize(
    "record",
    [
        "", "[]", "null", '{"format": 1}', '{"format": 2, "settings": {}, "stages": {}, "seconds": 0}',
        '{"format": 1, "settings": {}, "stages": [], "seconds": 0}',
        '{"format": 1, "settings": {}, "stages": {}, "seconds": "x"}', "\x00\x01",
        '{"format": 1, "settings": {}, "stages": {}, "seconds": 0, "images": 3}',
        '{"format": 1, "settings": {}, "stages": {}, "seconds": 0, "files": [3]}',
    ],
)  # fmt: skip
def test_a_damaged_record_is_refused_and_left(tmp_path: Path, record: str) -> None:
    (tmp_path / "run.json").write_text(record)
    with pytest.raises(ConfigError, match="is not the record of a run"):
        Workspace(tmp_path, SETTINGS)
    assert contents(tmp_path) == {"run.json": record.encode()}


def test_leavings_of_a_killed_process_are_cleared_and_others_are_not(tmp_path: Path) -> None:
    with_stages(tmp_path)
    for name in (".plan.json.4711.tmp", "stages/.scores.json.4711.tmp", "mine.tmp", ".mine.tmp"):
        (tmp_path / name).write_text("half")
    Workspace(tmp_path, SETTINGS, files=FILES).open().close()
    assert {path for path in contents(tmp_path) if path.endswith(".tmp")} == {"mine.tmp", ".mine.tmp"}
    assert {"plan.json", "stages/scores.json"} <= set(contents(tmp_path))


def test_a_folder_with_nothing_but_leavings_is_free(tmp_path: Path) -> None:
    (tmp_path / ".run.json.4711.tmp").write_text("half")
    Workspace(tmp_path, SETTINGS).open().close()
    assert set(contents(tmp_path)) == {"run.json"}


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not locked on Windows")
def test_two_processes_in_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from secateur_cli.workspace import Workspace; "
        "Workspace(Path(sys.argv[1]), {'seed': 0, 'plan': {'round_to': 8}}).open(); print('open', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(ConfigError, match="another process works in the output folder"):
            Workspace(tmp_path, SETTINGS).open()
        process.kill()
    Workspace(tmp_path, SETTINGS).open().close()


def test_what_another_process_has_done_since_the_first_look_is_seen(tmp_path: Path) -> None:
    early = Workspace(tmp_path / "run", SETTINGS, files=FILES)
    with_stages(tmp_path / "run")
    assert list(early.open().stages) == ["training", "scores", "model"]
    early.close()
    late = Workspace(tmp_path / "other", SETTINGS | {"seed": 1})
    with_stages(tmp_path / "other")
    with pytest.raises(ConfigError, match="holds another run"):
        late.open()
    Workspace(tmp_path / "other", SETTINGS, files=FILES).open().close()  # it was let go


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"below cannot be used \(Not a directory\); choose another --output"):
        Workspace(tmp_path / "file" / "below", SETTINGS).open()


def test_stages_are_taken_from_another_run_where_nothing_is_finished(tmp_path: Path) -> None:
    other = with_stages(tmp_path / "other")
    taking = Workspace(tmp_path / "run", SETTINGS | {"seed": 1}, files=FILES).open()
    assert taking.take(["scores", "training", "figures"], other) == ["scores", "training"]
    (other.folder / "stages/scores.json").write_text("other")
    assert taking.take(["model"], other) == []
    taking.close()
    again = Workspace(tmp_path / "run", SETTINGS | {"seed": 1}, files=FILES)
    assert again.lost is None
    assert again.stages == {"scores": {"of": "scores"}, "training": {"of": "training"}}
    assert set(contents(tmp_path / "run")) == {"run.json", "stages/scores.json"}


@pytest.mark.parametrize(("images", "weights"), [({"training": "b"}, "c"), ({"training": "a"}, "d")])
def test_nothing_is_taken_from_a_run_on_other_images_or_of_other_weights(
    tmp_path: Path, images: dict[str, str], weights: str
) -> None:
    Workspace(tmp_path / "other", SETTINGS).open({"training": "a"}, {"weights": "c"}).done("training", {})
    taking = Workspace(tmp_path / "run", SETTINGS).open(images, {"weights": weights})
    assert taking.take(["training"], Workspace(tmp_path / "other", SETTINGS)) == []
    assert not taking.stages
