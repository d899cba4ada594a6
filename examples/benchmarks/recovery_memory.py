"""What compensation costs on images of 224 x 224: the time beside the forward pass, and the memory beyond it.

    python examples/benchmarks/recovery_memory.py            # ResNet-50, 64 images: minutes
    python examples/benchmarks/recovery_memory.py --smoke    # SqueezeNet, 4 images, no bound is asserted

A third of the channels of a network with random weights goes, residual streams included, and every layer behind them is
solved for. Memory is the largest resident set of a process of its own that only makes the forward passes of both
networks, and of one that compensates; asserted is that the second needs at most the bound more that it was given.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time

import torch
import torchvision

import secateur

MEMORY = 2**31


def main() -> None:
    parser = argparse.ArgumentParser(description="what compensation costs on large images")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--smoke", action="store_true", help="a small network, few images, no bound")
    parser.add_argument("--only", choices=["forward", "compensate"], help="do this, print seconds and bytes, no more")
    given = parser.parse_args()
    if given.only:
        seconds = work(given.only, 4 if given.smoke else given.images, given.threads, smoke=given.smoke)
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    (bare, forward_peak), (seconds, peak) = measured("forward"), measured("compensate")
    load = os.getloadavg()[0]
    print(f"{'':22}{'seconds':>9}{'x forward':>11}{'peak GiB':>10}   {given.threads} threads, load {load:.1f}")
    print(f"{'forward passes, both':22}{bare:9.1f}{1.0:11.1f}{forward_peak / 2**30:10.2f}")
    print(f"{'compensate':22}{seconds:9.1f}{seconds / bare:11.1f}{peak / 2**30:10.2f}")
    if given.smoke:
        return
    more = peak - forward_peak
    assert more <= MEMORY, f"compensation takes {more / 2**30:.2f} GiB more than the forward pass"
    print(f"{more / 2**30:.2f} GiB more than the forward pass, at most {MEMORY / 2**30:.0f} are allowed")


def measured(way: str) -> tuple[float, float]:
    """Return the seconds and the largest resident set, in bytes, of a process that goes one way."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", way]
    seconds, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
    return float(seconds), float(peak)


def work(way: str, images: int, threads: int, *, smoke: bool) -> float:
    """Prune and go one way; return the seconds that it took."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = (torchvision.models.squeezenet1_1 if smoke else torchvision.models.resnet50)(weights=None).eval()
    batches = list(torch.randn(images, 3, 224, 224).split(16))
    groups = secateur.channel_groups(network, batches[0][:1])
    scores = secateur.weight_scores(network, "l1")
    cost = secateur.MacsCost(network, batches[0][:1], groups)
    plan = secateur.uniform_plan(groups, scores, cost, "50%", round_to=8)
    pruned = secateur.apply_plan(network, plan)
    with torch.inference_mode():
        network(batches[0]), pruned(batches[0])  # what comes first takes longer
    begun = time.perf_counter()
    if way == "forward":
        with torch.inference_mode():
            for batch in batches:
                network(batch), pruned(batch)
    else:
        secateur.compensate(network, pruned, plan, batches, memory=MEMORY)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
