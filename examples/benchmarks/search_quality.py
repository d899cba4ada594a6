"""Which way of spending a budget holds up on images that the search never saw: a trained ResNet-56, over seeds.

    python examples/benchmarks/search_quality.py                        # all that is not recorded yet: hours
    python examples/benchmarks/search_quality.py --seeds 0 --epochs 0   # one seed, without training
    python examples/benchmarks/search_quality.py --worths               # what a greedy search is best judged by
    python examples/benchmarks/search_quality.py --device cuda          # minutes
    python examples/benchmarks/search_quality.py --show                 # the table of what is recorded
    python examples/benchmarks/search_quality.py --smoke                # ResNet-20, few images, one criterion, no bound

For each criterion the budget is spent uniformly, by the greedy search (raw accuracy on 1,000 images, as published) and
by the criterion's own error curves (`secateur.reconstruction_scores(order=...)` and `secateur.curve_plan`); `refined`
is a local search from the curves of `reconstruction`. Shown is the percentage of the 5,000 held-out images answered
rightly: after the cut, with batch norm recalibrated, compensated, compensated with the channels of these widths chosen
layer by layer (`secateur.reconstruct`, which is reconstruction's own way), and after the same two epochs in bfloat16
from the compensated weights (other --epochs and --precision have columns of their own); the mean over the seeds and,
behind the sign, half of its 95% t-interval. A seed decides which training images are scored, which are set aside to
judge candidates on, and the order in training.

With --worths, greedy searches in the order of L1 are judged by different measures and recoveries instead. Every figure
is recorded as soon as it is known, a line each in a file that the next call completes; the worths of candidates are
kept in journals beside it, so that the search down to half goes on where the one down to 70% ended. The seconds are
those of the search: those of making error curves are in them, those of scores are not, and there are none for a search
that went on from a journal; rows from before this rule also hold what was scored on the way. Several processes may
share the work: `--part 1/3`, `--part 2/3`, `--part 3/3`. Asserted is what the error curves of reconstruction lose
against the dense network, each seed by itself.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from _record import USUAL, Record, part, record_of, stage_of, table, trainings
from _trained_resnet56 import Setting, add_arguments, load

import secateur
from secateur.batches import rebatch
from secateur.evaluation import CandidateWorth
from secateur.journal import Journal, identify
from secateur.precision import PRECISIONS
from secateur.records import PruningPlan, ScoreTable
from secateur.scoring import scores_by_name

CRITERIA = ("l1", "hrank", "di", "reconstruction")
SEARCHES = ("uniform", "greedy", "curves", "refined")
WORTHS = [
    {"measure": measure, "recovery": recovery}
    for recovery in ("none", "recalibrate", "compensate")
    for measure in ("accuracy", "loss", "fidelity")
]
BOUNDS = {"70%": 1.2, "50%": 3.8, "40%": 7.3}  # points that the error curves of reconstruction may lose, untrained
STAGES = ("cut", "recalibrated", "compensated", "layer by layer")
IMAGES = 1000  # to compensate with, and to judge candidates on
DELTA, LEARNING_RATE, EPOCHS = 0.01, 0.03, 2
RECORD = Path(__file__).with_name("search_quality.jsonl")


@dataclass
class Seed:
    """One seed: its images, the scores and error curves of the dense network, and the plans that were made of them."""

    number: int
    setting: Setting
    journals: Path
    plans: dict[str, PruningPlan] = field(default_factory=dict)
    tables: dict[str, ScoreTable] = field(default_factory=dict)
    drawn: dict[str, tuple[ScoreTable, float]] = field(default_factory=dict)

    @cached_property
    def judges(self) -> list[Any]:
        return list(rebatch(self.setting.data.validation, None, samples=IMAGES))

    def scores(self, criterion: str) -> ScoreTable:
        if criterion == "reconstruction":
            return self.curves(criterion)[0]
        if criterion not in self.tables:
            network, groups, data = self.setting
            self.tables[criterion] = scores_by_name(network, data.calibration, criterion, groups=groups)
        return self.tables[criterion]

    def curves(self, criterion: str) -> tuple[ScoreTable, float]:
        """Return a criterion's error curves, and in how many seconds they were made."""
        if criterion not in self.drawn:
            network, groups, data = self.setting
            order = None if criterion == "reconstruction" else self.scores(criterion)
            begun = time.perf_counter()
            if order is None:
                found = scores_by_name(network, data.calibration, criterion, groups=groups)
            else:
                found = secateur.reconstruction_scores(network, groups, data.calibration, samples=IMAGES, order=order)
            self.drawn[criterion] = found, time.perf_counter() - begun
        return self.drawn[criterion]

    def worth(self, measure: Any, recovery: Any) -> CandidateWorth:
        network, groups, data = self.setting
        images = None if recovery == "none" else data.calibration
        return CandidateWorth(network, groups, self.judges, measure=measure, recovery=recovery, calibration=images)

    def journal(self, name: str) -> Journal:
        network, groups, _ = self.setting
        self.journals.mkdir(exist_ok=True)
        identity = identify(network, groups, self.judges, seed=self.number, settings={"search": name})
        return Journal.open(self.journals / f"{self.number} {name}.sqlite", identity)

    def plan(self, search: str, criterion: str, budget: str) -> tuple[PruningPlan, float | None]:
        """Return what a search finds, and its seconds, without those of the scores and with those of error curves.

        There are none where the journal knew worths already.
        """
        if search.startswith("greedy"):
            return self.greedy(search, criterion, budget)
        by_curves = search != "uniform"
        scores, seconds = self.curves(criterion) if by_curves else (self.scores(criterion), 0.0)
        groups, cost = self.setting.groups, self.setting.cost
        begun = time.perf_counter()
        plan = (secateur.curve_plan if by_curves else secateur.uniform_plan)(groups, scores, cost, budget, round_to=1)
        if search == "refined":
            worth = self.worth("loss", "compensate")
            plan = secateur.refine_plan(groups, scores, cost, budget, worth, plan, round_to=1)
        return plan, seconds + time.perf_counter() - begun

    def greedy(self, search: str, criterion: str, budget: str) -> tuple[PruningPlan, float | None]:
        groups, cost = self.setting.groups, self.setting.cost
        _, measure, recovery = (search if " " in search else "greedy accuracy none").split()
        with self.journal(f"{criterion} {measure} {recovery}") as journal:
            scores = journal.scores(criterion, lambda: self.scores(criterion))
            known, begun = journal.evaluations, time.perf_counter()
            worth = journal.remembering(self.worth(measure, recovery))
            plan = secateur.greedy_plan(groups, scores, cost, budget, worth, delta=DELTA, round_to=1)
            return plan, None if known else time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description="what each way of spending a budget leaves on unseen images")
    parser.add_argument("--budgets", nargs="*", default=["70%", "50%"], help="shares of the dense network's MACs")
    parser.add_argument("--criteria", nargs="*", default=list(CRITERIA))
    parser.add_argument("--searches", nargs="*", default=list(SEARCHES), choices=SEARCHES)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="train for so many epochs at the end; 0: not at all")
    parser.add_argument("--precision", default=USUAL, choices=PRECISIONS, help="of the training")
    parser.add_argument("--worths", action="store_true", help="compare what a greedy search is judged by, instead")
    parser.add_argument(
        "--record", type=Path, help=f"completed, not repeated; default: {RECORD.name} beside the script"
    )
    parser.add_argument("--part", type=part, default=(0, 1), help="K/N: every N-th row, from the K-th on")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument(
        "--smoke", action="store_true", help="a small network, few images, one criterion, nothing is asserted"
    )
    add_arguments(parser)
    given = parser.parse_args()
    if given.smoke:
        given.criteria, given.budgets, given.seeds = given.criteria[:1], given.budgets[:1], given.seeds[:1]
        given.searches, given.epochs = ["curves"], 0
    place = record_of(given, RECORD)
    record = Record(place, torch.cuda.get_device_name() if given.device == "cuda" else given.device)
    cells = [
        (criterion, search, budget)
        for budget, criterion, search in itertools.product(given.budgets, given.criteria, given.searches)
        if search != "refined" or criterion == "reconstruction"
    ]
    if given.worths:
        names = [f"greedy {worth['measure']} {worth['recovery']}" for worth in WORTHS][: 1 if given.smoke else None]
        cells = [("l1", name, budget) for budget, name in itertools.product(given.budgets, names)]
        given.epochs = 0
    print(
        f"{'resnet20' if given.smoke else 'resnet56'}, {given.threads} threads, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    first, parts = given.part
    for epochs in sorted({0, given.epochs}):  # first what needs no training, for all of them
        for number in () if given.show else given.seeds:
            seed = Seed(number, load(given, seed=number), place.with_suffix(".journals"))
            if "cut" not in record.of(f"{number} dense"):
                record.put(f"{number} dense", "cut", seed.setting.accuracy(seed.setting.network))
            for cell in cells[first::parts]:
                measure(seed, cell, record, epochs=epochs, precision=given.precision)
    names = ["dense", *(", ".join(cell[:2]) + " " + cell[2] for cell in cells)]
    table(record, names, [*STAGES, *trainings(record)], counts=("macs", "seconds"))
    if not given.smoke:
        check_curves(record)


def measure(seed: Seed, cell: tuple[str, str, str], record: Record, *, epochs: int, precision: str) -> None:
    """Record the stages of one plan that are not recorded yet."""
    (criterion, search, budget), (network, _, data) = cell, seed.setting
    key = f"{seed.number} {criterion}, {search} {budget}"
    trained = stage_of(epochs, precision, usual=EPOCHS)
    missing = {*STAGES, *([trained] if epochs else [])} - record.of(key).keys()
    missing -= set() if criterion == "reconstruction" else {"layer by layer"}
    if not missing:
        return
    if key not in seed.plans:
        seed.plans[key], seconds = seed.plan(search, criterion, budget)
        if seconds is not None:
            record.put(key, "seconds", seconds)
    plan = seed.plans[key]
    record.put(key, "macs", 100 * plan.cost_after / plan.cost_before)
    cut = secateur.apply_plan(network, plan)
    if "cut" in missing:
        record.put(key, "cut", seed.setting.accuracy(cut))
    if "recalibrated" in missing:
        recalibrated = copy.deepcopy(cut)
        secateur.recalibrate_batch_norm(recalibrated, data.calibration)
        record.put(key, "recalibrated", seed.setting.accuracy(recalibrated))
    if missing & {"compensated", trained}:
        secateur.compensate(network, cut, plan, data.calibration, samples=IMAGES)
    if "compensated" in missing:
        record.put(key, "compensated", seed.setting.accuracy(cut))
    if "layer by layer" in missing:
        chosen = secateur.reconstruct(network, plan, data.calibration, samples=IMAGES).model
        record.put(key, "layer by layer", seed.setting.accuracy(chosen))
    if trained in missing:
        options: dict[str, Any] = {
            "epochs": epochs,
            "learning_rate": LEARNING_RATE,
            "seed": seed.number,
            "precision": precision,
        }
        secateur.fine_tune(cut, data.train.fresh(), **options)
        record.put(key, trained, seed.setting.accuracy(cut))


def check_curves(record: Record) -> None:
    """Assert what the curves of reconstruction lose, each seed by itself."""
    for key, row in record.rows.items():
        number, name = key.split(" ", 1)
        budget = name.rpartition(" ")[2]
        if name == f"reconstruction, curves {budget}" and budget in BOUNDS and "layer by layer" in row:
            dense = record.of(f"{number} dense").get("cut")
            if dense is None:
                print(f"seed {number}: the dense network has not been measured")
                continue
            lost = dense - row["layer by layer"]
            print(f"seed {number}: the curves lose {lost:.2f} points at {budget}, at most {BOUNDS[budget]} are allowed")
            assert lost <= BOUNDS[budget], f"seed {number}: {lost:.2f} points lost at {budget}, over {BOUNDS[budget]}"


if __name__ == "__main__":
    main()
