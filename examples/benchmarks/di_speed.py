"""How much DI costs beside the forward pass, in time and memory, and that its scores are those of the plain formula.

    python examples/benchmarks/di_speed.py                       # ResNet-56, 10 batches of 128 images of 32 x 32
    python examples/benchmarks/di_speed.py --network resnet50    # ResNet-50, a batch of 128 images of 224 x 224
    python examples/benchmarks/di_speed.py --smoke               # some seconds, no bound is asserted

Timed in turn, several times over, are the bare forward pass over the images and `collect_scores(..., "di")`, in mixed
and in double precision; once for each network, after a pass that does not count, also the plain way: the dual form as
it is written, every layer's maps made float64, centred and multiplied as a whole. A way's ratio is the median over the
turns of its time by that of the forward pass beside it. The plain way's scores of the first batch are compared with
those of the criterion. Memory is the largest resident set of a process that makes the forward passes, and of one that
collects scores.

The networks and images are those of hrank_speed.py. Labels are drawn at random, of 10 classes or of 1000: scores
depend on them, time on how many classes share a batch. One batch takes as long as another: ResNet-50's ten batches can
be had by --batches 10, but take minutes.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hrank_speed import SHARED, cifar, enlarged, resnet50, small_resnet
from torch import Tensor, nn
from torch.nn import functional

from secateur import collect_scores
from secateur.criteria import DI
from secateur.feature_maps.tap import producers, tapped

BOUNDS = {"resnet56": 2.5, "resnet50": 3.0}
MEMORY = 2**31
TOLERANCE = 1e-4  # of a layer's largest score
Batches = list[tuple[Tensor, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description="DI beside the forward pass")
    parser.add_argument("--network", choices=sorted(BOUNDS), default="resnet56")
    parser.add_argument("--batches", type=int, help="of 128 images (10, or 1 for resnet50)")
    parser.add_argument("--repeats", type=int, help="how often each way is timed (5, or 3 for resnet50)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--smoke", action="store_true", help="few images, one repeat, no bound")
    parser.add_argument("--peak", choices=["forward", "di"], help="print this way's largest memory, and no more")
    given = parser.parse_args()
    large = given.network == "resnet50"
    count, repeats = given.batches or (1 if large else 10), given.repeats or (3 if large else 5)
    size = 128
    if not given.peak:  # first of all: a process starts with the largest resident set of the one that starts it
        forward_peak, peak = (peak_memory(way) for way in ("forward", "di"))
    if given.smoke:
        count, repeats, size = 1, 1, 4 if large else 20
    torch.set_num_threads(given.threads)

    pixels = cifar(given.shared, 10 * -(-count * size // 10))[: count * size]
    network = resnet50(pixels) if large else small_resnet(given.shared, smoke=given.smoke)
    labels = torch.randint(1000 if large else 10, (len(pixels),), generator=torch.Generator().manual_seed(0))
    pixels = enlarged(pixels) if large else pixels
    batches = list(zip(pixels.split(size), labels.split(size), strict=True))

    def forward() -> None:
        for images, _ in batches:
            network(images)

    def collect(rule: DI) -> Callable[[], object]:
        return lambda: collect_scores(network, batches, rule, samples=len(pixels))

    rule = DI(batch_size=size, memory=MEMORY)
    with torch.no_grad():
        if given.peak:
            (forward if given.peak == "forward" else collect(rule))()
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
            return
        print(f"{given.network}, {count} x {size} images, {torch.get_num_threads()} threads, load {load()} before")
        plain, seconds = plain_scores(network, batches[:1])
        compare(plain, collect_scores(network, batches[:1], rule, samples=size))
        ways = {
            "forward pass": forward,
            "collect_scores, di": collect(rule),
            "the same, precision double": collect(DI(batch_size=size, memory=MEMORY, precision="double")),
        }
        times = timed(ways, repeats)
    bare = times["forward pass"]
    times["plain dual form, one batch"] = [seconds * count]
    ratios = {}
    print(f"{'':30}{'ms an image':>12}{'x forward':>11}   medians of {repeats}; middle half")
    for name, spent in times.items():
        by = sorted(t / b for t, b in zip(spent, bare, strict=False))
        ratios[name] = statistics.median(by)
        middle = f"{by[len(by) // 4]:.2f} to {by[-1 - len(by) // 4]:.2f}"
        print(f"{name:30}{1e3 * statistics.median(spent) / len(pixels):12.2f}{ratios[name]:11.2f}   {middle}")
    print(f"memory: forward pass {forward_peak / 2**30:.2f} GiB, di {peak / 2**30:.2f} GiB; load {load()} after")
    if given.smoke:
        return
    bound = BOUNDS[given.network]
    ratio = ratios["collect_scores, di"]
    assert ratio <= bound, f"DI takes {ratio:.2f} forward passes, more than {bound}; is the machine busy?"
    assert peak <= forward_peak + MEMORY, f"DI takes {(peak - forward_peak) / 2**30:.2f} GiB more than the forward pass"
    print(f"DI takes {ratio:.2f} forward passes, at most {bound} are allowed")


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def timed(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - start)
    return times


def plain_scores(network: nn.Module, batches: Batches, *, rho: float = 0.1) -> tuple[dict[str, Tensor], float]:
    """Return eq. (6) of every layer, as it is written, and the seconds that a pass with it takes."""
    scores: dict[str, Tensor] = {}
    marks = functional.one_hot(batches[0][1].unique(return_inverse=True)[1]).double()

    def receive(layer: str, maps: Tensor) -> None:
        X = maps.flatten(1).double()
        X -= X.mean(0)
        kernel = X @ X.T + rho * torch.eye(len(X), dtype=torch.float64)
        F = torch.linalg.solve(kernel, marks - marks.mean(0)).T @ X
        scores[layer] = 2 * rho * F.square().sum(0).view(maps.shape[1], -1).sum(1)

    with torch.no_grad(), tapped(network, receive, layers=producers(network)):
        for _ in range(2):  # the first warms up
            start = time.perf_counter()
            for images, _ in batches:
                network(images)
            seconds = time.perf_counter() - start
    return scores, seconds


def compare(plain: dict[str, Tensor], scores: dict[str, Tensor]) -> None:
    """Assert that the scores are those of the plain form."""
    errors = {layer: float((scores[layer] - plain[layer]).abs().max() / plain[layer].max()) for layer in scores}
    worst = max(errors, key=lambda layer: errors[layer])
    print(f"scores of {len(scores)} layers: at most {errors[worst]:.1e} of the largest ({worst}) from the plain form's")
    assert errors[worst] <= TOLERANCE, f"the scores of {worst} are wrong by {errors[worst]:.1e} of the largest"


def peak_memory(way: str) -> int:
    """Return the largest resident set, in bytes, of a process of its own that goes one way with the same arguments."""
    command = [sys.executable, __file__, *sys.argv[1:], "--peak", way]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
