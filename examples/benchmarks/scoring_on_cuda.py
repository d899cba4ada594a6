"""Scoring on an NVIDIA device: what each criterion costs beside the bare forward pass, and that the scores stay.

    python examples/benchmarks/scoring_on_cuda.py              # a trained ResNet-56 and a ResNet-50, a few minutes
    python examples/benchmarks/scoring_on_cuda.py --smoke      # a small network, seconds

For each criterion: seconds on the processor and on the device, each beside a forward pass over the same images there,
and how far the scores of the two lie apart: the largest difference in a layer as a share of its largest score. Asserted
is, of HRank and DI, that this is at most a hundredth in every layer, and of reconstruction a tenth: its channels leave
one after the other, and an early tie may fall differently. A score of HRank is a mean of ranks, which differ where what
lies at the tolerance of the rank rounds differently; single ranks are not compared, nor is the order of the channels.
Where there is no device, a sentence says so and only the processor is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torchvision
from _trained_resnet56 import add_arguments, load
from torch import Tensor, nn

import secateur
from secateur.networks import resnet20
from secateur.records import ChannelGroups, ScoreTable
from secateur.scoring import scores_by_name

CRITERIA = {"hrank": 1e-2, "di": 1e-2, "reconstruction": 1e-1}
Batches = list[tuple[Tensor, Tensor]]


class Subject(NamedTuple):
    """A network and the images to score it with."""

    name: str
    network: nn.Module
    groups: ChannelGroups
    batches: Batches


def main() -> None:
    parser = argparse.ArgumentParser(description="criteria on an NVIDIA device")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a small network, seconds")
    add_arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    there = torch.cuda.is_available()
    device = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if there else "no CUDA device: CPU alone"
    print(f"torch {torch.__version__}, {given.threads} threads; {device}")
    for subject in [small()] if given.smoke else [trained(given), large()]:
        compare(subject, ["cpu", "cuda"] if there else ["cpu"], repeats=1 if given.smoke else given.repeats)


def small() -> Subject:
    torch.manual_seed(0)
    return _subject("resnet20", resnet20(), torch.randn(16, 3, 32, 32), 8)


def trained(given: argparse.Namespace) -> Subject:
    setting = load(given, limit=1000)
    batches = [(inputs, labels) for inputs, labels in setting.data.calibration]
    return Subject("trained resnet56 at 32", setting.network.cpu(), setting.groups, batches)


def large() -> Subject:
    torch.manual_seed(0)
    images = torch.randn(64, 3, 1, 1) + torch.randn(64, 3, 224, 224)
    return _subject("resnet50 at 224", torchvision.models.resnet50(weights=None), images, 16)


def _subject(name: str, network: nn.Module, images: Tensor, size: int) -> Subject:
    secateur.recalibrate_batch_norm(network, [images[:16]])
    groups = secateur.channel_groups(network.eval(), images[:2], residual="skip")
    return Subject(
        name,
        network,
        groups,
        list(zip(images.split(size), torch.arange(len(images)).remainder(10).split(size), strict=True)),
    )


def compare(subject: Subject, devices: list[str], *, repeats: int) -> None:
    """Print and assert what holds for one network."""
    print(f"\n{subject.name}, {sum(len(labels) for _, labels in subject.batches)} images")
    tables: dict[tuple[str, str], ScoreTable] = {}
    for device in devices:
        network = subject.network.to(device)
        forward = seconds(lambda network=network, device=device: run(network, subject.batches, device), repeats)
        print(f"  {device:<5} forward pass {forward:8.3f} s")
        for criterion in CRITERIA:

            def score(criterion: str = criterion, network: nn.Module = network, device: str = device) -> None:
                found = scores_by_name(network, subject.batches, criterion, groups=subject.groups)
                tables[criterion, device] = found

            taken = seconds(score, repeats)
            print(f"  {device:<5} {criterion:<14} {taken:8.3f} s, {taken / forward:6.1f} forward passes")
    subject.network.cpu()
    for criterion, allowed in CRITERIA.items() if len(devices) > 1 else ():
        here, there = tables[criterion, "cpu"], tables[criterion, "cuda"]
        apart = {name: float((here[name] - there[name].cpu()).abs().max() / here[name].abs().max()) for name in here}
        worst = max(apart, key=lambda name: apart[name])
        print(f"  {criterion}: cpu and cuda at most {apart[worst]:.1e} of a layer's largest score apart ({worst})")
        assert apart[worst] <= allowed, f"{criterion}: {apart[worst]:.1e} apart in {worst}, {allowed:.0e} are allowed"


@torch.inference_mode()
def run(network: nn.Module, batches: Batches, device: str) -> None:
    for inputs, _ in batches:
        network(inputs.to(device))


def seconds(run: Callable[[], None], repeats: int) -> float:
    """Return the median of some runs after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
