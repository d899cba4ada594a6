"""The deployment by itself: a script without torch runs a pruned network, and says what is wrong."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from guides_for_tests import ROOT
from secateur import WeightImportance, apply_plan, prune, recalibrate_batch_norm
from secateur.networks import digits_resnet
from secateur_onnx import export, plan_metadata, provider_assignment
from secateur_onnx.sessions import SHAPE_OPERATORS

SCRIPT = ROOT / "examples" / "04_deploy.py"

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
    command = [sys.executable, "-c", NO_TORCH, SCRIPT, model, images, "--divide", "16", *changes]
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
    spec = importlib.util.spec_from_file_location("deploy", SCRIPT)
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
    session = runpy.run_path(str(SCRIPT))["opened"](deployed / "model.onnx", "cpu", wide_sums=wide)
    options = session.get_session_options()
    with contextlib.nullcontext() if wide else pytest.raises(RuntimeError, match="does not have"):
        assert options.get_session_config_entry("session.x64quantprecision") == "1"


class OnCuda(onnxruntime.InferenceSession):  # type: ignore[misc]  # onnxruntime has no types
    """A session on the CPU that says it runs on CUDA, but for what CUDA leaves to the CPU."""

    left = ("Shape", "Shape")

    def __init__(self, path: Path, options: Any, **given: Any) -> None:
        assert given == {"providers": ["CUDAExecutionProvider"], "enable_fallback": 0}
        assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
        super().__init__(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        of_cuda = [
            SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=part.get_nodes)
            for part in super().get_provider_graph_assignment_info()
        ]
        rest = [SimpleNamespace(op_type=operator) for operator in self.left]
        return [*of_cuda, SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: rest)]


@pytest.mark.parametrize("left", [(), ("Shape", "Shape"), ("Shape", "Conv")])
def test_deployment_leaves_sizes_to_the_cpu_and_nothing_else(
    deployed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], left: tuple[str, ...]
) -> None:
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(OnCuda, "left", left)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", OnCuda)
    command = ["04_deploy.py", str(deployed / "model.onnx"), str(deployed / "images.npy"), "--provider", "cuda"]
    monkeypatch.setattr(sys, "argv", command)
    if "Conv" in left:
        with pytest.raises(SystemExit, match=r"does not run on CUDAExecutionProvider: Conv would run on the CPU"):
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr().out
    assert ("on the CPU" in printed) == ("on the CPU  Shape 2\n" in printed) == bool(left)
    assert re.search(r"^images +50 in .* on CUDAExecutionProvider$", printed, re.MULTILINE)


def test_what_a_session_leaves_to_the_cpu_is_what_secateur_says(deployed: Path) -> None:
    script = runpy.run_path(str(SCRIPT))
    session = script["opened"](deployed / "model.onnx", "cpu", wide_sums=False)
    assert script["on_cpu"](session) == provider_assignment(session)["CPUExecutionProvider"]
    assert script["on_cpu"](object()) == {}
    assert script["SIZES"] == SHAPE_OPERATORS


def test_deployment_tells_costs_with_their_digits() -> None:
    said = runpy.run_path(str(SCRIPT))["said"]
    assert said('{"latency": {"before": 0.4812, "after": 0.29, "budget": 0.2887}}') == (
        "latency before 0.481, after 0.29, budget 0.289"
    )
    assert said('{"macs": {"before": 125485696.0}}') == "macs before 125,485,696"
    assert said('{"data": {"name": "digits", "split": null, "images": 1797}}') == (
        "data name digits, split None, images 1,797"
    )


def test_deployment_imports_neither_torch_nor_secateur() -> None:
    named = re.findall(r"^(?:import|from) (\w+)", (SCRIPT).read_text(encoding="utf-8"), re.MULTILINE)
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
