"""How long the greedy search takes: each candidate judged literally, and in a race, on a trained ResNet-56.

    python examples/benchmarks/greedy_speed.py --steps 3       # both sides at three steps of the search: minutes
    python examples/benchmarks/greedy_speed.py                 # and the whole literal search: an hour on one thread
    python examples/benchmarks/greedy_speed.py --approximate   # and what the approximation costs, over three seeds
    python examples/benchmarks/greedy_speed.py --smoke         # few images, a small cut, no bound is asserted

The search is Algorithm 1: channels inside the blocks, ranked by L1, at least 1% of the MACs a step, down to half of
them, each candidate judged by its accuracy on 1,000 images without training. The literal side masks one candidate after
another and runs the whole network on all images (`secateur.evaluation.MaskedAccuracy`); the other side is
`secateur.evaluation.CandidateWorth`. Printed are the seconds of both, the evaluations of the literal side, and whether
the plans are the same, which is asserted, as is that the race takes at most a tenth of the time.

With --steps N the race goes all the way, and the literal side judges the candidates of N of its steps, evenly spread
over the search: the same candidates, so that the ratio of these steps' times says what the whole search would. The
decisions at these steps must be the same.

With --approximate, three searches on other images each are done twice, exactly and approximately; asserted is that
without training the approximate plans answer at most 0.3 points fewer of the 5,000 held-out images on average.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur
from secateur.channel_map import with_channel_maps
from secateur.evaluation import CandidateWorth, MaskedAccuracy
from secateur.networks import resnet56
from secateur.protocols import Evaluate, Kept, Worth
from secateur.records import ChannelGroups, PruningPlan, ScoreTable
from secateur.scoring import scores_by_name
from secateur.weights import load_weights
from secateur_cli.data import Data, load_data
from secateur_cli.schema import DataConfig

SHARED = Path(__file__).resolve().parents[3] / "shared"
WEIGHTS, TRAIN, TEST = "models/resnet56-cifar10-jpeg.safetensors", "cifar10-jpeg-train", "cifar10-jpeg-val"
BUDGET, DELTA, IMAGES, BATCH = "50%", 0.01, 1000, 250
RATIO, POINTS, SEEDS = 10, 0.3, (0, 1, 2)


@dataclass
class Setting:
    """What every search here is given."""

    network: nn.Module
    groups: ChannelGroups
    scores: ScoreTable
    cost: secateur.MacsCost
    budget: str

    def search(self, evaluate: Evaluate) -> PruningPlan:
        return secateur.greedy_plan(self.groups, self.scores, self.cost, self.budget, evaluate, delta=DELTA)


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
    parser.add_argument("--approximate", action="store_true", help="compare exact and approximate searches")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shared", type=Path, default=SHARED, help="the folder with models/ and data/")
    parser.add_argument("--smoke", action="store_true", help="few images, a small cut, no bound")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    needed = [given.shared / WEIGHTS, *(given.shared / "data" / f"{name}.tar.gz" for name in (TRAIN, TEST))]
    missing = [str(path) for path in needed if not path.is_file()]
    if missing:
        sys.exit(f"needs {' and '.join(missing)}; --shared names another folder")

    paths = {"train": needed[1], "test": needed[2]}
    config = DataConfig(source="image-folder", image_size=32, batch_size=BATCH, **paths)
    data = load_data(config, folder=Path(), seed=0, limit=200 if given.smoke else None)
    network = resnet56().eval()
    load_weights(network, needed[0])
    network = with_channel_maps(network, data.example)
    groups = secateur.channel_groups(network, data.example, residual="skip")
    scores = scores_by_name(network, data.calibration, "l1", groups=groups)
    budget = "97%" if given.smoke else BUDGET
    setting = Setting(network, groups, scores, secateur.MacsCost(network, data.example, groups), budget)
    print(f"resnet56, {len(groups)} groups, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    if given.approximate:
        approximate(setting, data, 1 if given.smoke else len(SEEDS), asserted=not given.smoke)
    else:
        exact(setting, images(data, 0), 1 if given.smoke else given.steps, asserted=not given.smoke)


def exact(setting: Setting, batches: list[tuple[Tensor, Tensor]], steps: int | None, *, asserted: bool) -> None:
    """Search in races and literally; print both times, and compare the plans or the decisions."""
    begun = time.perf_counter()
    timed = Timed(CandidateWorth(setting.network, setting.groups, batches))
    plan = setting.search(timed)
    raced = time.perf_counter() - begun
    judged = sum(len(candidates) for candidates, _, _ in timed.races)
    print(f"in races: {raced:.1f} s, {len(timed.races)} steps, {judged} candidates", flush=True)
    literal = MaskedAccuracy(setting.network, setting.groups, batches)
    if steps is None:
        begun = time.perf_counter()
        same = setting.search(literal).fingerprint == plan.fingerprint
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


def approximate(setting: Setting, data: Data, seeds: int, *, asserted: bool) -> None:
    """Print what exact and approximate searches find on different images, and how long they take."""
    print(f"{'seed':>4}{'':4}{'exact':>8}{'seconds':>9}{'approximate':>14}{'seconds':>9}")
    lost = []
    for seed in SEEDS[:seeds]:
        found = []
        for lazily in (False, True):
            begun = time.perf_counter()
            worth = CandidateWorth(setting.network, setting.groups, images(data, seed), approximate=lazily)
            plan = setting.search(worth)
            seconds = time.perf_counter() - begun
            right = 100 * secateur.accuracy(secateur.apply_plan(setting.network, plan), data.test)
            found.append((right, seconds))
        (right, seconds), (nearly, few) = found
        print(f"{seed:4}{'':4}{right:8.2f}{seconds:9.0f}{nearly:14.2f}{few:9.0f}", flush=True)
        lost.append(right - nearly)
    mean = sum(lost) / len(lost)
    print(f"{mean:.2f} points are lost on average, at most {POINTS} are allowed")
    if asserted:
        assert mean <= POINTS, f"the approximation loses {mean:.2f} points, more than {POINTS}"


def images(data: Data, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return the images that a search judges by, other ones for each seed."""
    inputs, labels = (torch.cat(parts) for parts in zip(*data.validation, strict=True))
    drawn = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:IMAGES]
    return list(zip(inputs[drawn].split(BATCH), labels[drawn].split(BATCH), strict=True))


if __name__ == "__main__":
    main()
