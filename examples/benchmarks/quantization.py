"""What fewer bits cost: a trained ResNet-56, pruned to half of its MACs, then quantized by DI's order and by others.

    python examples/benchmarks/quantization.py --device cuda --precision bfloat16   # minutes
    python examples/benchmarks/quantization.py --bits 4                             # one average, an hour on one thread
    python examples/benchmarks/quantization.py --epochs 0                           # without training, minutes
    python examples/benchmarks/quantization.py --smoke                              # few images, nothing is asserted

The network is cut by its error curves, compensated and fine-tuned for --prune-epochs. For each average number of bits
its size in bytes is that of all filters with as many bits; two levels, one above and one below, are mixed to the same
size, with more bits for the filters of high DI, of low DI, or drawn at random. Shown are the bytes of the file and the
percentage of the 5,000 held-out images answered rightly, before and after --epochs of training through the rounding.
Asserted is that every file is at most as large as the uniform one, as large as claimed, and that ONNX Runtime computes
the same from the ONNX file.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from _trained_resnet56 import Setting, add_arguments, load
from torch import nn

import secateur
from secateur.quantization import (
    BitPlan,
    bit_plan,
    fake_quantized,
    quantize_network,
    quantized_bytes,
    save_quantized,
    uniform_bits,
)
from secateur.records import ScoreTable
from secateur_onnx import check_parity, export_quantized

LEVELS = {8: (10, 6), 4: (6, 3), 3: (4, 2)}  # average bits -> the two that are mixed to the same size
ORDERS = ("scores", "reversed", "random")
PRUNED, IMAGES, LEARNING_RATE = "50%", 1000, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description="accuracy against the size of the file")
    parser.add_argument("--bits", type=int, nargs="*", default=list(LEVELS), choices=list(LEVELS))
    parser.add_argument("--epochs", type=int, default=1, help="of training through the rounding")
    parser.add_argument("--prune-epochs", type=int, default=1, help="of training after pruning")
    parser.add_argument("--precision", default="float32", help="of the training, such as bfloat16")
    parser.add_argument("--smoke", action="store_true", help="few images, nothing is asserted")
    add_arguments(parser)
    given = parser.parse_args()
    if given.smoke:
        given.bits, given.prune_epochs, given.epochs = given.bits[-1:], 0, 0
    setting = load(given)
    print(f"{setting.name}, {given.threads} threads, load {os.getloadavg()[0]:.1f}")
    network = pruned(setting, given)
    scores = secateur.collect_scores(network, setting.data.calibration, "di", samples=200 if given.smoke else None)
    floats = sum(4 * p.numel() for p in network.parameters())
    dense, left = setting.accuracy(setting.network), setting.accuracy(network)
    print(
        f"dense: {dense:.2f}% of the held-out images; pruned: {left:.2f}%, {floats:,} bytes of parameters", flush=True
    )
    for bits in given.bits:
        uniform = uniform_bits(network, bits)
        size = quantized_bytes(network, uniform)
        tell(setting, network, f"{bits} bits, uniform", uniform, given)
        for order in ORDERS[: 1 if given.smoke else None]:
            plan = mixed(network, scores, LEVELS[bits], size, order)
            name = f"{bits} bits, {LEVELS[bits][0]} and {LEVELS[bits][1]} by {'DI' if order == 'scores' else order}"
            assert tell(setting, network, name, plan, given) <= size, f"{name}: larger than uniform bits"


def pruned(setting: Setting, given: argparse.Namespace) -> nn.Module:
    """Return the network cut to half of its MACs, compensated and fine-tuned."""
    network, groups, data = setting
    samples = 100 if given.smoke else IMAGES
    curves = secateur.reconstruction_scores(network, groups, data.calibration, samples=samples)
    plan = secateur.curve_plan(groups, curves, setting.cost, PRUNED, round_to=1)
    cut = secateur.apply_plan(network, plan)
    secateur.compensate(network, cut, plan, data.calibration, samples=samples)
    train(cut, setting, given, epochs=given.prune_epochs, learning_rate=0.03)
    return cut


def train(model: nn.Module, setting: Setting, given: argparse.Namespace, **numbers: Any) -> None:
    if numbers["epochs"]:
        secateur.fine_tune(model, setting.data.train.fresh(), precision=given.precision, **numbers)


def mixed(network: nn.Module, scores: ScoreTable, levels: tuple[int, int], size: int, order: Any) -> BitPlan:
    return bit_plan(
        network, scores, levels=levels, size=size, order=order, measured=lambda plan: quantized_bytes(network, plan)
    )


def tell(setting: Setting, network: nn.Module, name: str, plan: BitPlan, given: argparse.Namespace) -> int:
    """Print what a plan costs and what it leaves; return the size of its file."""
    before = setting.accuracy(quantize_network(network, plan)[0])
    trained = copy.deepcopy(network)
    with fake_quantized(trained, plan) as thresholds:
        train(trained, setting, given, epochs=given.epochs, learning_rate=LEARNING_RATE)
    after = setting.accuracy(quantize_network(trained, plan, thresholds)[0]) if given.epochs else None
    with tempfile.TemporaryDirectory() as folder:
        size = save_quantized(trained, plan, Path(folder) / "net.safetensors", thresholds)
        assert size == quantized_bytes(network, plan) == (Path(folder) / "net.safetensors").stat().st_size
        done = export_quantized(
            trained.cpu(), plan, setting.data.example, Path(folder) / "net.onnx", thresholds=on_cpu(thresholds)
        )
        check_parity(done.model, done.file.path, [setting.data.example]).require()
    trained_text = "" if after is None else f", {after:.2f}% trained"
    print(
        f"{name:28} {size:>9,} bytes, {done.file.file_bytes:>9,} as ONNX, {plan.average(network):.2f} bits a weight: "
        f"{before:.2f}% rounded{trained_text}",
        flush=True,
    )
    return size


def on_cpu(thresholds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values.cpu() for name, values in thresholds.items()}


if __name__ == "__main__":
    main()
