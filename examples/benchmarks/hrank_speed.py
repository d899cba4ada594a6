"""How much HRank costs beside the forward pass, and that its ranks are those of the slow definition.

    python examples/benchmarks/hrank_speed.py                       # ResNet-56, 500 images of 32 x 32
    python examples/benchmarks/hrank_speed.py --network resnet50    # ResNet-50, 32 images of 224 x 224
    python examples/benchmarks/hrank_speed.py --smoke               # some seconds, no bound is asserted

Three things are timed in turn, several times, and their medians compared:

* the bare forward pass over the images,
* `collect_scores(..., "hrank")`: forward pass, feature maps and ranks,
* the naive way on a part of the images: a forward pass with one batched `torch.linalg.matrix_rank` for each layer.

The rank of every map of that part is compared first. ResNet-56 and the images are the trained network and CIFAR-10 from
--shared (by default $SECATEUR_SHARED, or the folder `shared` beside the checkout); without them an untrained network
and random images stand in, which is said. ResNet-50 is not trained: its batch norms are set on the images.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur import collect_scores
from secateur.criteria import feature_map_ranks
from secateur.criteria.certified_rank import certified_ranks
from secateur.criteria.rank_certificate import OPEN
from secateur.feature_maps.tap import producers, tapped
from secateur.networks import resnet20, resnet56
from secateur.weights import load_weights

SHARED = Path(os.environ.get("SECATEUR_SHARED", Path(__file__).resolve().parents[3] / "shared"))
BOUNDS = {"resnet56": 3.0, "resnet50": 2.0}


def main() -> None:
    parser = argparse.ArgumentParser(description="HRank beside the forward pass")
    parser.add_argument("--network", choices=sorted(BOUNDS), default="resnet56")
    parser.add_argument("--images", type=int, help="how many (500, or 32 for resnet50)")
    parser.add_argument("--batch-size", type=int, help="images a batch (100, or 16 for resnet50)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--naive", type=int, help="images of the naive way (100, or 2 for resnet50)")
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--smoke", action="store_true", help="few images, one repeat, no bound")
    given = parser.parse_args()

    large = given.network == "resnet50"
    images = given.images or (32 if large else 500)
    batch_size = given.batch_size or (16 if large else 100)
    naive = given.naive or (2 if large else 100)
    repeats = given.repeats
    if given.smoke:
        images, batch_size, naive, repeats = (2, 2, 1, 1) if large else (8, 4, 2, 1)

    pixels = cifar(given.shared, images)
    network = resnet50(pixels) if large else small_resnet(given.shared, smoke=given.smoke)
    if large:
        pixels = enlarged(pixels)
    batches = list(pixels.split(batch_size))
    part = list(pixels[:naive].split(batch_size))
    convolutions = {name: module for name, module in producers(network).items() if isinstance(module, nn.Conv2d)}
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    name = "resnet20" if given.smoke and not large else given.network
    print(f"{name}, {len(pixels)} images, batches of {batch_size}, {threads} threads, load {load:.1f}")

    maps, decomposed = compare_ranks(network, part, convolutions)
    print(f"ranks of {maps} maps in {len(convolutions)} layers: all equal; {decomposed} needed a decomposition")

    def forward() -> None:
        for batch in batches:
            network(batch)

    def naively() -> None:
        with tapped(network, lambda _, maps: torch.linalg.matrix_rank(maps), layers=convolutions):
            for batch in part:
                network(batch)

    ways: dict[str, tuple[Callable[[], object], int]] = {
        "forward pass": (forward, len(pixels)),
        "collect_scores, hrank": (lambda: collect_scores(network, batches, "hrank", samples=len(pixels)), len(pixels)),
        "matrix_rank, layer by layer": (naively, sum(map(len, part))),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for _ in range(repeats + 1):
            for name, (way, count) in ways.items():
                start = time.perf_counter()
                way()
                times[name].append((time.perf_counter() - start) / count)
    medians = {name: statistics.median(seconds[1:]) for name, seconds in times.items()}  # the first warms up
    print(f"{'':30}{'ms an image':>12}{'x forward':>11}   median of {repeats}")
    for name, seconds in medians.items():
        print(f"{name:30}{1e3 * seconds:12.2f}{seconds / medians['forward pass']:11.2f}")
    ratio = medians["collect_scores, hrank"] / medians["forward pass"]
    if not given.smoke:
        bound = BOUNDS[given.network]
        assert ratio <= bound, f"HRank takes {ratio:.2f} forward passes, more than {bound}; is the machine busy?"
        print(f"HRank takes {ratio:.2f} forward passes, at most {bound:.0f} are allowed")


def compare_ranks(network: nn.Module, batches: list[Tensor], layers: dict[str, nn.Module]) -> tuple[int, int]:
    """Assert that all ranks are those of one decomposition a map; return how many maps, and how many needed one."""
    counts = torch.zeros(2, dtype=torch.int64)

    def compare(layer: str, maps: Tensor) -> None:
        ranks, matrices = feature_map_ranks(maps).flatten(), maps.flatten(0, 1)
        different = (ranks != torch.linalg.matrix_rank(matrices)).nonzero()[:, 0].tolist()
        # in a batch LAPACK rounds a matrix by its place in memory, so a map that differs is decomposed alone
        wrong = [i for i in different if ranks[i] != torch.linalg.matrix_rank(matrices[i].clone())]
        assert not wrong, f"{len(wrong)} ranks of layer {layer!r} are wrong"
        counts.add_(torch.tensor([len(matrices), int((certified_ranks(matrices) == OPEN).sum())]))

    with torch.no_grad(), tapped(network, compare, layers=layers):
        for batch in batches:
            network(batch)
    return int(counts[0]), int(counts[1])


def cifar(shared: Path, count: int) -> Tensor:
    """Return `count` test images (N, 3, 32, 32), normalised, the same number of each class."""
    archive = shared / "data" / "cifar10-jpeg-val.tar.gz"
    if not archive.is_file():
        print(f"{archive} is not there: random images stand in, which makes other ranks")
        return functional.interpolate(torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)), size=32)
    from PIL import Image
    from torchvision.transforms import functional as transforms

    found: dict[str, list[Tensor]] = {}
    with tarfile.open(archive) as files:
        for member in files:
            chosen = found.setdefault(Path(member.name).parent.name, [])
            data = files.extractfile(member) if member.name.endswith(".jpg") and 10 * len(chosen) < count else None
            if data is not None:
                pixels = transforms.to_tensor(Image.open(io.BytesIO(data.read())).convert("RGB"))
                chosen.append(transforms.normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images = torch.stack([image for chosen in found.values() for image in chosen])
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]]


def enlarged(pixels: Tensor) -> Tensor:
    return functional.interpolate(pixels, size=224, mode="bicubic")


def small_resnet(shared: Path, *, smoke: bool) -> nn.Module:
    """Return the trained ResNet-56, or one with random weights where it is missing; ResNet-20 for a smoke test."""
    torch.manual_seed(0)
    network = resnet20() if smoke else resnet56()
    weights = shared / "models" / ("resnet20-cifar10.safetensors" if smoke else "resnet56-cifar10-jpeg.safetensors")
    if weights.is_file():
        load_weights(network, weights)
    else:
        print(f"{weights} is not there: random weights stand in, which makes other ranks")
    return network.eval()


def resnet50(pixels: Tensor) -> nn.Module:
    """Return torchvision's ResNet-50 with random weights, its batch norms set on up to 16 of the images."""
    from torchvision.models import resnet50 as build

    torch.manual_seed(0)
    network: nn.Module = build(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
    with torch.no_grad():
        network.train()(enlarged(pixels[:16]))
    return network.eval()


if __name__ == "__main__":
    main()
