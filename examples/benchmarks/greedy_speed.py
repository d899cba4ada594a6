"""How long the greedy search takes: each candidate judged literally, and in a race, on a trained ResNet-56.

    python examples/benchmarks/greedy_speed.py --steps 3       # both sides at three steps of the search: minutes
    python examples/benchmarks/greedy_speed.py                 # and the whole literal search: an hour on one thread
    python examples/benchmarks/greedy_speed.py --smoke         # ResNet-20, few images, a small cut, no bound

The search is Algorithm 1: channels inside the blocks, ranked by L1, at least 1% of the MACs a step, down to half of
them, each candidate judged by its accuracy on 1,000 images without training. The literal side masks one candidate after
another and runs the whole network on all images (`secateur.evaluation.MaskedAccuracy`); the other side is
`secateur.evaluation.CandidateWorth`. Printed are the seconds of both, the evaluations of the literal side, and whether
the plans are the same, which is asserted, as is that the race takes at most a tenth of the time.

With --steps N the race goes all the way, and the literal side judges the candidates of N of its steps, evenly spread
over the search: the same candidates, so that the ratio of these steps' times says what the whole search would. The
decisions at these steps must be the same.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from _trained_resnet56 import Setting, add_arguments, load
from torch import Tensor

import secateur
from secateur.evaluation import CandidateWorth, MaskedAccuracy
from secateur.protocols import Evaluate, Kept, Worth
from secateur.records import PruningPlan, ScoreTable
from secateur.scoring import scores_by_name
from secateur_cli.inputs.data import Data

BUDGET, DELTA, IMAGES, BATCH = "50%", 0.01, 1000, 250
RATIO = 10


class Search(NamedTuple):
    """What every search here is given."""

    setting: Setting
    scores: ScoreTable
    budget: str

    def __call__(self, evaluate: Evaluate) -> PruningPlan:
        _, groups, _ = self.setting
        return secateur.greedy_plan(
            groups, self.scores, self.setting.cost, self.budget, evaluate, delta=DELTA, round_to=1
        )


@dataclass
class Timed:
    """A race that writes down its candidates, what they were worth, and how long that took."""

    evaluate: CandidateWorth
    races: list[tuple[Sequence[Kept], list[Worth], float]] = field(default_factory=list)

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.evaluate.settings

    def __call__(self, kept: Kept) -> float:
        return self.evaluate(kept)

    def race(self, candidates: Sequence[Kept], **more: Any) -> list[Worth]:
        begun = time.perf_counter()
        worths = self.evaluate.race(candidates, **more)
        self.races.append((candidates, worths, time.perf_counter() - begun))
        return worths


def main() -> None:
    parser = argparse.ArgumentParser(description="the greedy search, literally and in races")
    parser.add_argument("--steps", type=int, help="judge the candidates of so many steps literally, not all")
    parser.add_argument("--smoke", action="store_true", help="a small network, few images, a small cut, no bound")
    add_arguments(parser, threads=1)
    given = parser.parse_args()
    setting = load(given, batch_size=BATCH)
    network, groups, data = setting
    scores = scores_by_name(network, data.calibration, "l1", groups=groups)
    search = Search(setting, scores, "97%" if given.smoke else BUDGET)
    print(f"{setting.name}, {len(groups)} groups, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    exact(search, images(data), 1 if given.smoke else given.steps, asserted=not given.smoke)


def exact(search: Search, batches: list[tuple[Tensor, Tensor]], steps: int | None, *, asserted: bool) -> None:
    """Search in races and literally; print both times, and compare the plans or the decisions."""
    network, groups, _ = search.setting
    begun = time.perf_counter()
    timed = Timed(CandidateWorth(network, groups, batches))
    plan = search(timed)
    raced = time.perf_counter() - begun
    judged = sum(len(candidates) for candidates, _, _ in timed.races)
    print(f"in races: {raced:.1f} s, {len(timed.races)} steps, {judged} candidates", flush=True)
    literal = MaskedAccuracy(network, groups, batches)
    if steps is None:
        begun = time.perf_counter()
        same = search(literal).fingerprint == plan.fingerprint
        seconds = time.perf_counter() - begun
    else:
        chosen = [round((number + 0.5) * len(timed.races) / steps - 0.5) for number in range(steps)]
        seconds, raced, same = 0.0, 0.0, True
        for number in chosen:
            candidates, found, took = timed.races[number]
            begun = time.perf_counter()
            worths = [literal(kept) for kept in candidates]
            needed = time.perf_counter() - begun
            best = max(worths)
            agree = all(f.value == w if f.exact else w <= f.value < best for w, f in zip(worths, found, strict=True))
            print(
                f"step {number + 1:3}: best {best:.3f}, literally {needed:6.1f} s, in a race {took:5.1f} s, "
                f"{needed / took:5.1f} times faster, {'same' if agree else 'other'} worths",
                flush=True,
            )
            seconds, raced, same = seconds + needed, raced + took, same and agree
    print(f"literally {seconds:.1f} s, in races {raced:.1f} s: {seconds / raced:.1f} times faster")
    print(f"the {'plans' if steps is None else 'decisions'} are {'the same' if same else 'not the same'}")
    assert same, "the race decides otherwise than the literal search"
    if asserted:
        assert seconds >= RATIO * raced, f"only {seconds / raced:.1f} times faster, not {RATIO}; is the machine busy?"


def images(data: Data) -> list[tuple[Tensor, Tensor]]:
    """Return the images that a search judges by."""
    inputs, labels = (torch.cat(parts) for parts in zip(*data.validation, strict=True))
    drawn = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:IMAGES]
    return list(zip(inputs[drawn].split(BATCH), labels[drawn].split(BATCH), strict=True))


if __name__ == "__main__":
    main()
