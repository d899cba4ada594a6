"""The examples: every script and every configuration runs as its first lines say."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from images_for_tests import folder_of_few_images, folder_of_images
from secateur import WeightImportance, apply_plan, load_plan, load_pruned, prune, recalibrate_batch_norm
from secateur.networks import digits_resnet
from secateur_cli.comparison.schema import CompareRun
from secateur_cli.settings.config import load_config
from secateur_onnx import export, plan_metadata
from started_for_tests import Started

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONFIGS = sorted(EXAMPLES.glob("*.yaml"))
ELSEWHERE = {"onnx_networks.py", "tap_overhead.py"}  # the second in tests/feature_maps
SMOKED = sorted(path for path in (EXAMPLES / "benchmarks").glob("[!_]*.py") if path.name not in ELSEWHERE)
PERCENT = r"\d+\.\d%"


@pytest.fixture(scope="module")
def few_images(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_few_images(tmp_path_factory.mktemp("few"), shared)


def on_cifar10(folder: Path) -> list[str]:
    """Settings that point a configuration to the trained ResNet-56 and the images of a folder."""
    files = {
        "network.weights": folder / "models/resnet56-cifar10-jpeg.safetensors",
        "data.train": folder / "data/cifar10-jpeg-train.tar.gz",
        "data.test": folder / "data/cifar10-jpeg-val.tar.gz",
    }
    return [word for key, path in files.items() for word in ("--set", f"{key}={path}")]


def run(*command: str | Path, folder: Path) -> str:
    """Run a script, or a module after `-m`, in an empty folder, on one thread, and return what it prints."""
    code, printed, complained = Started(
        *command, folder=folder, output=folder.with_name(f"{folder.name}-printed")
    ).wait()
    assert code == 0, printed + complained
    return printed


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
@pytest.mark.nni_long
def test_nni_experiment_from_python(tmp_path: Path) -> None:
    folder = nni_folder(tmp_path)
    printed = run(folder / "02_experiment.py", "--smoke", folder=tmp_path)
    assert re.search(r"^NNI's web page: http://localhost:\d+$", printed, re.MULTILINE), printed
    assert re.search(r"^trial 0: \w+, {'default': [01]\.\d+, 'worth': [01]\.\d+}$", printed, re.MULTILINE), printed


@pytest.mark.nni
@pytest.mark.nni_long
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


def test_score_on_several_processes(tmp_path: Path) -> None:
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    printed = run(*start, EXAMPLES / "03_score_on_several_processes.py", "--smoke", folder=tmp_path)
    lines = sorted(line for line in printed.splitlines() if line.startswith("process"))
    assert len(lines) == 2, printed
    held = "process {} of 2 holds 300 images, 500 are scored by all; "
    found = [line.removeprefix(held.format(rank)) for rank, line in enumerate(lines)]
    assert found[0] == found[1]
    assert re.fullmatch(r"plan [0-9a-f]{16}, 5\d\.\d% of the MACs, accuracy \d+\.\d\d% -> \d+\.\d\d%", found[0]), (
        printed
    )


@pytest.mark.slow
def test_networks_of_several_kinds_as_onnx(tmp_path: Path) -> None:
    """Shuffles, concatenations and pre-activation; the script itself asserts that the files are right."""
    names = ("squeezenet1_0", "shufflenet_thin", "cifar_densenet16")
    printed = run(EXAMPLES / "benchmarks/onnx_networks.py", "--networks", *names, folder=tmp_path)
    rows = [line.split()[:3] for line in printed.splitlines()[1:]]
    assert rows == [[n, side, kind] for n in names for side in ("dense", "pruned") for kind in ("float32", "float16")]


NO_TORCH = "import runpy, sys; sys.modules['torch'] = None; sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], \
run_name='__main__')"


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pruned network as an ONNX file, images as a camera gives them, and what torch says to them."""
    folder = tmp_path_factory.mktemp("deployed")
    torch.manual_seed(0)
    network = digits_resnet().eval()
    pixels = np.random.default_rng(0).integers(0, 17, (50, 8, 8)).astype(np.uint8)
    images = torch.from_numpy(pixels).float()[:, None] / 16
    plan = prune(network, images[:4], WeightImportance("l1")).plan
    pruned = apply_plan(network, plan)
    recalibrate_batch_norm(pruned, [images])
    export(pruned, images, folder / "model.onnx", metadata=plan_metadata(plan))
    export(pruned.half(), images, folder / "half.onnx", metadata={"note": "{half"})
    with torch.no_grad():
        np.save(folder / "labels.npy", pruned.float()(images).argmax(1).numpy())
    np.save(folder / "images.npy", pixels)
    (folder / "plan.txt").write_text(plan.fingerprint, encoding="utf-8")
    return folder


def deploy(folder: Path, *changes: str, model: str = "model.onnx", images: str = "images.npy") -> tuple[int, str, str]:
    """Run the deployment in a process in which torch cannot be imported."""
    command = [sys.executable, "-c", NO_TORCH, EXAMPLES / "04_deploy.py", model, images, "--divide", "16", *changes]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("model", "right"), [("model.onnx", 100.0), ("half.onnx", 94.0)])
def test_deployment_needs_no_torch(deployed: Path, model: str, right: float) -> None:
    code, printed, complained = deploy(deployed, "--labels", "labels.npy", "--batch", "16", model=model)
    assert (code, complained) == (0, "")
    assert re.search(r"^images +50 in \d+\.\d+ s on CPUExecutionProvider$", printed, re.MULTILINE)
    assert re.search(r"^versions +secateur \d.*; torch \d", printed, re.MULTILINE)
    if model == "model.onnx":
        assert f"plan        {(deployed / 'plan.txt').read_text()}\n" in printed
        assert re.search(r"^budget +parameters before [\d,]+, after [\d,]+$", printed, re.MULTILINE)
    else:
        assert "note        {half\n" in printed
    share = re.search(r"^top-1 +(\d+\.\d)% of 50 images$", printed, re.MULTILINE)
    assert share is not None
    assert float(share[1]) >= right


def test_deployment_is_timed_after_a_run_that_does_not_count(
    deployed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("deploy", EXAMPLES / "04_deploy.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    events, session_run = list[str](), module.run

    def noted(session: Any, images: Any, batch: int) -> Any:
        events.append(f"{len(images)} images")
        return session_run(session, images, batch)

    monkeypatch.setattr(module, "run", noted)
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(events.append("clock") or 0))
    command = ["04_deploy.py", str(deployed / "model.onnx"), str(deployed / "images.npy"), "--divide", "16"]
    monkeypatch.setattr(sys, "argv", command)
    module.main()
    assert events == ["32 images", "clock", "50 images", "clock"]
    assert "50 in 0.000 s on CPUExecutionProvider" in capsys.readouterr().out


@pytest.mark.parametrize("wide", [False, True])
def test_deployment_gives_sums_of_8_bit_products_room(deployed: Path, wide: bool) -> None:
    session = runpy.run_path(str(EXAMPLES / "04_deploy.py"))["opened"](deployed / "model.onnx", "cpu", wide_sums=wide)
    options = session.get_session_options()
    with contextlib.nullcontext() if wide else pytest.raises(RuntimeError, match="does not have"):
        assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_deployment_tells_costs_with_their_digits() -> None:
    said = runpy.run_path(str(EXAMPLES / "04_deploy.py"))["said"]
    assert said('{"latency": {"before": 0.4812, "after": 0.29, "budget": 0.2887}}') == (
        "latency before 0.481, after 0.29, budget 0.289"
    )
    assert said('{"macs": {"before": 125485696.0}}') == "macs before 125,485,696"
    assert said('{"data": {"name": "digits", "split": null, "images": 1797}}') == (
        "data name digits, split None, images 1,797"
    )


def test_deployment_imports_neither_torch_nor_secateur() -> None:
    named = re.findall(r"^(?:import|from) (\w+)", (EXAMPLES / "04_deploy.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"numpy", "onnxruntime"} == set(named) - sys.stdlib_module_names


def test_deployment_says_what_is_wrong(deployed: Path) -> None:
    (deployed / "truncated.onnx").write_bytes((deployed / "model.onnx").read_bytes()[:900])
    np.save(deployed / "large.npy", np.zeros((2, 9, 9)))
    np.save(deployed / "flat.npy", np.zeros(7))
    np.save(deployed / "pickled.npy", np.array([{}]), allow_pickle=True)
    (deployed / "empty.npy").touch()
    np.savez(deployed / "several.npz", images=np.zeros((2, 8, 8)), labels=np.zeros(2))
    export(torch.nn.Flatten().double(), torch.zeros(2, 1, 8, 8, dtype=torch.float64), deployed / "double.onnx")
    for arguments, options, message in (
        ((), {"images": "missing.npy"}, "error: missing.npy cannot be read: .*No such file"),
        ((), {"images": "pickled.npy"}, "error: pickled.npy cannot be read: .*allow_pickle"),
        ((), {"images": "empty.npy"}, "error: empty.npy cannot be read"),
        ((), {"images": "several.npz"}, "several.npz holds several arrays, images, labels; save one"),
        (("--labels", "missing.npy"), {}, "error: missing.npy cannot be read"),
        ((), {"model": "double.onnx"}, r"one input in float32 or float16; found tensor\(double\)$"),
        ((), {"model": "truncated.onnx"}, "error: truncated.onnx does not run on CPUExecutionProvider"),
        ((), {"images": "large.npy"}, r"exported for images \[1, 8, 8\]; found \[1, 9, 9\]"),
        ((), {"images": "flat.npy"}, r"images must be .* found \(7,\)"),
        (("--labels", "flat.npy"), {}, "50 images need as many labels"),
        (("--mean", "1", "2"), {}, "take 1 number or 1"),
        (("--batch", "0"), {}, "--batch must be at least 1"),
        (("--provider", "cudo"), {}, "invalid choice: 'cudo'"),
    ):
        code, _, complained = deploy(deployed, *arguments, **options)
        assert code != 0, arguments
        assert re.search(message, complained), complained
        assert "Traceback" not in complained


def test_deployment_never_falls_back_to_the_cpu(deployed: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    code, printed, complained = deploy(deployed, "--provider", "cuda")
    assert (code, printed) == (1, "")
    assert "this onnxruntime has no CUDAExecutionProvider; it has " in complained


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_load(path: Path) -> None:
    config = load_config(path)
    assert config.plan.budget.macs == "50%"
    assert f"secateur run examples/{path.name}" in path.read_text(encoding="utf-8").replace(" \\\n#", "")


@pytest.mark.slow
def test_resnet56_on_cifar10(shared: Path, tmp_path: Path) -> None:
    run_config("cifar10_resnet56.yaml", *on_cifar10(shared), "--output", tmp_path / "out", folder=tmp_path)
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


def test_digits_compared(tmp_path: Path) -> None:
    printed, cells = run_comparison("digits.yaml", "--set", "compare.searches=curves", folder=tmp_path)
    assert [cell["house"] for cell in cells] == ["secateur", "Torch-Pruning", "NNI"]
    assert all(cell["not_measured"] is None for cell in cells)
    assert "a smoke run: accuracy and speed mean nothing here" in printed


@pytest.mark.slow
def test_resnet56_compared(few_images: Path, tmp_path: Path) -> None:
    settings = ("--set", "compare.stages=cut", *on_cifar10(few_images))
    printed, cells = run_comparison("resnet56.yaml", *settings, folder=tmp_path)
    assert all(cell["not_measured"] is None and 0.4 < cell["macs"] / 125.49e6 <= 0.5 for cell in cells)
    share = re.search(r"^dense: (\d+\.\d)% of the held-out images right$", printed, re.MULTILINE)
    assert share is not None
    assert float(share[1]) > 80, "the trained weights were not used"


@pytest.mark.slow
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


@pytest.mark.parametrize("path", SMOKED, ids=lambda path: path.stem)
def test_benchmarks_print_both_sides(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A smoke run asserts no bound: it shows that the script still measures what it says. Two have their own tests."""
    text = path.read_text(encoding="utf-8")
    trained, threaded = (re.search(f"{option}|_trained_resnet56", text) for option in ("--shared", "--threads"))
    networks = ("--shared", request.getfixturevalue("few_images")) if trained else ()
    threads = ("--threads", "1") if threaded else ()
    printed = run(path, "--smoke", *threads, *networks, folder=tmp_path)
    assert re.search(r"forward pass|bare|dense|literally", printed)
    assert re.search(r"\d+\.\d+", printed)
