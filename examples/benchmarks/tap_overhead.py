"""What finding every layer's feature map costs beside the forward pass, when nothing is computed from the maps.

    python examples/benchmarks/tap_overhead.py            # asserts a tenth at most; a minute on two idle cores
    python examples/benchmarks/tap_overhead.py --smoke    # two small passes each, no bound is asserted

The forward pass is timed bare and under the tap with a receiver that does nothing, in turn. The ratio is the median of
the ratios of such pairs, so that a machine that gets slower or faster meanwhile does not disturb it. Memory that was
used stays with the process, as with most allocators that servers use: glibc gives large maps back to the system at some
sizes of the heap and not at others, which moves either time by a quarter from run to run. --give-back leaves it so.
"""

import argparse
import ctypes
import os
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import nn

from secateur.feature_maps import tapped
from secateur.networks import resnet56

BOUND = 1.10


def main() -> None:
    parser = argparse.ArgumentParser(description="The tap beside the forward pass")
    parser.add_argument("--pairs", type=int, default=21, help="how often each of the two is timed")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of torch's threads to try")
    parser.add_argument("--give-back", action="store_true", help="let the allocator return memory to the system")
    parser.add_argument("--smoke", action="store_true", help="seconds, no bound is asserted")
    given = parser.parse_args()
    if not given.give_back:
        keep_memory()
    pairs, share = (2, 16) if given.smoke else (given.pairs, 1)

    networks = {
        "resnet56": (resnet56(), torch.randn(128 // share, 3, 32, 32)),
        "resnet50": (torchvision.models.resnet50(weights=None), torch.randn(max(1, 4 // share), 3, 224, 224)),
    }
    print(f"load {os.getloadavg()[0]:.1f} before; {pairs} pairs")
    print(f"{'network':<10}{'images':>14}{'threads':>9}{'bare':>10}{'tapped':>10}{'ratio':>8}{'middle half':>16}")
    ratios = []
    for name, (network, images) in networks.items():
        for threads in given.threads:
            torch.set_num_threads(threads)
            bare, under_tap = timed(network.eval(), images, pairs)
            of_pairs = [slow / fast for slow, fast in zip(under_tap, bare, strict=True)]
            low, ratio, high = statistics.quantiles(of_pairs, n=4, method="inclusive")
            ratios.append(ratio)
            size = " x ".join(map(str, [images.shape[0], *images.shape[2:]]))
            times = f"{statistics.median(bare):>8.3f} s{statistics.median(under_tap):>8.3f} s"
            print(f"{name:<10}{size:>14}{threads:>9}{times}{ratio:>8.3f}{f'{low:.3f} to {high:.3f}':>16}")
    if given.smoke:
        return
    assert max(ratios) <= BOUND, f"the tap costs {max(ratios) - 1:.1%} of a forward pass; the bound is {BOUND - 1:.0%}"
    print(f"all ratios at most {BOUND:.2f}")


def timed(network: nn.Module, images: torch.Tensor, pairs: int) -> tuple[list[float], list[float]]:
    """Return the seconds of the bare passes and of those under the tap, taken in turn; either comes first."""

    def under_tap() -> float:
        with tapped(network, lambda _layer, _maps: None):
            return seconds(lambda: network(images))

    def bare() -> float:
        return seconds(lambda: network(images))

    found: dict[Callable[[], float], list[float]] = {bare: [], under_tap: []}
    with torch.no_grad():
        bare(), under_tap()
        for pair in range(pairs):
            for which in (bare, under_tap) if pair % 2 else (under_tap, bare):
                found[which].append(which())
    return found[bare], found[under_tap]


def keep_memory() -> None:
    """Ask glibc to take all memory from the heap and to return none; elsewhere nothing happens."""
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):
        no_mappings, no_trimming = (-4, 0), (-1, 2**31 - 1)  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
        allocator.mallopt(*no_mappings)
        allocator.mallopt(*no_trimming)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
