"""A replayed beginning gives what running the network whole gives, bit for bit, and is not run again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from cases_for_tests import cases
from networks_for_tests import Depthwise, Residual, randomise_batch_norm
from secateur.networks import googlenet, resnet20
from secateur.networks.cifar_densenet import CifarDenseNet
from secateur.regression import Replay, reason_against, rows_of, sample_outputs, targets_of, weight_rows, write_weight


class KeepsItsInput(nn.Module):
    """Hands a tensor on through an attribute, where no argument shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.outer = nn.Sequential(self.first, nn.ReLU(inplace=True))
        self.second = nn.Conv2d(4, 4, 1)
        self.third = nn.Conv2d(4, 4, 1)
        self.outer.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self.kept = output.clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.outer(x)) + self.kept)


class Twice(nn.Module):
    """Runs a layer twice, an activation often and in place, and adds in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        y = self.act(self.shared(x))
        y += self.norm(self.shared(y))
        return self.last(self.act(y)) + x.mean()


class Forgetful(nn.Module):
    """Has activations and a branch change a tensor in place, one through an alias, and reads on from that tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.act = nn.ReLU(inplace=True)
        self.branch = nn.Sequential(nn.Hardtanh(inplace=True), nn.Conv2d(4, 4, 3, padding=1))
        self.middle = nn.Conv2d(4, 4, 1)
        self.drop, self.other_act = nn.Dropout(), nn.ReLU(inplace=True)
        self.later = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        self.act(y)
        z = self.middle(self.branch(y))
        self.other_act(self.drop(z))  # which in eval mode is z itself
        return self.last(self.later(z) + y)


def hooked() -> nn.Module:
    """Hooks change what activations give, in place and not."""
    network = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Conv2d(3, 3, 1), nn.ReLU())))
    network[1].register_forward_hook(lambda _module, _inputs, output: output.add_(1))
    network[3].register_forward_hook(lambda _module, _inputs, output: output.sqrt())
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "depthwise": Depthwise,
    "twice": Twice,
    "keeps its input": KeepsItsInput,
    "forgetful": Forgetful,
    "hooked": hooked,
    "resnet20": resnet20,
    "densenet16": lambda: CifarDenseNet(16),  # as DenseNet-40, with four layers a block instead of twelve
    "googlenet": googlenet,
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
    "squeezenet": lambda: torchvision.models.squeezenet1_1(num_classes=10),
}


def images(pixels: int = 32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 3, pixels, pixels, generator=generator) for size in (2, 3)]


@pytest.mark.parametrize("memory", [2**30, 2**17], ids=["all fits", "little fits"])
@pytest.mark.parametrize("build", cases(NETWORKS, thorough=["googlenet", "mobilenet_v2", "resnet18"]))
def test_rows_are_those_of_a_whole_run(build: Callable[[], nn.Module], memory: int) -> None:
    torch.manual_seed(0)
    network = randomise_batch_norm(build()).eval()
    pixels = 8 if build is googlenet else 32  # it halves what it sees but twice
    batches = images(pixels)
    names = [name for name, module in network.named_modules() if not reason_against(module)]
    targets = targets_of(network, batches[0], names)
    samples = sample_outputs(network, batches, targets, rows=20)
    replay = Replay(network, batches, memory=memory * pixels**2 // 32**2)
    for name, target in list(targets.items())[:30]:
        whole = list(rows_of(network, name, target, batches, samples[name]))
        again = list(rows_of(network, name, target, batches, samples[name], replay=replay))
        for (rows, errors), (replayed_rows, replayed_errors) in zip(whole, again, strict=True):
            assert torch.equal(rows, replayed_rows), name
            assert torch.equal(errors, replayed_errors), name
        module = network.get_submodule(name)
        write_weight(module, 1.1 * weight_rows(module))  # as a solution would; later layers must see it
    assert not any("forward" in vars(module) for module in network.modules())


def test_what_ended_is_not_run_again() -> None:
    network = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(6))).eval()
    calls = [0] * 6
    batches = images()
    targets = targets_of(network, batches[0], [str(i) for i in range(6)])
    samples = sample_outputs(network, batches, targets, rows=20)
    replay = Replay(network, batches, memory=2**20)
    for number, layer in enumerate(network):
        original = layer.forward
        layer.forward = lambda x, number=number, original=original: (
            calls.__setitem__(number, calls[number] + 1),
            original(x),
        )[1]
    for name in targets:
        list(rows_of(network, name, targets[name], batches, samples[name], replay=replay))
    # in both batches for itself, and to be kept; from the second on also entered, when the one before it is read
    assert calls == [4, 6, 6, 6, 6, 4]
    assert replay.held == ["4"], "of a chain the last output alone is kept"


def test_memory_is_kept_to() -> None:
    network = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1)).eval()
    batches = images()
    targets = targets_of(network, batches[0], ["4"])
    samples = sample_outputs(network, batches, targets, rows=20)
    replay = Replay(network, batches, memory=5 * 3 * 32 * 32 * 4)
    for _ in range(2):
        list(rows_of(network, "4", targets["4"], batches, samples["4"], replay=replay))
    assert replay.held == ["3"]


def test_networks_that_keep_tensors_are_run_whole() -> None:
    network = KeepsItsInput().eval()
    batches = images()
    targets = targets_of(network, batches[0], ["third"])
    samples = sample_outputs(network, batches, targets, rows=20)
    replay = Replay(network, batches, memory=2**30)
    list(rows_of(network, "third", targets["third"], batches, samples["third"], replay=replay))
    assert replay.held == []
