"""A plan for latency against a plan for MACs: both timed in ONNX Runtime, both judged before any fine-tuning.

    python examples/benchmarks/latency_budget.py                            # both parts: an hour on one thread
    python examples/benchmarks/latency_budget.py --networks resnet56        # the first
    python examples/benchmarks/latency_budget.py --clock process            # on a machine that others use
    python examples/benchmarks/latency_budget.py --provider cuda --batch 64
    python examples/benchmarks/latency_budget.py --smoke                    # ResNet-20, few images, no bound

Part one: a trained ResNet-56 on CIFAR-10 as JPEG, channels inside the blocks, error curves of `reconstruction`, widths
in multiples of 8. The latency is to be 60% of the dense network's, at batch 1 on the CPU unless told otherwise. The
other side is the plan for MACs, by the same curves, whose measured latency is the same: its budget is found by the same
search for a latency, with MACs as its cost. Shown are the MACs, the measured share of the dense time with its interval,
and the percentage of the 5,000 held-out images that are right after `secateur.compensate`.

Part two: ResNet-18 and MobileNetV2 at 224 x 224 with random weights, uniform widths, to 60% of the latency.

Both parts also take {macs: 50%, latency: 58%} together. Every figure is measured anew once its plan is found. Asserted
is, for the two ResNets, that it lies within 5% of the 60%, and on the CPU that half of the MACs and 58% of the time
together run at least 1.7 times as fast as the dense network; MobileNetV2 is only shown.

The clock "process" counts the time that the process itself ran, on one thread: on a busy machine the wall clock halts
long runs more often than short ones, and favours the smaller network.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torchvision
from _trained_resnet56 import Setting, add_arguments, load
from torch import Tensor, nn

import secateur
from secateur.cost import TermCost
from secateur.cost.terms import mac_terms
from secateur.protocols import CostModel
from secateur.records import ChannelGroups, PruningPlan, ScoreTable
from secateur.scoring import scores_by_name
from secateur_onnx import (
    LATENCY_PROVIDERS,
    LatencyCost,
    LatencySearch,
    WholeRun,
    WholeRuns,
    latency_cost,
    latency_search,
)

BUDGET, TOGETHER, TOLERANCE, FASTER = "60%", {"macs": "50%", "latency": "58%"}, 0.05, 1.7
ROOMY = ("85%", {"macs": "80%", "latency": "83%"})  # of a smoke run, whose short times may be far off
ROUND_TO, IMAGES = 8, 1000
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
Search = Callable[[Any, Any], PruningPlan]
"""A way to spend budgets: costs, budgets -> plan."""


class Task(NamedTuple):
    """One network and what times it."""

    name: str
    network: nn.Module
    example: Tensor
    groups: ChannelGroups
    search: Search
    given: argparse.Namespace

    @property
    def timing(self) -> dict[str, Any]:
        seconds = 0.05 if self.given.smoke else self.given.seconds
        rounds = 6 if self.given.smoke else 1000
        return {**self.place, "clock": CLOCKS[self.given.clock], "seconds": seconds, "rounds": rounds}

    @property
    def place(self) -> dict[str, Any]:
        return {"provider": self.given.provider, "batch": self.given.batch, "threads": self.given.threads}

    @property
    def budgets(self) -> tuple[str, dict[str, str]]:
        return ROOMY if self.given.smoke else (BUDGET, TOGETHER)

    @property
    def search_settings(self) -> dict[str, Any]:
        return {"tolerance": TOLERANCE, "rounds": 1 if self.given.smoke else 8}


def main() -> None:
    parser = argparse.ArgumentParser(description="a budget of latency against a budget of MACs")
    names = ("resnet56", "resnet18", "mobilenet_v2")
    parser.add_argument("--networks", nargs="*", default=list(names), choices=names)
    parser.add_argument("--provider", default="cpu", choices=LATENCY_PROVIDERS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing for each figure")
    parser.add_argument("--smoke", action="store_true", help="a small network, few images, short timing, no bound")
    add_arguments(parser, threads=1)
    given = parser.parse_args()
    if given.smoke and (given.provider, given.threads) == ("cpu", 1):
        given.clock = "process"
    if given.device != "cpu":
        parser.error("--device: plans are made and judged on the processor; --provider says where files are timed")
    if given.clock == "process" and (given.provider, given.threads) != ("cpu", 1):
        parser.error("--clock process counts what runs on one thread of this process: not a device, nor --threads 2")
    torch.set_num_threads(given.threads)
    print(f"threads: {given.threads}, clock: {given.clock}, load {os.getloadavg()[0]:.1f}")
    missed: list[str] = []
    for name in ["resnet56"] if given.smoke else given.networks:
        trained(given, missed) if name == "resnet56" else untrained(name, given, missed)
    assert not missed, f"missed: {'; '.join(missed)}; is the machine busy?"


def trained(given: argparse.Namespace, missed: list[str]) -> None:
    """ResNet-56: a budget of latency, the MACs that take as long, and both budgets together."""
    setting = load(given)
    network, groups, data = setting
    curves = scores_by_name(network, data.calibration, "reconstruction", groups=groups)

    def search(costs: Any, budgets: Any) -> PruningPlan:
        return secateur.curve_plan(groups, curves, costs, budgets, round_to=ROUND_TO)

    task = Task(setting.name, network, data.example, groups, search, given)
    dense = setting.accuracy(network)
    print(f"{task.name}: dense {dense:.2f}% of the held-out images")
    runs, (budget, _) = spend(task, setting, missed), task.budgets
    by_macs = latency_search(
        lambda cost: search(cost, budget), as_latency(setting.cost, groups), budget, runs, **task.search_settings
    )
    tell(task, "MACs, as slow", setting.cost, by_macs.plan, fresh(task, by_macs), setting)


def untrained(name: str, given: argparse.Namespace, missed: list[str]) -> None:
    """A network of torchvision at 224 with random weights: uniform widths."""
    torch.manual_seed(0)
    network, example = getattr(torchvision.models, name)().eval(), torch.randn(2, 3, 224, 224)
    groups = secateur.channel_groups(network, example)
    scores: ScoreTable = scores_by_name(network, [(example, torch.zeros(2))], "l1", groups=groups)
    task = Task(
        name,
        network,
        example,
        groups,
        lambda costs, budgets: secateur.uniform_plan(groups, scores, costs, budgets, round_to=ROUND_TO),
        given,
    )
    spend(task, None, missed)


def spend(task: Task, setting: Setting | None, missed: list[str]) -> WholeRuns:
    """Search for the latency, alone and with half of the MACs; print what new runs say, note what is missed."""
    begun = time.perf_counter()
    cost = latency_cost(task.network, task.example, task.groups, **task.place, round_to=ROUND_TO)
    macs = secateur.MacsCost(task.network, task.example, task.groups)
    print(
        f"{task.name}: layers timed in {time.perf_counter() - begun:.0f} s, {cost.dense_ms:.2f} ms in all", flush=True
    )
    runs, (budget, both) = WholeRuns(task.network, task.example, **task.timing), task.budgets
    searches = {
        f"latency {budget}": latency_search(
            lambda c: task.search(c, budget), cost, budget, runs, **task.search_settings
        ),
        f"MACs {both['macs']}, latency {both['latency']}": latency_search(
            lambda c: task.search([macs, c], both), cost, both["latency"], runs, **task.search_settings
        ),
    }
    for name, found in searches.items():
        for number, each in enumerate(found.rounds, 1):
            print(f"  {name}, plan {number}: predicted {each.predicted:.3f}, measured {each.measured.share:.3f}")
        run = fresh(task, found)
        tell(task, name, macs, found.plan, run, setting)
        if task.given.smoke or task.name == "mobilenet_v2" or ("MACs" in name and task.given.provider != "cpu"):
            continue
        if "MACs" in name:
            held = 1 / run.share >= FASTER and macs(found.plan.widths) <= 0.5 * macs({})
        else:
            held = abs(run.share / 0.6 - 1) <= TOLERANCE
        if not held:
            missed.append(f"{task.name}, {name}")
    return runs


def fresh(task: Task, found: LatencySearch) -> WholeRun:
    """Time a plan once more, with other inputs and nothing remembered; a smoke run takes the time of the search."""
    plan = found.plan
    if task.given.smoke:
        return found.rounds[found.chosen].measured
    with WholeRuns(task.network, task.example, seed=1, **task.timing) as runs:
        return runs(plan)


def tell(task: Task, name: str, macs: CostModel, plan: PruningPlan, run: WholeRun, setting: Setting | None) -> None:
    right = ""
    if setting is not None:
        pruned = secateur.apply_plan(task.network, plan)
        samples = 40 if task.given.smoke else IMAGES
        secateur.compensate(task.network, pruned, plan, setting.data.calibration, samples=samples)
        right = f", {setting.accuracy(pruned):.2f}% right"
    print(
        f"{task.name}, {name:22}: {macs(plan.widths) / macs({}):.1%} of the MACs, {run.share:.1%} of the dense "
        f"{run.dense_ms:.2f} ms ({run.lower:.1%} to {run.upper:.1%}), {1 / run.share:.2f} times as fast{right}",
        flush=True,
    )


def as_latency(macs: secateur.MacsCost, groups: ChannelGroups) -> LatencyCost:
    """Return MACs in the place of layer times."""
    layers = TermCost("latency", "ms", groups, mac_terms(macs.layers, groups))
    return LatencyCost(layers, 1.0)


if __name__ == "__main__":
    main()
