"""The main job from end to end: what it leaves, in every form that it can be asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from runs_for_tests import RESULTS, User, contents, results
from secateur.checkpoint import load_pruned
from secateur.networks import digits_resnet
from secateur_cli.stages import pipeline, planning, recovery
from secateur_onnx import comparison, read_metadata

KEYS = {
    "accuracy", "config", "cost", "created", "data", "fine_tuning", "format", "machine", "network", "onnx", "plan",
    "recovery", "scores", "seconds", "smoke", "training", "verification", "versions",
}  # fmt: skip
FILES = {*RESULTS, "run.json", "dense.onnx", "model.onnx"}


def stages(report: dict[str, Any]) -> list[str]:
    return [entry["stage"] for entry in report["accuracy"]]


def test_a_run_leaves_everything(finished: tuple[Path, dict[str, Any]]) -> None:
    output, report = finished
    assert set(contents(output)) == FILES
    assert set(report) == KEYS
    assert stages(report) == ["dense", "channels removed", "compensated", "fine-tuned"]
    assert report["plan"]["after"] <= report["plan"]["budget"] == 0.5 * report["plan"]["before"]
    assert report["cost"]["macs"] == {"before": report["plan"]["before"], "after": report["plan"]["after"]}
    theirs = report["cost"]["torch_pruning_macs"]  # which counts activations too
    assert theirs["before"] > report["plan"]["before"]
    assert theirs["after"] > report["plan"]["after"]
    assert [entry["images"] for entry in report["accuracy"]] == [48] * 4
    assert report["onnx"]["parity"]["passed"]
    assert report["onnx"]["parity"]["samples"] == 48
    about = read_metadata(output / "model.onnx")
    assert (about["plan"], about["criterion"], about["search"]) == (report["plan"]["fingerprint"], "hrank", "uniform")
    assert "variant" not in about
    assert about["budget"]["macs"] == {key: report["plan"][key] for key in ("before", "after", "budget")}
    json.dumps(report, allow_nan=False)


def test_the_network_comes_back_in_a_fresh_process_and_is_the_onnx_file(
    user: User, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    output, report = finished
    inputs = torch.randn(5, 1, 8, 8)
    save_file({"inputs": inputs}, tmp_path / "inputs.safetensors")
    code = (
        "import sys, torch, secateur; from safetensors.torch import load_file, save_file; "
        "from secateur_user_networks import Small; net = secateur.load_pruned(Small, sys.argv[1]); "
        "outputs = net(load_file('inputs.safetensors')['inputs']).detach(); "
        "save_file({'outputs': outputs, 'width': torch.tensor(net.second.out_channels)}, 'outputs.safetensors')"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(output)], cwd=tmp_path, check=True, env={"PYTHONPATH": str(user.folder)}
    )
    found = load_file(tmp_path / "outputs.safetensors")
    kept = {group["name"]: group["kept"] for group in report["plan"]["groups"]}
    assert int(found["width"]) == kept["second"] < 16
    session = onnxruntime.InferenceSession(str(output / "model.onnx"), providers=["CPUExecutionProvider"])
    onnx = session.run(None, {"input": inputs.numpy()})[0]
    assert np.allclose(onnx, found["outputs"].numpy(), atol=1e-5)


def test_the_command_writes_a_report_and_ends_in_a_table_of_80_columns(user: User, tmp_path: Path) -> None:
    code, said, complained = user.command(tmp_path / "run")
    assert (code, complained) == (0, "")
    assert set(contents(tmp_path / "run")) == FILES | {"report.json", "report.html"}
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert set(report) == KEYS | {"command"}
    assert "\x1b" not in said
    table = said[said.index("uniform plan " + report["plan"]["fingerprint"]) :].splitlines()
    assert max(map(len, table)) <= 80
    assert any(line.split()[:2] == ["batch", "1"] and ", " in line and " to " in line for line in table)
    memory = next(line for line in table if line.startswith(" memory, batch 1"))
    assert memory.count(" MB") == 2
    assert memory.rstrip().endswith("%")
    assert "same class for" in next(line for line in said.splitlines() if "against torch" in line)  # not wrapped


def test_a_finished_run_is_not_repeated(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "run"
    user.command(output)
    before, report = contents(output), json.loads((output / "report.json").read_text())
    (output / "report.json").unlink()
    for module, name in ((planning, "scores_by_name"), (planning, "search_to_latency"), (pipeline, "save_pruned")):
        monkeypatch.delattr(module, name)
    monkeypatch.delattr(pipeline, "verify_pruning")
    monkeypatch.delattr(recovery, "compensate")
    for name in ("export", "benchmark", "check_parity"):
        monkeypatch.delattr(pipeline.secateur_onnx, name)
    code, said, _ = user.command(output)
    assert code == 0
    assert "continuing the run" in said
    after = contents(output)
    assert {n for n in before if before[n] != after[n]} <= {"report.json", "report.html"}
    again = json.loads((output / "report.json").read_text())
    assert "the report names the software that the run was begun with" not in said
    for key in KEYS:
        assert again[key] == report[key], key


def test_a_finished_run_that_is_given_again_reports_what_it_was_made_by(
    user: User, finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, report = shutil.copytree(finished[0], tmp_path / "run"), finished[1]
    later = {**report["versions"], "torch": "99.0", "onnx": "98.0"}
    monkeypatch.setattr(pipeline, "versions", lambda: later)
    monkeypatch.delattr(pipeline.secateur_onnx, "describe_machine")
    code, said, complained = user.command(output)
    assert (code, complained) == (0, "")
    again = json.loads((output / "report.json").read_text())
    assert {key: again[key] for key in ("created", "versions", "machine")} == {
        key: report[key] for key in ("created", "versions", "machine")
    }
    before = report["versions"]
    line = next(line for line in said.splitlines() if "the software that the run was begun with" in line)
    assert line.endswith(f": torch {before['torch']}, now 99.0; onnx {before['onnx']}, now 98.0")


def test_both_searches_in_one_command(user: User, tmp_path: Path) -> None:
    code, said, _ = user.command(tmp_path, "plan.search=[uniform, greedy]")
    assert code == 0
    reports = {name: json.loads((tmp_path / name / "report.json").read_text()) for name in ("uniform", "greedy")}
    assert "search" not in reports["uniform"]
    assert reports["greedy"]["search"]["steps"]
    assert [r["plan"]["search"] for r in reports.values()] == ["uniform", "greedy"]
    assert f"uniform plan {reports['uniform']['plan']['fingerprint']}" in said
    assert f"greedy plan {reports['greedy']['plan']['fingerprint']}" in said
    same = "stages/dense.safetensors"
    assert results(tmp_path / "uniform")[same] == results(tmp_path / "greedy")[same]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("fine_tune=null",), ["dense", "channels removed", "compensated"]),
        (("recover=recalibrate",), ["dense", "channels removed", "batch norm recalibrated", "fine-tuned"]),
        (("recover=none",), ["dense", "channels removed", "fine-tuned"]),
        (("fine_tune=null", "recover=none", "score.criterion=di"), ["dense", "channels removed"]),
    ],
)
def test_steps_that_are_left_out(user: User, tmp_path: Path, settings: tuple[str, ...], expected: list[str]) -> None:
    code, said, complained = user.command(tmp_path / "run", *settings)
    assert (code, complained) == (0, "")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert stages(report) == expected
    rows = [line.strip() for line in said[said.index("top-1, held out") :].splitlines()]
    assert [next(s for s in expected if row.startswith(s)) for row in rows[1 : len(expected)]] == expected[1:]
    assert ("recovery" in report) == ("recover=none" not in settings)
    assert ("fine_tuning" in report) == ("fine-tuned" in expected)
    assert report["scores"]["criterion"] == ("di" if len(settings) == 3 else "hrank")


def test_weights_in_half_precision_are_read_into_the_network_s_own(
    user: User, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    dense = load_file(finished[0] / "stages" / "dense.safetensors")
    halves = {name: t.half() if t.is_floating_point() else t for name, t in dense.items()}
    save_file(halves, tmp_path / "half.safetensors")
    code, _, complained = user.command(
        tmp_path / "run", "train=null", f"network.weights={tmp_path / 'half.safetensors'}", "fine_tune=null"
    )
    assert (code, complained) == (0, "")
    assert load_file(tmp_path / "run" / "model.safetensors")["head.weight"].dtype == torch.float32
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["accuracy"][0] == finished[1]["accuracy"][0]


def test_the_digits_example_in_seconds(tmp_path: Path) -> None:
    config = Path(__file__).parents[2] / "examples" / "digits.yaml"
    code, said, complained = User(config.parent).command(tmp_path / "smoke", flags=("--smoke",), config=config)
    assert (code, complained) == (0, "")
    assert said.splitlines()[-1] == "a smoke run: accuracy and speed mean nothing here"
    assert json.loads((tmp_path / "smoke" / "report.json").read_text())["smoke"] is True
    load_pruned(digits_resnet, tmp_path / "smoke")


def test_a_run_on_a_busy_machine_ends_with_a_caution(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "UNSTEADY", 0.0)
    settings = ("fine_tune=null", "onnx={batch_sizes: [1, 2], seconds: 0.05}")
    code, said, _ = user.command(tmp_path / "run", *settings)
    assert code == 0
    assert [line.partition(": the times of the ")[0] for line in said.splitlines()[-2:]] == ["batch 1", "batch 2"]
    _, smoked, _ = user.command(tmp_path / "smoke", *settings, flags=("--smoke",))
    assert "a busy machine" not in smoked


def test_scores_at_random_are_drawn_by_the_seed_of_the_run(user: User, tmp_path: Path) -> None:
    settings = ("score.criterion=random", "seed=5", "fine_tune=null")
    assert user.call(tmp_path / "own", *settings)["scores"]["settings"]["options"] == {"seed": 5}
    said = user.call(tmp_path / "said", *settings, "score.options={seed: 2}")
    assert said["scores"]["settings"]["options"] == {"seed": 2}
