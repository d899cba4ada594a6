"""ONNX Runtime on an NVIDIA device: parity, what ran where, and dense against pruned, ResNet-50 and ResNet-56.

    python examples/benchmarks/cuda_speed.py                   # a few minutes on one device; needs the extra onnx-gpu
    python examples/benchmarks/cuda_speed.py --json FILE       # the figures as data, too
    python examples/benchmarks/cuda_speed.py --smoke           # ResNet-20, seconds

Half of the channels of every group go, by the size of their weights; the weights are random, since time does not depend
on them. Asserted: the files compute what torch computes on the device, TensorFloat-32 off on both sides, and every node
runs on CUDA. Whether the pruned network is faster is printed, not asserted: that is what is to be found out. Where
onnxruntime has no CUDA or there is no device, a sentence says so and nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import onnxruntime
import torch
import torchvision
from torch import nn

import secateur
from secateur.networks import resnet20, resnet56
from secateur_onnx import benchmark, check_parity, describe_machine, export

CUDA = "CUDAExecutionProvider"


def main() -> None:
    parser = argparse.ArgumentParser(description="Dense against pruned on an NVIDIA device")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], help="images in a run")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each figure")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--smoke", action="store_true", help="a small network, seconds")
    given = parser.parse_args()
    print(f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, CUDA of torch {torch.version.cuda}")
    if (reason := no_device()) is not None:
        print(f"dense against pruned was not measured: {reason}")
        return
    machine = describe_machine(provider="cuda")
    print(f"{machine.device}; {machine.cpu}, {machine.cores} cores, load {machine.load}")

    networks: dict[str, tuple[nn.Module, int]] = {"resnet20": (resnet20(), 32)}
    if not given.smoke:
        networks = {"resnet50": (torchvision.models.resnet50(weights=None), 224), "resnet56": (resnet56(), 32)}
    found = {name: measure(name, network, size, given) for name, (network, size) in networks.items()}
    if given.json is not None:
        given.json.write_text(json.dumps({"machine": machine.to_json(), "networks": found}, indent=1) + "\n")


def no_device() -> str | None:
    """Return why nothing can be run on CUDA here; None where it can."""
    if CUDA not in onnxruntime.get_available_providers():
        return "this onnxruntime has no CUDA: it takes onnxruntime-gpu in its place"
    return None if torch.cuda.is_available() else "torch finds no CUDA device"


def measure(name: str, network: nn.Module, size: int, given: argparse.Namespace) -> dict[str, object]:
    """Export both sides, compare them with torch on the device, time them and print all of it."""
    torch.manual_seed(0)
    images = 2 * torch.randn(64, 3, 1, 1) + torch.randn(64, 3, size, size)
    network = network.cuda()
    secateur.recalibrate_batch_norm(network, [images])
    network.eval()
    result = secateur.prune(network, images[:2].cuda(), secateur.WeightImportance("l1"), pruning_ratio=0.5)
    cost = secateur.MacsCost(network.cpu(), images[:1], {g.name: g for g in result.plan.groups})
    shares = cost(result.plan.widths) / cost({})
    with tempfile.TemporaryDirectory() as folder:
        files, parities = {}, {}
        for side, model in (("dense", network.cuda()), ("pruned", result.model.cuda().eval())):
            files[side] = export(model, images[:2], Path(folder) / f"{side}.onnx")
            for device in ("cuda", "cpu"):
                parities[side, device] = check_parity(model, files[side].path, images.split(16), provider=device)
        timed = benchmark(
            files["dense"].path,
            files["pruned"].path,
            provider="cuda",
            batch_sizes=given.batches,
            seconds=0.2 if given.smoke else given.seconds,
        )
    print(f"\n{name} at {size} x {size}, {shares:.1%} of the MACs")
    for (side, device), parity in parities.items():
        print(
            f"  {side:<7} onnxruntime on {device} against torch on cuda: largest {parity.max_abs:.1e}, "
            f"mean {parity.mean_abs:.1e}, relative {parity.max_relative:.1e}, same class {parity.top1_agreement:.1%}"
        )
    for side, file in (("dense", timed.dense), ("pruned", timed.pruned)):
        ran = {where: sum(nodes.values()) for where, nodes in file.assignment.items()}
        peaks = ", ".join(f"batch {n}: {(peak or 0) / 1e6:.0f} MB" for n, peak in file.peak_bytes.items())
        print(f"  {side:<7} {file.file_bytes / 1e6:.2f} MB; nodes {ran}; device memory {peaks}")
    for c in timed.comparisons:
        rates = f"{c.dense.images_per_second:,.0f} against {c.pruned.images_per_second:,.0f} images/s"
        times = f"{c.dense.median_ms:.3f} against {c.pruned.median_ms:.3f} ms"
        print(f"  batch {c.batch_size:<3} {c.measured:<13} dense against pruned {times}, {rates}: {c.verdict}")
    for parity in parities.values():
        parity.require()
    for file in (timed.dense, timed.pruned):
        assert list(file.assignment) == [CUDA], f"not every node of {file.path.name} ran on CUDA: {file.assignment}"
    return {"macs": shares, "benchmark": timed.to_json(), "parity": {
        f"{side} on {device}": parity.to_json() for (side, device), parity in parities.items()
    }}  # fmt: skip


if __name__ == "__main__":
    main()
