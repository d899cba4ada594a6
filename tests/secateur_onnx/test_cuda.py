"""On an NVIDIA device: parity, every node on CUDA, both ways of timing, device memory. Elsewhere they say why not."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

import secateur
from networks_for_tests import torchvision_network
from secateur.networks import resnet56
from secateur_onnx import (
    WholeRuns,
    benchmark,
    check_parity,
    create_session,
    export,
    latency_cost,
    peak_memory,
    provider_assignment,
)
from secateur_onnx.sessions import infer, input_spec

CUDA = "CUDAExecutionProvider"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet50": (lambda: torchvision_network("resnet50"), 64),
    "resnet56": (resnet56, 32),
}
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _device() -> None:
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("the installed onnxruntime has no CUDA: it takes onnxruntime-gpu and an NVIDIA device")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")


@pytest.mark.parametrize("name", NETWORKS)
def test_dense_and_pruned(tmp_path: Path, name: str) -> None:
    build, size = NETWORKS[name]
    network, images = build(), torch.randn(64, 3, size, size)
    secateur.recalibrate_batch_norm(network, [images])
    network.eval()
    result = secateur.prune(network, images[:2], secateur.WeightImportance("l1"), pruning_ratio=0.5)
    paths = {}
    for side, model in (("dense", network), ("pruned", result.model.eval())):
        paths[side] = export(model, images[:2], tmp_path / f"{side}.onnx").path
        on_device = copy.deepcopy(model).cuda()
        for reference in (model, on_device):
            assert check_parity(reference, paths[side], images.split(16), provider="cuda").require().provider == "cuda"
        assert list(provider_assignment(create_session(paths[side], provider="cuda"))) == [CUDA]
    timed = benchmark(paths["dense"], paths["pruned"], batch_sizes=(1, 64), rounds=6, seconds=0.5, provider="cuda")
    ways = [(n, measured) for n in (1, 64) for measured in ("end to end", "device bound")]
    assert [(c.batch_size, c.measured) for c in timed.comparisons] == ways
    assert list(timed.dense.assignment) == list(timed.pruned.assignment) == [CUDA]
    assert timed.machine.device == torch.cuda.get_device_name(0)
    assert all(peak for file in (timed.dense, timed.pruned) for peak in file.peak_bytes.values())


def test_half_precision(tmp_path: Path, network: nn.Sequential) -> None:
    half = network.half().cuda()
    path = export(half, torch.zeros(1, 3, 16, 16), tmp_path / "half.onnx").path
    check_parity(half, path, [torch.randn(8, 3, 16, 16)], provider="cuda").require()
    assert list(provider_assignment(create_session(path, provider="cuda"))) == [CUDA]


def test_the_cpu_is_no_way_out(tmp_path: Path) -> None:
    """What CUDA gives is what the CPU gives: the same file, within float32, and from the device."""
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    path = export(network, torch.zeros(1, 3, 32, 32), tmp_path / "plain.onnx").path
    images = torch.randn(4, 3, 32, 32).numpy()
    sessions = [create_session(path, provider=provider, tf32=False) for provider in ("cpu", "cuda")]
    on_cpu, on_device = (infer(session, images) for session in sessions)
    assert math.isclose(abs(on_cpu - on_device).max() / abs(on_cpu).max(), 0.0, abs_tol=1e-5)
    assert [session.get_providers()[0] for session in sessions] == ["CPUExecutionProvider", CUDA]


def test_device_memory_grows_with_the_batch(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.Sigmoid(), nn.Conv2d(64, 64, 3, padding=1)).eval()
    path = export(network, torch.zeros(1, 1, 512, 512), tmp_path / "wide.onnx").path
    spec = input_spec(create_session(path))
    one, eight = (peak_memory(path, spec, (n, 1, 512, 512), provider="cuda") for n in (1, 8))
    assert one is not None
    assert eight is not None
    assert eight - one > 7 * 2 * 64 * 2**20


def test_a_budget_of_latency() -> None:
    """Layers timed on the device add up to what the whole network takes there, give or take what no layer is."""
    network, images = torchvision_network("resnet18"), torch.zeros(2, 3, 224, 224)
    groups = secateur.channel_groups(network, images)
    cost = latency_cost(network, images, groups, provider="cuda", batch=64, round_to=64)
    with WholeRuns(network, images, provider="cuda", batch=64, rounds=30, seconds=2.0) as runs:
        whole = runs(None).dense_ms
        scores = {name: torch.arange(group.width).double() for name, group in groups.items()}
        plan = secateur.uniform_plan(groups, secateur.ScoreTable(scores), cost, "60%", round_to=64)
        assert runs(plan).share < 0.9
    assert 0.3 < cost({}) / whole < 1.5
