"""How much accuracy comes back without labels or training: a trained ResNet-56, channels removed inside its blocks.

    python examples/benchmarks/recovery.py                     # 30%, 50% and 60% of the MACs less: minutes
    python examples/benchmarks/recovery.py --ways              # and what each part of compensation brings at 50% less
    python examples/benchmarks/recovery.py --epochs 1 2 5      # and what training makes of it at 50% less: half an hour
    python examples/benchmarks/recovery.py --smoke             # ResNet-20, few images, one budget, no bound is asserted

Every criterion chooses the channels of the same uniform widths; shown is the share of the 5,000 held-out images that is
answered rightly: after the cut, with batch norm recalibrated on 2,000 training images, and compensated on 1,000.
`reconstruction` chooses by the dense network, `layer by layer` (`secateur.reconstruct`) by what has become of it, and
`error curves` also spends the budget unevenly (`secateur.curve_plan`). Asserted is what the best with uniform widths
and what the curves lose against the dense network, and that one compensation takes less than a minute.

With --ways, the network pruned by L1 is compensated on each layer's own output or behind the residual sum, and in all
layers or in those alone that read removed channels. With --epochs, it is trained for so many epochs, once from the
weights that it was cut to and once from the compensated ones; one seed each.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Mapping

import torch
from _trained_resnet56 import Setting, add_arguments, load
from torch import nn

import secateur
from secateur.records import PruningPlan
from secateur.scoring import scores_by_name

LOSSES = {"70%": 1.8, "50%": 5.2, "40%": 9.6}  # what may remain of the MACs -> points that may be lost, uniformly
CURVE_LOSSES = {"70%": 1.2, "50%": 3.8, "40%": 7.3}  # and by the error curves
SECONDS = 60
CRITERIA = ("random", "l1", "di", "hrank", "reconstruction")
IMAGES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="accuracy back without labels and without training")
    parser.add_argument("--budgets", nargs="*", default=list(LOSSES), help="shares of the dense network's MACs")
    parser.add_argument("--criteria", nargs="*", default=list(CRITERIA))
    parser.add_argument("--ways", action="store_true", help="compare targets and layers, too")
    parser.add_argument("--epochs", type=int, nargs="*", default=[], help="train for so many epochs, too")
    parser.add_argument("--smoke", action="store_true", help="a small network, few images, one budget, no bound")
    add_arguments(parser)
    given = parser.parse_args()
    if given.smoke:
        given.budgets, given.criteria, given.epochs = given.budgets[:1], given.criteria[:1], given.epochs[:1]
    setting = load(given)
    dense = setting.accuracy(setting.network)
    print(f"{setting.name}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; dense: {dense:.2f}")
    for budget in given.budgets:
        best, slowest = compare(setting, budget, given.criteria)
        curved = by_curves(setting, budget)
        if not given.smoke and budget in LOSSES:
            lost = dense - best
            assert lost <= LOSSES[budget], f"{lost:.2f} points are lost at {budget}, more than {LOSSES[budget]}"
            assert slowest <= SECONDS, f"a compensation took {slowest:.0f} s, more than {SECONDS}; is the machine busy?"
            print(f"{lost:.2f} points are lost, at most {LOSSES[budget]} are allowed; {slowest:.0f} s of {SECONDS}")
            lost = dense - curved
            assert lost <= CURVE_LOSSES[budget], f"the curves lose {lost:.2f} points, more than {CURVE_LOSSES[budget]}"
            print(f"{lost:.2f} by the error curves, at most {CURVE_LOSSES[budget]} are allowed\n", flush=True)
    if given.ways:
        ways(setting, uniform(setting, "l1", "50%"))
    if given.epochs:
        train(setting, uniform(setting, "l1", "50%"), given.epochs)


def compare(setting: Setting, budget: str, criteria: list[str]) -> tuple[float, float]:
    """Print a row for each criterion; return the best compensated accuracy, and the seconds of the slowest."""
    network, _, data = setting
    print(f"{budget + ' of the MACs':24}{'cut':>8}{'recalibrated':>14}{'compensated':>13}{'seconds':>9}")
    best, slowest, plan = 0.0, 0.0, None
    for criterion in criteria:
        plan = uniform(setting, criterion, budget)
        cut = secateur.apply_plan(network, plan)
        raw = setting.accuracy(cut)
        recalibrated = copy.deepcopy(cut)
        secateur.recalibrate_batch_norm(recalibrated, data.calibration)
        begun = time.perf_counter()
        secateur.compensate(network, cut, plan, data.calibration, samples=IMAGES)
        seconds = time.perf_counter() - begun
        compensated = setting.accuracy(cut)
        print(
            f"{criterion:24}{raw:8.2f}{setting.accuracy(recalibrated):14.2f}{compensated:13.2f}{seconds:9.0f}",
            flush=True,
        )
        best, slowest = max(best, compensated), max(slowest, seconds)
    if plan is not None:
        begun = time.perf_counter()
        done = secateur.reconstruct(network, plan, data.calibration, samples=IMAGES)
        seconds = time.perf_counter() - begun
        compensated = setting.accuracy(done.model)
        print(f"{'layer by layer':24}{'':22}{compensated:13.2f}{seconds:9.0f}", flush=True)
        best, slowest = max(best, compensated), max(slowest, seconds)
    return best, slowest


def by_curves(setting: Setting, budget: str) -> float:
    """Print the row of the error curves, their making included in the seconds; return the accuracy."""
    (network, groups, data), begun = setting, time.perf_counter()
    scores = secateur.reconstruction_scores(network, groups, data.calibration, samples=IMAGES)
    plan = secateur.curve_plan(groups, scores, setting.cost, budget, round_to=1)
    done = secateur.reconstruct(network, plan, data.calibration, samples=IMAGES)
    seconds, compensated = time.perf_counter() - begun, setting.accuracy(done.model)
    print(f"{'error curves':24}{'':22}{compensated:13.2f}{seconds:9.0f}", flush=True)
    return compensated


def uniform(setting: Setting, criterion: str, budget: str) -> PruningPlan:
    network, groups, data = setting
    scores = scores_by_name(network, data.calibration, criterion, groups=groups)
    return secateur.uniform_plan(groups, scores, setting.cost, budget, round_to=1)


def ways(setting: Setting, plan: PruningPlan) -> None:
    """Print what each target and each choice of layers brings."""
    network, _, data = setting
    print(f"{'l1, 50% of the MACs':24}{'layers':>12}{'compensated':>13}{'seconds':>9}")
    for target in ("layer", "sum"):
        for layers in ("consumers", "all"):
            cut, begun = secateur.apply_plan(network, plan), time.perf_counter()
            secateur.compensate(network, cut, plan, data.calibration, samples=IMAGES, target=target, layers=layers)
            seconds = time.perf_counter() - begun
            print(f"{f'target {target}':24}{layers:>12}{setting.accuracy(cut):13.2f}{seconds:9.0f}", flush=True)


def train(setting: Setting, plan: PruningPlan, epochs: list[int]) -> None:
    """Print the accuracy after training from either start."""
    network, _, data = setting
    starts: Mapping[str, nn.Module] = {name: secateur.apply_plan(network, plan) for name in ("cut", "compensated")}
    secateur.compensate(network, starts["compensated"], plan, data.calibration, samples=IMAGES)
    print(f"{'l1, 50% of the MACs':24}{'epochs':>8}{'before':>10}{'after':>8}{'seconds':>9}")
    for count in epochs:
        for name, start in starts.items():
            model = copy.deepcopy(start)
            before, begun = setting.accuracy(model), time.perf_counter()
            secateur.fine_tune(model, data.train.fresh(), epochs=count, learning_rate=0.03)
            seconds = time.perf_counter() - begun
            print(f"{name:24}{count:8}{before:10.2f}{setting.accuracy(model):8.2f}{seconds:9.0f}", flush=True)


if __name__ == "__main__":
    main()
