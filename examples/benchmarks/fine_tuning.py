"""What two epochs give back to a ResNet-56 at half of its MACs: plain, with a teacher, with filters frozen, over seeds.

    python examples/benchmarks/fine_tuning.py                          # all that is not recorded yet
    python examples/benchmarks/fine_tuning.py --device cuda --precision bfloat16 --seeds 0 1 2
    python examples/benchmarks/fine_tuning.py --ablation               # HRank's Edge, Random and Reverse, instead
    python examples/benchmarks/fine_tuning.py --show                   # the table of what is recorded
    python examples/benchmarks/fine_tuning.py --smoke                  # few images, one epoch; nothing is asserted

The channels inside the blocks are cut to uniform widths by HRank's ranks, and each way of training starts from the same
network: as it was cut, or with its batch norm recalibrated. Shown is the percentage of the 5,000 held-out images
answered rightly, the mean over the seeds and, behind the sign, half of its 95% t-interval. The epoch that is kept is
chosen on validation images, which are neither trained on nor held out. A seed decides which images are scored and set
aside, and the order in training.

Every figure is recorded as soon as it is known, a line each, in a file that the next call completes; rows of another
device, precision or number of epochs are rows of their own. Several processes may share the work: `--part 1/2`,
`--part 2/2`. Asserted is, of each seed, that training beats recalibration alone.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from _record import Record, part, record_of, table
from _trained_resnet56 import add_arguments, load
from torch import nn

import secateur
from secateur.precision import PRECISIONS
from secateur.scoring import scores_by_name
from secateur.search.selection import Variant
from secateur.training import highest_filters

BUDGET, BATCH = "50%", 128
RECORD = Path(__file__).with_name("fine_tuning.jsonl")
WAYS: dict[str, dict[str, Any]] = {
    "recalibrated": {"epochs": 0, "recalibrate": 2000},
    "plain": {},
    "plain, recalibrated first": {"recalibrate": 2000},
    "teacher": {"distillation": 0.5},
    "teacher alone": {"distillation": 0.9},
    "teacher, its feature maps": {"distillation": 0.5, "feature_weight": 1.0},
    "average": {"average": 0.99},
    "mixup": {"mixup": 0.2},
    "label smoothing": {"label_smoothing": 0.1},
    "frozen 15%": {"share": 0.15},
    "frozen 25%": {"share": 0.25},
}
VARIANTS: tuple[Variant, ...] = ("low", "edge", "random", "reverse", "middle")


def main() -> None:
    parser = argparse.ArgumentParser(description="what each way of training gives back")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS, metavar="WAY")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=0.03)
    parser.add_argument("--criterion", default="hrank")
    parser.add_argument("--ablation", action="store_true", help="other channels go than those of the lowest scores")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    parser.add_argument("--record", type=Path, help=f"default: {RECORD.name} beside the script")
    parser.add_argument("--part", type=part, default=(0, 1), help="K/N: every N-th row, from the K-th on")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--smoke", action="store_true", help="few images, one seed, one epoch; nothing is asserted")
    add_arguments(parser)
    given = parser.parse_args()
    if given.smoke:
        given.seeds, given.epochs, given.ways = given.seeds[:1], 1, ["recalibrated", "teacher", "frozen 25%"]
    record = Record(record_of(given, RECORD), given.device)
    names = [f"removed: {variant}" for variant in VARIANTS] if given.ablation else given.ways
    name = "resnet20" if given.smoke else "resnet56"
    print(f"{name} on {given.device}, {given.threads} threads, load {os.getloadavg()[0]:.1f}", flush=True)
    for seed in () if given.show else given.seeds:
        number, parts = given.part
        missing = [name for name in names[number::parts] if "held-out" not in record.of(_key(given, seed, name))]
        if missing:
            measure(given, seed, missing, record)
    rows = ["dense"] + [_key(given, "", name).strip() for name in names]
    table(record, rows, ["cut", "validation", "held-out"], counts=["seconds"])
    if not (given.smoke or given.ablation):
        check(record, given)


def _key(given: argparse.Namespace, seed: int | str, name: str) -> str:
    about = f"{given.criterion}, {given.epochs} epochs at {given.learning_rate:g}, {given.device} {given.precision}"
    return f"{seed} {name}, {about}"


def measure(given: argparse.Namespace, seed: int, names: list[str], record: Record) -> None:
    """Record what each of these ways gives, with one seed."""
    setting = load(given, seed=seed, batch_size=BATCH)
    dense, groups, data = setting
    scores = scores_by_name(dense, data.calibration, given.criterion, groups=groups)
    cost = setting.cost
    dense.to(given.device)
    if not record.of(f"{seed} dense"):
        record.put(f"{seed} dense", "held-out", setting.accuracy(dense))
    for name in names:
        key = _key(given, seed, name)
        variant: Any = name.removeprefix("removed: ") if given.ablation else "low"
        plan = secateur.uniform_plan(groups, scores, cost, BUDGET, round_to=1, variant=variant, seed=seed)
        model = secateur.apply_plan(dense, plan)
        record.put(key, "cut", setting.accuracy(model))
        options = {"epochs": given.epochs, "learning_rate": given.learning_rate} | WAYS.get(name, {})
        frozen = highest_filters(scores, options.pop("share", 0.0), plan=plan)
        teacher: nn.Module | None = dense if {"distillation", "feature_weight"} & options.keys() else None
        begun = time.perf_counter()
        history = secateur.fine_tune(
            *(model, data.train.fresh(), data.validation),
            teacher=teacher,
            plan=plan,
            freeze=frozen,
            seed=seed,
            precision=given.precision,
            **options,
        )
        record.put(key, "seconds", time.perf_counter() - begun)
        if history.epochs:
            record.put(key, "validation", 100 * max(epoch.accuracy or 0.0 for epoch in history.epochs))
        record.put(key, "held-out", setting.accuracy(model))


def check(record: Record, given: argparse.Namespace) -> None:
    """Assert that training beats recalibration alone, each seed by itself."""
    for seed in given.seeds:
        least = record.of(_key(given, seed, "recalibrated")).get("held-out")
        for name in given.ways:
            found = record.of(_key(given, seed, name)).get("held-out")
            if name != "recalibrated" and least is not None and found is not None:
                assert found > least, f"seed {seed}: {name} gives {found:.2f}%, recalibration alone {least:.2f}%"


if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True
    main()
