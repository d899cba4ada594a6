"""AutoPruner against DI at the same cost and epochs: a trained ResNet-20, half of the channels inside its blocks.

    python examples/benchmarks/autopruner.py                        # half an hour on one thread
    python examples/benchmarks/autopruner.py --precision bfloat16   # half of that
    python examples/benchmarks/autopruner.py --device cuda          # minutes
    python examples/benchmarks/autopruner.py --smoke                # few images, no gate has to be binary

AutoPruner trains gates and network together for --gate-epochs; its plan is then fine-tuned for --epochs. DI chooses the
same widths from the dense network, and is fine-tuned for both together. Shown is the percentage of the 5,000 held-out
images answered rightly. Asserted is what AutoPruner promises: every gate is binary at the end, the codes keep within
two points of the share without projection; and, of smoke runs too, that the share is exact with it, the two plans
being of one cost.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from _trained_resnet56 import SHARED, TEST, TRAIN

import secateur
from secateur.channel_map import with_channel_maps
from secateur.gates import AutoPruned
from secateur.networks import resnet20
from secateur.scoring import scores_by_name
from secateur.weights import load_weights
from secateur_cli.inputs.data import load_data
from secateur_cli.settings.schema import DataConfig

WEIGHTS = "models/resnet20-cifar10.safetensors"
KEEP, POINTS, LEARNING_RATE = 0.5, 0.02, 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description="AutoPruner against DI")
    parser.add_argument("--gate-epochs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=1, help="of fine-tuning")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", help="of the training, such as bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shared", type=Path, default=SHARED, help="the folder with models/ and data/")
    parser.add_argument("--smoke", action="store_true", help="few images, nothing is asserted of the gates")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    paths = {"train": given.shared / "data" / f"{TRAIN}.tar.gz", "test": given.shared / "data" / f"{TEST}.tar.gz"}
    config = DataConfig(source="image-folder", image_size=32, batch_size=128, **paths)
    data = load_data(config, folder=Path(), seed=given.seed, limit=160 if given.smoke else None)
    network = resnet20().eval()
    load_weights(network, given.shared / WEIGHTS)
    network = with_channel_maps(network, data.example)
    groups = secateur.channel_groups(network, data.example, residual="skip")
    cost = secateur.MacsCost(network, data.example, groups)
    network.to(given.device)
    print(f"resnet20: dense {100 * secateur.accuracy(network, data.test):.2f}%", flush=True)

    begun = time.perf_counter()
    options = {"epochs": given.gate_epochs, "precision": given.precision, "seed": given.seed}
    found = secateur.autoprune(network, groups, cost, data.train.fresh(), keep=KEEP, **options)
    print(f"gates trained in {time.perf_counter() - begun:.0f} s, cross entropy {found.epochs[-1].loss:.3f}")
    share = told(found)
    tune = {"learning_rate": LEARNING_RATE, "seed": given.seed, "precision": given.precision}

    learnt = secateur.apply_plan(found.model, found.plan)
    secateur.recalibrate_batch_norm(learnt, data.calibration)
    before = 100 * secateur.accuracy(learnt, data.test)
    secateur.fine_tune(learnt, data.train.fresh(), epochs=given.epochs, **tune)
    print(f"AutoPruner: {before:.2f}% before fine-tuning, {100 * secateur.accuracy(learnt, data.test):.2f}% after it")

    scores = scores_by_name(network, data.calibration, "di", groups=groups)
    plan = secateur.uniform_plan(groups, scores, cost, found.plan.cost_after, round_to=1)
    assert plan.widths == found.plan.widths, "the two plans are not of one cost"
    cut = secateur.apply_plan(network, plan)
    secateur.compensate(network, cut, plan, data.calibration, samples=100 if given.smoke else 1000)
    before = 100 * secateur.accuracy(cut, data.test)
    secateur.fine_tune(cut, data.train.fresh(), epochs=given.gate_epochs + given.epochs, **tune)
    print(f"DI: {before:.2f}% compensated, {100 * secateur.accuracy(cut, data.test):.2f}% after as many epochs in all")
    if not given.smoke:
        assert abs(share - KEEP) <= POINTS, f"the codes keep {share:.1%} of the channels, {KEEP:.0%} were asked for"
        assert all(gate.binary for gate in found.gates.values()), "a gate is not binary"


def told(found: AutoPruned) -> float:
    """Print what each gate learnt; return the share of all channels that the codes keep."""
    channels = {name: len(gate.code) for name, gate in found.gates.items()}
    for name, gate in found.gates.items():
        wanted = f"{gate.kept:.1%} kept, {len(found.plan[name])} of {channels[name]} after projection"
        print(f"  {name}: {wanted}, alpha {gate.alpha:.1f}{'' if gate.binary else ', not binary'}")
    share = sum(gate.kept * channels[name] for name, gate in found.gates.items()) / sum(channels.values())
    after = found.plan.cost_after / found.plan.cost_before
    print(f"  all gates: {share:.2%} kept by the codes, {after:.1%} of the MACs after projection", flush=True)
    return share


if __name__ == "__main__":
    main()
