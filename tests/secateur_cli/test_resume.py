"""A run that is stopped, anywhere and in any way, ends as if it had not been, and leaves nothing half-written."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runs_for_tests import Finished, User, assert_same_end, contents
from secateur import weights
from secateur_cli.stages import job, pipeline, planning, recovery, searching
from secateur_cli.workspace import Workspace
from started_for_tests import Started


def call_until_done(user: User, output: Path, disturb: Callable[[int], None]) -> tuple[dict[str, Any], int]:
    """Call again and again, each call disturbed, until one comes to its end; return its report and how often."""
    for number in range(100):
        disturb(number)
        try:
            return user.call(output), number
        except KeyboardInterrupt:
            continue
    raise AssertionError("a hundred calls did not come to an end")


def test_stopped_before_and_after_each_stage_is_recorded(
    user: User, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Workspace.done
    stopped: list[tuple[str, str]] = []

    def done(self: Workspace, stage: str, result: Any) -> None:
        if (stage, "before") not in stopped:
            stopped.append((stage, "before"))
            raise KeyboardInterrupt
        record(self, stage, result)
        if (stage, "after") not in stopped:
            stopped.append((stage, "after"))
            raise KeyboardInterrupt

    monkeypatch.setattr(Workspace, "done", done)
    report, calls = call_until_done(user, tmp_path / "run", lambda _: None)
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert calls == len(stopped) == 2 * len(stages) == 26
    assert_same_end(tmp_path / "run", report, finished)


WITHIN = [
    (weights, "save_file"), (job, "fine_tune"), (job, "accuracy"), (planning, "scores_by_name"),
    (searching, "uniform_plan"), (pipeline, "apply_plan"), (pipeline, "verify_pruning"),
    (recovery, "compensate"), (pipeline, "save_pruned"), (pipeline, "load_pruned"),
    (pipeline.secateur_onnx, "export"), (pipeline.secateur_onnx, "check_parity"),
    (pipeline.secateur_onnx, "benchmark"),
]  # fmt: skip


def test_stopped_within_each_stage(
    user: User, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []

    def stopping_once(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def stop(*args: Any, **kwargs: Any) -> Any:
            found = work(*args, **kwargs)  # it has changed what it changes: weights, statistics, files
            if name not in stopped:
                stopped.append(name)
                raise KeyboardInterrupt
            return found

        return stop

    for module, name in WITHIN:
        monkeypatch.setattr(module, name, stopping_once(name, getattr(module, name)))
    report, calls = call_until_done(user, tmp_path / "run", lambda _: None)
    assert calls == len(WITHIN)
    assert_same_end(tmp_path / "run", report, finished)


def test_stopped_between_two_layers_of_the_compensation(
    user: User, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve, begun = recovery.compensate, 0

    def stopping_once(*args: Any, on_layer: Callable[[str, int, int], None], **kwargs: Any) -> Any:
        nonlocal begun
        begun += 1

        def watch(layer: str, done: int, total: int) -> None:
            on_layer(layer, done, total)
            if begun == 1 and done == 1:  # the first layer has its new weights
                raise KeyboardInterrupt

        return solve(*args, on_layer=watch, **kwargs)

    monkeypatch.setattr(recovery, "compensate", stopping_once)
    report, calls = call_until_done(user, tmp_path / "run", lambda _: None)
    assert (calls, begun) == (1, 2)
    assert_same_end(tmp_path / "run", report, finished)


def test_a_compensated_network_is_not_solved_for_again(
    user: User, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, train = tmp_path / "run", pipeline.Job.train

    def stop(self: Any, model: Any, settings: Any, title: str, **more: Any) -> dict[str, Any]:
        if title == "fine-tuning":
            raise KeyboardInterrupt
        return train(self, model, settings, title, **more)

    with monkeypatch.context() as stopped:
        stopped.setattr(pipeline.Job, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            user.call(output)
    monkeypatch.delattr(recovery, "compensate")
    report = user.call(output)
    assert_same_end(output, report, finished)
    assert report["recovery"]["layers"] == finished[1]["recovery"]["layers"]


@pytest.mark.parametrize("moment", [pytest.param("before", marks=pytest.mark.thorough), "after"])
def test_stopped_at_any_renaming(
    user: User, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    rename, dice = Path.replace, random.Random(7)
    left = 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left == 0 and moment == "before":
            raise KeyboardInterrupt
        found = rename(self, target)
        if left == 0:
            raise KeyboardInterrupt
        return found

    def disturb(_: int) -> None:
        nonlocal left
        left = dice.randint(2, 7)

    monkeypatch.setattr(Path, "replace", replace)
    report, calls = call_until_done(user, tmp_path / "run", disturb)
    assert calls > 2
    assert_same_end(tmp_path / "run", report, finished)


def test_a_full_disk_is_told_in_a_line_and_loses_nothing(
    user: User, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, write, room = tmp_path / "run", Path.write_text, 8

    def write_text(self: Path, *args: Any, **kwargs: Any) -> int:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(28, "No space left on device", str(self))
        return write(self, *args, **kwargs)

    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", write_text)
        code, _, complained = user.command(output)
    assert code == 1
    assert complained.startswith("error: OSError: [Errno 28] No space left on device")
    assert complained.count("\n") == 1
    assert "Traceback" not in complained
    kept = json.loads((output / "run.json").read_text())["stages"]
    assert list(kept)[:3] == ["training", "software and machine", "accuracy: dense"]
    assert [path for path in contents(output) if path.endswith(".tmp")] == []
    assert_same_end(output, user.call(output), finished)


def test_ctrl_c_is_told_in_a_line(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "scores_by_name", stop)
    code, _, complained = user.command(tmp_path / "run")
    assert (code, complained) == (130, "stopped; the same command continues where this one ended\n")


def test_the_seconds_of_all_calls_are_added(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, found = tmp_path / "run", planning.scores_by_name
    begun = time.monotonic()

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "scores_by_name", stop)
    with pytest.raises(KeyboardInterrupt):
        user.call(output)
    first = json.loads((output / "run.json").read_text())["seconds"]
    assert 0 < first < time.monotonic() - begun
    time.sleep(0.5)  # nobody works
    monkeypatch.setattr(planning, "scores_by_name", found)
    whole = user.call(output)["seconds"]
    assert first < whole < time.monotonic() - begun - 0.5
    assert user.call(output)["seconds"] == whole


@pytest.mark.parametrize("kind", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)])
def test_a_process_that_is_killed_is_continued(user: User, finished: Finished, tmp_path: Path, kind: int) -> None:
    output, dice = tmp_path / "run", random.Random(int(kind))
    command = ("-m", "secateur_cli", "run", user.config, "--output", output)

    def stages() -> int:
        path = output / "run.json"
        return len(json.loads(path.read_text())["stages"]) if path.exists() else -1

    killed = 0
    for wanted in (1, 3, 7):  # stages done when it is killed, or a little later
        process = Started(*command, folder=tmp_path, output=tmp_path / "killed")
        before = stages()
        while process.poll() is None and stages() < max(wanted, before + 1):
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.1))
        process.send(kind)
        code, _, complained = process.wait(seconds=60)
        if code == 0:  # it was quicker
            break
        killed += 1
        assert code in {-kind, 130}  # to a shell, a death by SIGINT is 130 too
        if code == 130:
            assert complained == "stopped; the same command continues where this one ended\n"
            assert [path for path in contents(output) if path.endswith(".tmp")] == []
    assert killed >= 2
    code, printed, complained = Started(*command, folder=tmp_path, output=tmp_path / "done").wait()
    assert (code, "continuing the run" in printed) == (0, True), printed + complained
    assert_same_end(output, json.loads((output / "report.json").read_text()), finished)
