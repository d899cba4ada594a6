"""Where torch computes: every stage that reads images does so on the device of the run, and all else on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from runs_for_tests import User, give
from secateur import load_plan, modes
from secateur.errors import CheckpointError, ConfigError
from secateur.modes import device_of, placed
from secateur_cli import nni_search
from secateur_cli.comparison import measuring, scoring, setting, training
from secateur_cli.figures import stability
from secateur_cli.stages import error_curves, few_bits, job, planning, preparation, recovery, searching
from secateur_cli.tuning_trial import tuned_run


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(user: User, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    code, _, complained = user.command(tmp_path / "run", "device=cuda")
    assert code == 2
    assert "device: cuda: torch finds no CUDA device here" in " ".join(complained.split())
    assert not (tmp_path / "run").exists()
    code, _, complained = user.command(tmp_path / "run", "device=gpu")
    assert code == 2
    assert "device: 'gpu' is not allowed; allowed: 'cpu', 'cuda'" in " ".join(complained.split())


@pytest.mark.parametrize("section", ["train", "fine_tune"])
def test_a_precision_that_the_device_lacks_is_refused_before_anything_is_written(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    def refuse(device: torch.device, precision: str) -> None:
        if precision != "float32":
            raise ConfigError(f"the device {device.type} does not train in {precision}")

    monkeypatch.setattr(preparation, "check_precision", refuse)
    code, _, complained = user.command(tmp_path / "run", f"{section}.precision=float16")
    assert (code, complained) == (2, f"error: {section}.precision: the device cpu does not train in float16\n")
    assert not (tmp_path / "run").exists()


PLACING = (
    *(job, planning, error_curves, searching, recovery, few_bits),
    *(training, scoring, measuring, stability, nni_search),
)
READING = {
    "accuracy": (job, few_bits),
    "collect_scores": (stability, few_bits),
    "compensate": (measuring, recovery),
    "fine_tune": (job, training),
    "judge_of": (searching, scoring, nni_search),
    "recalibrate_batch_norm": (measuring, recovery),
    "reconstruction_scores": (scoring, error_curves),
    "scores_by_name": (planning,),
    "scores_of": (scoring,),
}
"""What reads images by the networks of a run, and by which names it is called where."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is placed, written down in place of being moved, since there may be no such device here.

    What reads images in no such block fails: it would do so on the processor, without a word.
    """
    found: list[tuple[str, int]] = []
    inside: list[str] = []

    def recording(stage: str) -> Any:
        @contextmanager
        def record(device: str, *models: nn.Module | None) -> Iterator[None]:
            assert device == "cuda"
            found.append((stage, sum(model is not None for model in models)))
            inside.append(stage)
            yield
            inside.pop()

        return record

    def placed_only(name: str, read: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*given: Any, **more: Any) -> Any:
            assert inside, f"{name} is called where nothing is placed"
            return read(*given, **more)

        return guarded

    for module in (preparation, setting, nni_search):
        monkeypatch.setattr(module, "check_device", lambda config: None)
    for module in PLACING:
        monkeypatch.setattr(module, "placed", recording(module.__name__.rpartition(".")[2]))
    monkeypatch.setattr(modes, "placed", recording("tuning_trial"))  # which imports it as it is called
    for name, modules in READING.items():
        for module in modules:
            monkeypatch.setattr(module, name, placed_only(name, getattr(module, name)))
    return found


@pytest.mark.filterwarnings("ignore:fewer rows than unknowns")
def test_every_stage_that_reads_images_runs_there(user: User, tmp_path: Path, asked: list[tuple[str, int]]) -> None:
    changes = ("device=cuda", "fine_tune.distillation=0.5", "plan.greedy_from=80%")
    user.call(tmp_path / "run", *changes, "plan.search=greedy", search="greedy")
    assert asked == [
        ("job", 1),  # trained
        ("job", 1),  # dense, judged
        ("planning", 1),  # scored
        ("error_curves", 1),
        ("searching", 1),
        ("job", 1),  # channels removed, judged
        ("recovery", 2),
        ("job", 1),  # compensated, judged
        ("job", 2),  # fine-tuned, with a teacher
        ("job", 1),  # judged
    ]


def test_fewer_bits_are_decided_there(user: User, tmp_path: Path, asked: list[tuple[str, int]]) -> None:
    bits = "quantize={bits: [8, 4], shares: [0.5, 0.5], activations: 8, epochs: 0}"
    user.call(tmp_path / "run", "device=cuda", "plan.search=uniform", "recover=none", "fine_tune=null", bits)
    assert [stage for stage, _ in asked if stage == "few_bits"] == ["few_bits"] * 3  # scored, calibrated, judged


COMPARED = (
    "compare={criteria: [hrank], searches: [uniform, curves, greedy], budgets: [60%], seeds: [0], "
    "stages: [recalibrated, compensated, fine-tuned]}"
)


def test_a_comparison_reads_its_images_there(user: User, tmp_path: Path, asked: list[tuple[str, int]]) -> None:
    sections = ("plan={round_to: 2, delta: 0.3, worth: {images: 16}}", "score={}", "fine_tune={epochs: 1}")
    code, _, complained = user.command(tmp_path / "out", *sections, COMPARED, "device=cuda", name="compare")
    assert code == 0, complained
    judged, recovered = [("measuring", 1)], [("measuring", 1), ("measuring", 1), ("measuring", 2), ("measuring", 1)]
    of_a_plan = [("scoring", 1), *recovered, ("training", 1), *judged]
    trained = [("training", 1)]
    assert asked == [
        *trained,
        *judged,
        ("scoring", 1),
        *of_a_plan,
        ("scoring", 1),
        *of_a_plan,
        ("scoring", 1),
        *of_a_plan,
    ]


@pytest.mark.filterwarnings("ignore::secateur.errors.SecateurWarning")  # few images, tiny network
@pytest.mark.parametrize("name", ["rank-stability", "di-stability"])
def test_the_stability_of_scores_is_that_of_scores_made_there(
    user: User, tmp_path: Path, asked: list[tuple[str, int]], name: str
) -> None:
    settings = ("--set", "device=cuda", "--set", "train=null")
    code, _, complained = give(
        "figure", name, str(user.config), "--output", str(tmp_path / "out"), "--smoke", *settings
    )
    assert code == 0, complained
    assert {stage for stage, _ in asked} == {"stability"}


def test_a_trial_of_nni_that_judges_a_candidate_does_so_there(
    user: User, tmp_path: Path, asked: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = user.config.read_text(encoding="utf-8").replace("search: uniform", "search: greedy")
    config = user.folder / "there.yaml"
    config.write_text(f"{sections}output: {tmp_path / 'run'}\ndevice: cuda\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"dense\.safetensors is not on this machine"):
        nni_search.worth_of_run(str(config))
    user.call(tmp_path / "run", "device=cuda", "plan.search=greedy", search="greedy")
    asked.clear()
    nni_search.worth_of_run(str(config))
    assert asked == [("nni_search", 1)]


def test_a_trial_of_nni_that_is_a_run_judges_its_end_there(
    user: User, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    tuned_run({}, lambda _: None, config=user.config, output=tmp_path / "run", changes=["device=cuda"])
    assert asked[-1] == ("tuning_trial", 1)


def test_a_trial_of_nni_refuses_a_device_that_is_not_there(user: User, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    text = user.config.read_text(encoding="utf-8").replace("search: uniform", "search: greedy")
    config = user.folder / "there.yaml"
    config.write_text(f"{text}output: {tmp_path / 'run'}\ndevice: cuda\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="device: cuda: torch finds no CUDA device here"):
        nni_search.worth_of_run(str(config))


def test_models_come_back_also_after_an_error() -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError), placed("cpu", net, None):
        raise ZeroDivisionError
    assert device_of(net).type == "cpu"


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("search", ["curves", "greedy"])
def test_a_run_on_cuda(user: User, tmp_path: Path, search: str) -> None:
    extra = (f"plan.search={search}", "fine_tune.distillation=0.5")
    report = user.call(tmp_path / "run", "device=cuda", *extra, search=search)  # type: ignore[arg-type]  # one of both
    assert report["config"]["device"] == "cuda"
    assert report["onnx"]["parity"]["passed"]
    assert load_plan(tmp_path / "run").cost_after > 0
