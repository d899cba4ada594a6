"""What fewer bits cost: a trained ResNet-56, pruned to half of its MACs, then quantized by DI's order and by others.

    python examples/benchmarks/quantization.py --record own.jsonl --device cuda         # minutes
    python examples/benchmarks/quantization.py --record own.jsonl --bits 4              # an hour on one thread
    python examples/benchmarks/quantization.py --record own.jsonl --epochs 0            # without training, minutes
    python examples/benchmarks/quantization.py --record own.jsonl --thresholds largest least_squares   # other rules
    python examples/benchmarks/quantization.py --show                                   # the table of what is recorded
    python examples/benchmarks/quantization.py --smoke                                  # few images, anew each time

The network is cut by its error curves, compensated and fine-tuned for --prune-epochs. For each average number of bits
its size in bytes is that of all filters with as many bits; two levels, one above and one below, are mixed to the same
size, with more bits for the filters of high DI, of low DI, or drawn at random. Each rule of --thresholds by which
filters are clipped has rows of its own; those that name none are of the published rule. Shown are the bytes of the
packed file (of the dense and of the pruned network four for each parameter, and no file) and the percentage of the
5,000 held-out images answered rightly, first rounded for all of them, then after --epochs of training through the
rounding, which --train-images shortens; what is trained longer than an epoch or in another precision than bfloat16 has
columns of its own. Every figure is recorded as soon as it is known, a line each in a file that the next call completes;
the pruned network is kept beside it, and where it is not, as beside the record that is part of the repository, only
--show and a record of one's own (--record) are had. Asserted is, of smoke runs too, that every file is at most as large
as the uniform one, as large as claimed, and that ONNX Runtime computes the same from the ONNX file.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from _record import USUAL, Record, record_of, stage_of, table, trainings
from _trained_resnet56 import Setting, add_arguments, load
from torch import nn

import secateur
from secateur.batches import rebatch
from secateur.checkpoint import MODEL_FILE, PLAN_FILE, load_pruned, save_pruned
from secateur.networks import resnet20, resnet56
from secateur.precision import PRECISIONS
from secateur.quantization import (
    BitPlan,
    ThresholdRule,
    bit_plan,
    fake_quantized,
    quantize_network,
    quantized_bytes,
    save_quantized,
    uniform_bits,
)
from secateur.records import ScoreTable
from secateur_onnx import check_parity, export_quantized

LEVELS: dict[int, tuple[tuple[int, int], ...]] = {8: ((10, 6),), 4: ((6, 3), (5, 3)), 3: ((4, 2),), 2: ()}
"""Average bits -> those that are mixed to the same size; less than two there are not."""
RULES: tuple[ThresholdRule, ...] = get_args(ThresholdRule)
ORDERS = {"DI": "scores", "reversed": "reversed", "random": "random"}
COUNTS, STAGES = ("bytes", "as ONNX"), ("bits a weight", "rounded")
PRUNED, IMAGES, LEARNING_RATE, EPOCHS = "50%", 1000, 0.01, 1
RECORD = Path(__file__).with_name("quantization.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description="accuracy against the size of the file")
    parser.add_argument("--bits", type=int, nargs="*", default=list(LEVELS), choices=list(LEVELS))
    parser.add_argument("--orders", nargs="*", default=["uniform", *ORDERS], choices=["uniform", *ORDERS])
    parser.add_argument("--thresholds", nargs="*", default=["published"], choices=RULES, help="rules of clipping")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of training through the rounding")
    parser.add_argument("--prune-epochs", type=int, default=1, help="of training after pruning")
    parser.add_argument("--train-images", type=int, help="of an epoch of training through the rounding; default: all")
    parser.add_argument("--precision", default=USUAL, choices=PRECISIONS, help="of the training")
    parser.add_argument(
        "--record", type=Path, help=f"completed, not repeated; default: {RECORD.name} beside the script"
    )
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--smoke", action="store_true", help="few images, recorded nowhere")
    add_arguments(parser)
    given = parser.parse_args()
    if given.smoke:
        given.bits, given.orders, given.prune_epochs, given.epochs = [3], ["uniform", "DI"], 0, 0
    record = Record(record_of(given, RECORD), torch.cuda.get_device_name() if given.device == "cuda" else given.device)
    if not given.show:
        complete(record, given)
    names = ["dense", "pruned", *(cell.name for cell in cells(given))]
    table(record, names, [*STAGES, *trainings(record)], counts=COUNTS)


def complete(record: Record, given: argparse.Namespace) -> None:
    """Measure what is not recorded yet: first what needs no training, for all plans."""
    folder = record.path.with_suffix(".pruned")
    if record.of("0 pruned") and not is_kept(folder):
        sys.exit(
            f"{record.path} is of a pruned network that is not in {folder}: --record names another file, --show prints "
            "what is recorded"
        )
    setting = load(given)
    print(f"{setting.name}, {given.threads} threads, load {os.getloadavg()[0]:.1f}", flush=True)
    network = pruned(setting, given, folder)
    known = record.of("0 pruned").get("rounded")
    if known is not None and abs(known - setting.accuracy(network)) > 0.01:
        sys.exit(f"{record.path} is of another pruned network; --record names another file")
    for name, model in (("dense", setting.network), ("pruned", network)):
        if "rounded" not in record.of(f"0 {name}"):
            record.put(f"0 {name}", "bytes", sum(4 * p.numel() for p in model.parameters()))
            record.put(f"0 {name}", "bits a weight", 32)
            record.put(f"0 {name}", "rounded", setting.accuracy(model))
    scores = secateur.collect_scores(network, setting.data.calibration, "di", samples=200 if given.smoke else None)
    for epochs in sorted({0, given.epochs}):
        for cell in cells(given):
            measure(setting, network, record, cell.plan(network, scores), given, cell, epochs)
            size = quantized_bytes(network, uniform_bits(network, cell.bits, thresholds=cell.rule))
            assert record.of(f"0 {cell.name}")["bytes"] <= size, f"{cell.name}: larger than uniform bits"


class Cell(NamedTuple):
    """A row of the table: the average bits, the levels that are mixed to it, the order, or all alike, and the rule."""

    bits: int
    levels: tuple[int, int] | None = None
    order: str = "uniform"
    rule: ThresholdRule = "published"

    @property
    def name(self) -> str:
        mixed = "uniform" if self.levels is None else f"{self.levels[0]} and {self.levels[1]} by {self.order}"
        clipped = "" if self.rule == "published" else f", {self.rule}"
        return f"{self.bits} bits, {mixed}{clipped}"

    def plan(self, network: nn.Module, scores: ScoreTable) -> BitPlan:
        uniform = uniform_bits(network, self.bits, thresholds=self.rule)
        if self.levels is None:
            return uniform

        def measured(plan: BitPlan) -> int:
            return quantized_bytes(network, plan)

        order: Any = ORDERS[self.order]
        size = measured(uniform)
        return bit_plan(
            network, scores, levels=self.levels, size=size, order=order, measured=measured, thresholds=self.rule
        )


def cells(given: argparse.Namespace) -> list[Cell]:
    """Return the rows that are asked for."""
    found = [Cell(bits) for bits in given.bits if "uniform" in given.orders]
    mixed = [(bits, levels, order) for bits in given.bits for levels in LEVELS[bits] for order in ORDERS]
    found += [Cell(*each) for each in mixed if each[-1] in given.orders]
    found = [cell._replace(rule=rule) for rule in given.thresholds for cell in found]
    return sorted(found, key=lambda cell: given.bits.index(cell.bits))


def is_kept(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (PLAN_FILE, MODEL_FILE))


def pruned(setting: Setting, given: argparse.Namespace, folder: Path) -> nn.Module:
    """Return the network cut to half of its MACs, compensated and fine-tuned; from its folder, if it is there."""
    network, groups, data = setting
    build = resnet20 if given.smoke else resnet56
    if not is_kept(folder):
        samples = 100 if given.smoke else IMAGES
        curves = secateur.reconstruction_scores(network, groups, data.calibration, samples=samples)
        plan = secateur.curve_plan(groups, curves, setting.cost, PRUNED, round_to=1)
        cut = secateur.apply_plan(network, plan)
        secateur.compensate(network, cut, plan, data.calibration, samples=samples)
        if given.prune_epochs:
            secateur.fine_tune(
                cut, data.train.fresh(), epochs=given.prune_epochs, learning_rate=0.03, precision=given.precision
            )
        save_pruned(cut, build(), plan, folder)
    return load_pruned(build, folder).to(setting.device)


def measure(
    setting: Setting,
    network: nn.Module,
    record: Record,
    plan: BitPlan,
    given: argparse.Namespace,
    cell: Cell,
    epochs: int,
) -> None:
    """Record what a plan costs and what it leaves, before or after training, unless that is known."""
    key, stage = f"0 {cell.name}", "rounded"
    if epochs:
        stage = stage_of(epochs, given.precision, usual=EPOCHS, images=given.train_images)
    if stage in record.of(key):
        return
    trained, data = copy.deepcopy(network), setting.data.train.fresh()
    with fake_quantized(trained, plan) as thresholds:
        if epochs:
            batches = data if given.train_images is None else list(rebatch(data, None, samples=given.train_images))
            secateur.fine_tune(trained, batches, epochs=epochs, learning_rate=LEARNING_RATE, precision=given.precision)
    size, as_onnx = stored(setting, trained, plan, thresholds)
    for name, value in (("bytes", size), ("as ONNX", as_onnx), ("bits a weight", plan.average(network))):
        record.put(key, name, value)
    record.put(key, stage, setting.accuracy(quantize_network(trained, plan, thresholds)[0]))


def stored(setting: Setting, model: nn.Module, plan: BitPlan, thresholds: dict[str, torch.Tensor]) -> tuple[int, int]:
    """Return the sizes of the packed file and of the ONNX file, both written and proven."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        size = save_quantized(model, plan, path, thresholds)
        assert size == quantized_bytes(model, plan) == path.stat().st_size, "not as large as claimed"
        done = export_quantized(
            copy.deepcopy(model).cpu(), plan, setting.data.example, Path(folder) / "net.onnx", thresholds=thresholds
        )
        check_parity(done.model, done.file.path, [setting.data.example]).require()
        return size, done.file.file_bytes


if __name__ == "__main__":
    main()
