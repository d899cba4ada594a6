"""The examples: every script and every configuration runs as its first lines say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from guides_for_tests import ROOT
from images_for_tests import folder_of_images
from secateur import load_plan, load_pruned
from secateur.networks import digits_resnet
from secateur_cli.comparison.schema import CompareRun
from secateur_cli.settings.config import load_config
from started_for_tests import run

EXAMPLES = ROOT / "examples"
CONFIGS = sorted(EXAMPLES.glob("*.yaml"))
PERCENT = r"\d+\.\d%"
PLANNED = r"plan [0-9a-f]{16}, 5\d\.\d% of the MACs, accuracy \d+\.\d\d% -> \d+\.\d\d%"


def on_cifar10(folder: Path) -> list[str]:
    """Settings that point a configuration to the trained ResNet-56 and the images of a folder."""
    files = {
        "network.weights": folder / "models/resnet56-cifar10-jpeg.safetensors",
        "data.train": folder / "data/cifar10-jpeg-train.tar.gz",
        "data.test": folder / "data/cifar10-jpeg-val.tar.gz",
    }
    return [word for key, path in files.items() for word in ("--set", f"{key}={path}")]


def run_config(name: str, *arguments: str | Path, folder: Path) -> str:
    return run("-m", "secateur_cli", "run", EXAMPLES / name, "--smoke", *arguments, folder=folder)


def test_no_script_is_left_untested() -> None:
    assert [path.name for path in sorted(EXAMPLES.glob("*.py"))] == [
        "01_prune_and_deploy.py",
        "02_torch_pruning.py",
        "03_score_on_several_processes.py",
        "04_deploy.py",
    ]
    assert [path.name for path in sorted((EXAMPLES / "nni").glob("*.py"))] == [
        "01_pruners.py",
        "02_experiment.py",
    ]


@pytest.mark.parametrize("name", ["03_score_on_several_processes.py", "nni/01_pruners.py", "nni/02_experiment.py"])
def test_scripts_say_what_they_take(name: str, tmp_path: Path) -> None:
    """Those of which each run shows no more than that everything is there that they import; thorough runs do more."""
    assert "--smoke" in run(EXAMPLES / name, "--help", folder=tmp_path)


def test_prune_and_deploy(tmp_path: Path) -> None:
    printed = run(EXAMPLES / "01_prune_and_deploy.py", "--smoke", "--output", tmp_path / "out", folder=tmp_path)
    for line in (
        rf"dense +{PERCENT} of 400 held-out images",
        rf"channels removed +{PERCENT} of 400",
        rf"compensated +{PERCENT} of 400",
        rf"fine-tuned +{PERCENT} of 400",
        r"MACs +16\.40 M -> [1-8]\.\d\d M",
        rf"ONNX Runtime vs\. torch +largest difference \d\.\de-\d\d, same class {PERCENT}",
        r"speed at batch 1 .*95% interval \d+\.\d+ to \d+\.\d+",
        r"speed at batch 32 .*95% interval",
    ):
        assert re.search(f"^{line}", printed, re.MULTILINE), f"{line!r} is not in\n{printed}"
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"dense.onnx", "model.onnx", "model.safetensors", "plan.json"}
    plan, network = load_plan(tmp_path / "out"), load_pruned(digits_resnet, tmp_path / "out")
    assert network.get_submodule("layer3.1.conv1").out_channels == plan.widths["layer3.1.conv1"] < 96
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_torch_pruning(tmp_path: Path) -> None:
    printed = run(EXAMPLES / "02_torch_pruning.py", "--smoke", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    hrank, di = printed.split("DIImportance")
    assert hrank.startswith("HRankImportance")
    for part in (hrank, di):
        assert re.findall(r"(\d+\.\d\d) M MACs", part) == ["16.47", "11.45", "7.34", "4.14"]
        last = part.strip().splitlines()[-1]
        assert last.endswith(f"widths {[24] * 3 + [48] * 8}")


@pytest.mark.thorough
def test_nni_pruners(tmp_path: Path) -> None:
    printed = run(EXAMPLES / "nni" / "01_pruners.py", "--smoke", folder=tmp_path)
    assert re.search(rf"^dense +515 k parameters, +{PERCENT} right$", printed, re.MULTILINE), printed
    for name in ("HRankPruner", "AGPPruner of DIPruner", "BudgetPruner"):
        line = re.search(rf"^{name} +(\d+) k parameters, .* masked and removed differ by (\S+)$", printed, re.MULTILINE)
        assert line, printed
        assert int(line[1]) < 515
        assert float(line[2]) < 1e-5
    share = re.search(r"^  (\d\d\.\d)% of the MACs in \d+ steps", printed, re.MULTILINE)
    assert share, printed
    assert float(share[1]) <= 50


def nni_folder(tmp_path: Path) -> Path:
    """Return a copy of examples/nni, so that nothing is written beside it."""
    return Path(
        shutil.copytree(EXAMPLES / "nni", tmp_path / "nni", ignore=shutil.ignore_patterns("runs", "__pycache__"))
    )


@pytest.mark.nni
@pytest.mark.thorough
def test_nni_experiment_from_python(tmp_path: Path) -> None:
    folder = nni_folder(tmp_path)
    printed = run(folder / "02_experiment.py", "--smoke", folder=tmp_path)
    assert re.search(r"^NNI's web page: http://localhost:\d+$", printed, re.MULTILINE), printed
    assert re.search(r"^trial \d+: \w+, {'default': [01]\.\d+, 'worth': [01]\.\d+}$", printed, re.MULTILINE), printed


@pytest.mark.nni
@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_nni_greedy_search_is_that_of_one_process(tmp_path: Path) -> None:
    folder = nni_folder(tmp_path)
    start = "from secateur_cli.main import app; app()"
    command = [sys.executable, "-c", start]
    for arguments in (["nni", "run", "greedy.yml"], ["search", "digits_run.yaml", "--output", "runs/here"]):
        subprocess.run([*command, *arguments], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    assert load_plan(folder / "runs/nni-greedy").to_json() == load_plan(folder / "runs/here").to_json()


def test_nni_configurations_load() -> None:
    from secateur_nni.experiments.setting import greedy_arguments, load_experiment

    loaded = {}
    for path in sorted((EXAMPLES / "nni").glob("*.yml")):
        if path.name in ("greedy_tuner.yml", "remote.yml"):  # no experiment; names a key that is not on this machine
            continue
        loaded[path.name] = greedy_arguments(load_experiment(path))
    assert [name for name, greedy in loaded.items() if greedy] == [
        "greedy.yml",
        "kubernetes.yml",
        "resnet56_greedy.yml",
    ]
    assert loaded["tuning.yml"] is None
    for path in (EXAMPLES / "nni").glob("*.yaml"):
        assert load_config(path).plan.search == ("greedy",)


@pytest.mark.thorough
def test_score_in_one_process(tmp_path: Path) -> None:
    printed = run(EXAMPLES / "03_score_on_several_processes.py", "--smoke", folder=tmp_path)
    assert re.fullmatch(rf"process 0 of 1 holds 600 images, 500 are scored by all; {PLANNED}\n", printed), printed


@pytest.mark.thorough
def test_score_on_several_processes(tmp_path: Path) -> None:
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    printed = run(*start, EXAMPLES / "03_score_on_several_processes.py", "--smoke", folder=tmp_path)
    lines = sorted(line for line in printed.splitlines() if line.startswith("process"))
    assert len(lines) == 2, printed
    held = "process {} of 2 holds 300 images, 500 are scored by all; "
    found = [line.removeprefix(held.format(rank)) for rank, line in enumerate(lines)]
    assert found[0] == found[1]
    assert re.fullmatch(PLANNED, found[0]), printed


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_load(path: Path) -> None:
    config = load_config(path)
    assert config.plan.budget.macs == "50%"
    assert f"secateur run examples/{path.name}" in path.read_text(encoding="utf-8").replace(" \\\n#", "")


@pytest.mark.thorough
def test_resnet56_on_cifar10(few_images: Path, tmp_path: Path) -> None:
    run_config("cifar10_resnet56.yaml", *on_cifar10(few_images), "--output", tmp_path / "out", folder=tmp_path)
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    inner = {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(9)}
    assert inner <= {group["name"] for group in report["plan"]["groups"]}
    macs = report["cost"]["macs"]
    assert macs["after"] <= 0.5 * macs["before"]
    stages = [fact["stage"] for fact in report["accuracy"]]
    assert stages == ["dense", "channels removed", "compensated", "fine-tuned"]
    assert report["accuracy"][0]["accuracy"] > 0.8, "the trained weights were not used"
    assert report["onnx"]["parity"]["passed"]
    assert report["onnx"]["parity"]["top1_agreement"] == 1.0
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


COMPARISONS = sorted((EXAMPLES / "compare").glob("*.yaml"))


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparisons_load(path: Path) -> None:
    config = load_config(path, kind=CompareRun)
    assert {contender.house for contender in config.compare.criteria} == {"secateur", "Torch-Pruning", "NNI"}
    assert len(config.compare.seeds) == 3
    assert f"secateur compare examples/compare/{path.name}" in path.read_text(encoding="utf-8")


def run_comparison(name: str, *arguments: str | Path, folder: Path) -> tuple[str, Any]:
    """Compare in smoke mode; return what was printed and the cells."""
    words = ("-m", "secateur_cli", "compare", EXAMPLES / "compare" / name, "--smoke", *arguments)
    printed = run(*words, "--output", folder / "out", folder=folder)
    assert (folder / "out" / "comparison.html").stat().st_size > 10_000
    assert len((folder / "out" / "comparison.csv").read_text(encoding="utf-8").splitlines()) == 4
    return printed, json.loads((folder / "out" / "comparison.json").read_text(encoding="utf-8"))["cells"]


@pytest.mark.thorough
def test_digits_compared(tmp_path: Path) -> None:
    printed, cells = run_comparison("digits.yaml", "--set", "compare.searches=curves", folder=tmp_path)
    assert [cell["house"] for cell in cells] == ["secateur", "Torch-Pruning", "NNI"]
    assert all(cell["not_measured"] is None for cell in cells)
    assert "a smoke run: accuracy and speed mean nothing here" in printed


@pytest.mark.thorough
def test_resnet56_compared(few_images: Path, tmp_path: Path) -> None:
    settings = ("--set", "compare.stages=cut", *on_cifar10(few_images))
    printed, cells = run_comparison("resnet56.yaml", *settings, folder=tmp_path)
    assert all(cell["not_measured"] is None and 0.4 < cell["macs"] / 125.49e6 <= 0.5 for cell in cells)
    share = re.search(r"^dense: (\d+\.\d)% of the held-out images right$", printed, re.MULTILINE)
    assert share is not None
    assert float(share[1]) > 80, "the trained weights were not used"


@pytest.mark.thorough
def test_resnet18_on_a_folder_of_images(tmp_path: Path) -> None:
    printed = run_config(
        "torchvision_resnet18.yaml",
        "--set",
        f"data.train={folder_of_images(tmp_path / 'train', each=40, seed=0)}",
        "--set",
        f"data.test={folder_of_images(tmp_path / 'val', each=8, seed=1)}",
        "--set",
        "data.image_size=32",
        "--set",
        "network.arguments.num_classes=2",
        "--set",
        "plan.search=uniform",  # error curves of layers with 4,608 inputs take a minute
        "--output",
        tmp_path / "out",
        folder=tmp_path,
    )
    assert "16 held-out images right" in printed
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert report["cost"]["macs"]["after"] <= 0.5 * report["cost"]["macs"]["before"]
    assert report["onnx"]["parity"]["passed"]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"model.onnx", "plan.json", "report.html"}
