"""What the benchmarks record, and under which name: no figure stands for settings that it was not measured with."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from guides_for_tests import ROOT
from secateur.channel_graph import channel_groups
from secateur.networks import resnet20
from secateur.records import ScoreTable

FOLDER = ROOT / "examples" / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that imports a benchmark by its name."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


class ReachedError(Exception):
    """Something is measured."""


def started(module: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run a benchmark as if by its command, up to where it loads the network."""

    def reached(*_: Any, **__: Any) -> None:
        raise ReachedError

    monkeypatch.setattr(module, "load", reached)
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *arguments])
    module.main()


def write(path: Path, **rows: dict[str, float]) -> Path:
    """Write a record: each row, its blanks as underscores, and its stages."""
    lines = [
        json.dumps({"row": row, "stage": stage, "value": value})
        for row, stages in rows.items()
        for stage, value in stages.items()
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(("epochs", "precision", "known"), [
    (2, "bfloat16", True), (3, "bfloat16", False), (2, "float32", False), (0, "float32", True),
])  # fmt: skip
def test_search_quality_takes_no_row_of_other_settings(
    script: Any, tmp_path: Path, epochs: int, precision: str, known: bool
) -> None:
    quality, record = script("search_quality"), script("_record")
    rows = {"0 l1, curves 50%": dict.fromkeys(("cut", "recalibrated", "compensated", "trained"), 80.0)}
    kept = record.Record(write(tmp_path / "record.jsonl", **rows))

    class Seed:
        number, plans, setting = 0, dict[str, Any](), (None, None, None)

        def plan(self, *_: Any) -> None:
            raise ReachedError

    def measured() -> bool:
        try:
            quality.measure(Seed(), ("l1", "curves", "50%"), kept, epochs=epochs, precision=precision)
        except ReachedError:
            return True
        return False

    assert measured() == (not known)


@pytest.mark.parametrize(
    ("epochs", "precision", "images", "name"),
    [
        (1, "bfloat16", None, "trained"),
        (1, "bfloat16", 10000, "trained 10,000"),
        (2, "bfloat16", None, "trained 2x"),
        (1, "float32", None, "trained in float32"),
    ],
)
def test_quantization_names_what_decides_a_figure(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, epochs: int, precision: str, images: int, name: str
) -> None:
    quantization, record = script("quantization"), script("_record")
    cell, given = quantization.Cell(3), Namespace(precision=precision, train_images=images)
    every = dict.fromkeys(("trained", "trained 10,000", "trained 2x", "trained in float32"), 80.0)
    monkeypatch.setattr(quantization.copy, "deepcopy", lambda _: pytest.fail("it is measured again"))
    kept = record.Record(write(tmp_path / "record.jsonl", **{f"0 {cell.name}": {name: 80.0}}))
    quantization.measure(None, None, kept, None, given, cell, epochs)
    del every[name]
    kept = record.Record(write(tmp_path / "others.jsonl", **{f"0 {cell.name}": every}))
    with pytest.raises(pytest.fail.Exception):
        quantization.measure(None, None, kept, None, given, cell, epochs)


@pytest.mark.parametrize(
    ("name", "stages"), [("search_quality", {"trained"}), ("quantization", {"trained", "trained 10,000"})]
)
def test_the_tables_show_the_trainings_that_are_recorded(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, stages: set[str]
) -> None:
    started(script(name), monkeypatch, "--show")
    heading = next(line for line in capsys.readouterr().out.splitlines() if "trained" in line)
    assert all(f"  {stage}" in heading for stage in stages)


def test_the_seconds_of_a_search_are_without_scores_and_with_curves(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quality, clock = script("search_quality"), [0.0]

    def lasting(seconds: float, answer: Any = None) -> Any:
        def work(*_: Any, **__: Any) -> Any:
            clock[0] += seconds
            return answer

        return work

    groups, images = channel_groups(network := resnet20().eval(), torch.randn(2, 3, 32, 32)), torch.randn(2, 3, 32, 32)
    data = SimpleNamespace(
        calibration=[images], validation=[(images, torch.zeros(2, dtype=torch.int64))], example=images
    )
    setting = script("_trained_resnet56").Setting(network, groups, data)
    scores = ScoreTable({name: torch.rand(group.width) for name, group in groups.items()})
    monkeypatch.setattr(quality, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(quality, "scores_by_name", lasting(10.0, scores))
    for name, seconds in {"reconstruction_scores": 5.0, "curve_plan": 1.0, "uniform_plan": 2.0}.items():
        monkeypatch.setattr(quality.secateur, name, lasting(seconds, scores))
    monkeypatch.setattr(quality.secateur, "refine_plan", lasting(20.0))
    monkeypatch.setattr(quality.Seed, "worth", lambda *_: lambda kept: 0.5)

    def greedy(_: Any, scores: Any, *rest: Any, **__: Any) -> None:
        clock[0] += 40.0
        rest[2]({name: tuple(range(group.width)) for name, group in groups.items()})

    monkeypatch.setattr(quality.secateur, "greedy_plan", greedy)
    seed = quality.Seed(0, setting, tmp_path / "journals")
    for _ in range(2):  # whatever was scored on the way
        assert seed.plan("uniform", "l1", "70%")[1] == 2.0
        assert seed.plan("curves", "l1", "70%")[1] == 6.0
        assert seed.plan("curves", "reconstruction", "70%")[1] == 11.0
        assert seed.plan("refined", "reconstruction", "70%")[1] == 31.0
    assert seed.plan("greedy", "di", "70%")[1] == 40.0
    assert seed.plan("greedy", "di", "50%")[1] is None


def test_a_part_without_the_dense_row_measures_it(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quality = script("search_quality")
    rows = {"0 reconstruction, curves 50%": {"layer by layer": 88.0}}
    path = write(tmp_path / "record.jsonl", **rows)
    started(quality, monkeypatch, "--show", "--record", str(path))
    assert "the curves lose" not in capsys.readouterr().out

    class Setting:
        network = None

        def accuracy(self, _: Any) -> float:
            return 89.5

    monkeypatch.setattr(quality, "measure", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", ["search_quality.py", "--part", "2/3", "--seeds", "0", "--record", str(path)])
    monkeypatch.setattr(quality, "load", lambda *_, **__: Setting())
    quality.main()
    assert "seed 0: the curves lose 1.50 points at 50%" in capsys.readouterr().out


def test_a_record_whose_pruned_network_is_not_there_is_refused_at_once(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quantization = script("quantization")
    path = write(tmp_path / "record.jsonl", **{"0 pruned": {"rounded": 88.0}})
    with pytest.raises(SystemExit, match=r"record\.pruned.* --record names another file, --show prints"):
        started(quantization, monkeypatch, "--record", str(path))
    with pytest.raises(ReachedError):
        started(quantization, monkeypatch, "--record", str(tmp_path / "new.jsonl"))


@pytest.mark.parametrize("name", ["quantization", "search_quality", "fine_tuning"])
def test_smoke_runs_begin_anew_and_leave_nothing(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    module, opened = script(name), list[Path]()
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "smoke.jsonl", **{"0 dense": {"cut": 1.0}})

    class Watched(module.Record):  # type: ignore[misc, name-defined]  # the module is imported by its name
        def __init__(self, path: Path, device: str = "cpu") -> None:
            opened.append(path)
            super().__init__(path, device)
            assert not self.rows

    monkeypatch.setattr(module, "Record", Watched)
    with pytest.raises(ReachedError):
        started(module, monkeypatch, "--smoke")
    assert tmp_path not in opened[0].parents
    assert "resnet56" not in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (("--device", "cuda"), "--provider says where"), (("--clock", "process", "--threads", "2"), "on one thread"),
    (("--clock", "process", "--provider", "cuda"), "of this process"),
])  # fmt: skip
def test_latency_budget_refuses_what_it_would_measure_wrongly(
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(SystemExit, match="2"):
        started(script("latency_budget"), monkeypatch, *arguments)
    assert message in capsys.readouterr().err


class Clock:
    """What a script is timed by, which notes when it was asked."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def perf_counter(self) -> float:
        self.events.append("clock")
        return 0.0


def noting(events: list[str], what: str) -> Any:
    """Return a function that notes its calls and gives back what it was given first."""

    def note(*arguments: Any, **_: Any) -> Any:
        events.append(what)
        return arguments[0]

    return note


def test_the_plain_way_of_di_is_timed_after_a_pass_that_does_not_count(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, events = script("di_speed"), list[str]()
    monkeypatch.setattr(module, "time", Clock(events))
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.ReLU())
    network[1].register_forward_hook(lambda *_: events.append("pass"))
    scores, _ = module.plain_scores(network, [(torch.randn(4, 1, 3, 3), torch.arange(4) % 2)])
    assert [*scores] == ["0"]
    assert events == ["clock", "pass", "clock", "clock", "pass", "clock"]


@pytest.mark.parametrize(("way", "work"), [("forward", "pass"), ("compensate", "compensate")])
def test_recovery_is_timed_after_a_pass_that_does_not_count(
    script: Any, monkeypatch: pytest.MonkeyPatch, way: str, work: str
) -> None:
    module, events = script("recovery_memory"), list[str]()
    monkeypatch.setattr(module, "time", Clock(events))
    monkeypatch.setattr(module.secateur, "apply_plan", lambda *_: noting(events, "pass"))
    monkeypatch.setattr(module.secateur, "compensate", noting(events, "compensate"))
    module.work(way, 1, 1, smoke=True)
    assert events == ["pass", "clock", work, "clock"]
