"""Every network of the project's table as ONNX: dense and pruned, float32 and float16, checked and compared with torch.

    python examples/benchmarks/onnx_networks.py                       # all of them; a long while on one core
    python examples/benchmarks/onnx_networks.py --networks resnet18 vgg16_bn
    python examples/benchmarks/onnx_networks.py --smoke               # one network

The weights are random, batch norm has gains of its own and statistics of the images it meets, and the images are noise
around a colour each: what is shown is that files are complete and right, not that networks are good. Half of the
channels of every group go. A file passes when onnx's checker accepts it (`export` insists), when no batch norm is left
behind a convolution (DenseNets have theirs before it), and when its outputs are those of torch in the same format:
within 1e-4 of the largest output, in float16 within 1e-2, or, where the network magnifies rounding more than that,
three times as far as torch in that format is from torch in float64 (the column "rounding"). Deep networks with random
weights magnify it a lot.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
import torchvision
from torch import Tensor, nn

import secateur
from secateur import networks
from secateur.networks.cifar_densenet import CifarDenseNet
from secateur_onnx import check_parity, export

NO_WAIT = {"init_weights": False}  # torchvision draws truncated normals for minutes
TORCHVISION = {
    "resnet18": ({}, 64),
    "resnet50": ({}, 64),
    "vgg16_bn": (NO_WAIT, 32),
    "mobilenet_v2": ({}, 64),
    "mobilenet_v3_large": ({}, 64),
    "densenet121": ({}, 64),
    "googlenet": (NO_WAIT | {"aux_logits": False}, 64),
    "inception_v3": (NO_WAIT | {"aux_logits": False}, 96),
    "efficientnet_b0": ({}, 64),
    "squeezenet1_0": ({}, 64),
    "regnet_y_400mf": ({}, 64),
    "convnext_tiny": ({}, 64),
    "vit_b_16": ({"image_size": 32}, 32),
    "shufflenet_v2_x1_0": ({}, 64),
}
OURS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "cifar_resnet20": (networks.resnet20, 3, 32),
    "cifar_resnet56": (networks.resnet56, 3, 32),
    "cifar_resnet110": (networks.resnet110, 3, 32),
    "cifar_vgg16_bn": (networks.vgg16_bn, 3, 32),
    "cifar_densenet40": (networks.densenet40, 3, 32),
    "cifar_densenet16": (lambda: CifarDenseNet(16), 3, 16),
    "cifar_googlenet": (networks.googlenet, 3, 32),
    "digits_resnet": (networks.digits_resnet, 1, 8),
    "shufflenet_thin": (lambda: torchvision.models.ShuffleNetV2([2, 2, 2], [8, 16, 32, 64, 64], 10), 3, 32),
}
SMALL = {"shufflenet_thin", "cifar_densenet16"}  # alike a larger one, and only run where they are named
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2}


def main() -> None:
    parser = argparse.ArgumentParser(description="All networks as ONNX")
    parser.add_argument("--networks", nargs="+", choices=[*TORCHVISION, *OURS], help="only these")
    parser.add_argument("--smoke", action="store_true", help="one small network")
    given = parser.parse_args()
    usual = [name for name in (*TORCHVISION, *OURS) if name not in SMALL]
    names = ["cifar_resnet20"] if given.smoke else given.networks or usual
    print(
        f"{'network':<20}{'':<8}{'format':<9}{'exporter':<12}{'opset':>5}{'file':>10}{'nodes':>7}{'batch norms':>12}"
        f"{'largest':>10}{'mean':>10}{'relative':>10}{'rounding':>10}{'top-1':>7}{'time':>8}"
    )
    failed = []
    for name in names:
        network, images = built(name)
        for side, model in {"dense": network, "pruned": half_of(name, network, images)}.items():
            for kind in TOLERANCES:
                try:
                    few = images[:2] if kind == torch.float16 else images  # slow in torch on a CPU
                    print(row(name, side, model.to(kind), few.to(kind)), flush=True)
                except Exception as error:
                    failed.append(f"{name}, {side}, {kind}: {type(error).__name__}: {error}")
                    print(failed[-1], flush=True)
    assert not failed, "\n".join(failed)


def built(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network in evaluation mode whose batch norm is not the initial one, and eight images."""
    torch.manual_seed(0)
    if name in OURS:
        build, channels, size = OURS[name]
        network = build()
    else:
        options, size = TORCHVISION[name]
        channels = 3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torchvision on its own initial weights
            network = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
    images = 2 * torch.randn(8, channels, 1, 1) + torch.randn(8, channels, size, size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    if name == "vit_b_16":
        nn.init.normal_(network.heads.head.weight, std=0.1)  # all zero in torchvision
    secateur.recalibrate_batch_norm(network, [images])
    return network.eval(), images


def half_of(name: str, network: nn.Module, images: Tensor) -> nn.Module:
    """Return the network with half of the channels of every group, its batch norm measured afresh."""
    residual = "skip" if name == "vit_b_16" else "joint"  # its width is written into its forward
    pruned = secateur.prune(network, images[:2], secateur.WeightImportance("l1"), residual=residual).model
    secateur.recalibrate_batch_norm(pruned, [images])
    return pruned.eval()


def row(name: str, side: str, network: nn.Module, images: Tensor) -> str:
    """Export, compare and return a row of the table; an error where the file is not right."""
    start = time.perf_counter()
    own = rounding(network, images)
    tolerance = max(TOLERANCES[images.dtype], 3 * own)
    with tempfile.TemporaryDirectory() as folder:
        file = export(network, images, Path(folder) / "network.onnx")
        proto = onnx.load(file.path)
        made_by = {name: node.op_type for node in proto.graph.node for name in node.output}
        read_by = Counter(name for node in proto.graph.node for name in node.input)
        left = [n.input[0] for n in proto.graph.node if n.op_type == "BatchNormalization"]
        foldable = [name for name in left if made_by.get(name) == "Conv" and read_by[name] == 1]
        assert not foldable, "a batch norm that alone follows a convolution was not folded into it"
        parity = check_parity(network, file.path, images.split(3), tolerance=tolerance).require()
    kind = str(images.dtype).removeprefix("torch.")
    return (
        f"{name:<20}{side:<8}{kind:<9}{file.exporter:<12}{file.opset:>5}{file.file_bytes / 1e6:>7.2f} MB"
        f"{len(proto.graph.node):>7}{len(left):>12}{parity.max_abs:>10.1e}{parity.mean_abs:>10.1e}"
        f"{parity.max_relative:>10.1e}{own:>10.1e}{parity.top1_agreement:>7.0%}{time.perf_counter() - start:>6.1f} s"
    )


def rounding(network: nn.Module, images: Tensor) -> float:
    """Return how far torch is from itself in float64 with the same weights, relative to the largest output."""
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(images.double())
        return float((network(images).double() - exact).abs().max() / exact.abs().max())


if __name__ == "__main__":
    main()
