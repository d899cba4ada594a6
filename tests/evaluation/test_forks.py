"""What is given again is what running the network whole gives, bit for bit, from any layer on and for any images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cases_for_tests import cases
from networks_for_tests import (
    ChannelShuffle,
    ConcatTwice,
    Depthwise,
    Residual,
    ZeroPaddedShortcut,
    randomise_batch_norm,
)
from secateur.evaluation.forks import Beginning, Forks
from secateur.networks import googlenet, resnet20
from secateur.networks.cifar_densenet import CifarDenseNet
from secateur.regression import reason_against, weight_rows, write_weight


class InPlace(nn.Module):
    """Runs a layer twice, and works in place on what others read before and behind."""

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
        return self.last(self.act(y)) + x.mean((1, 2, 3), keepdim=True)


def hooked() -> nn.Module:
    """Hooks change what layers give, and one of them in place."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    network[0].register_forward_hook(lambda _module, _inputs, output: output * 3)
    network[3].register_forward_hook(lambda _module, _inputs, output: output.add_(1).sqrt_())
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "depthwise": Depthwise,
    "concat": ConcatTwice,
    "shuffle": ChannelShuffle,
    "padded": ZeroPaddedShortcut,
    "in place": InPlace,
    "hooked": hooked,
    "resnet20": resnet20,
    "densenet16": lambda: CifarDenseNet(16),  # as DenseNet-40, with four layers a block instead of twelve
    "googlenet": googlenet,
}


@pytest.mark.parametrize("build", cases(NETWORKS, thorough=["googlenet"]))
def test_a_resumed_run_is_a_whole_run(build: Callable[[], nn.Module]) -> None:
    network = randomise_batch_norm(build()).eval()
    images = torch.randn(5, 3, 16, 16)
    forks = Forks(network, images[:3])
    names = [name for name, module in network.named_modules() if not reason_against(module)]
    names = names[:: max(1, len(names) // 8)]
    some = torch.tensor([3, 0])
    with torch.inference_mode():
        with forks.keeping(network, names) as begun:
            dense = network(images)
        parts = []
        for part in images.split(2):
            with forks.keeping(network, names) as piece:
                network(part)
            parts.append(piece)
        assert torch.equal(network(images), dense), "listening leaves the network as it was"
        for name in names:
            module = network.get_submodule(name)
            before = weight_rows(module)
            write_weight(module, 1.5 * before)
            whole, whole_of_some = network(images), network(images[some])
            assert not torch.equal(whole, dense)
            with forks.resuming(network, name, begun):
                assert torch.equal(network(images), whole), name
            with forks.resuming(network, name, Beginning.joined(parts), some):
                torch.testing.assert_close(network(images[some]), whole_of_some)
            write_weight(module, before)
    assert not any("forward" in vars(module) for module in network.modules())


def test_only_what_is_read_later_is_kept() -> None:
    network = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(5))).eval()
    images = torch.randn(4, 3, 8, 8)
    forks = Forks(network, images[:3])
    with forks.keeping(network, ["2.0", "4.0"]) as begun:
        network(images)
    assert sorted(begun.outputs) == ["1", "3"]
    assert forks.bytes_for(["2.0", "4.0"]) == 2 * 3 * 8 * 8 * 4
    assert forks.first(["4.0", "2.0", "3.0"]) == "2.0"
    assert forks.first(["4.0", "never"]) == ""


def test_what_runs_twice_is_told() -> None:
    assert Forks(InPlace().eval(), torch.randn(2, 3, 4, 4)).repeated == {"shared", "act"}


def test_what_ended_is_not_run_again() -> None:
    network = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(6))).eval()
    images = torch.randn(4, 3, 8, 8)
    forks = Forks(network, images[:3])
    calls = [0] * 6
    for number, layer in enumerate(network):
        layer.register_forward_pre_hook(lambda *_, n=number: calls.__setitem__(n, calls[n] + 1))
        original = layer.forward
        layer.forward = lambda x, n=number, original=original: (calls.__setitem__(n, calls[n] + 10), original(x))[1]
    with forks.keeping(network, ["4"]) as begun:
        network(images)
    with forks.resuming(network, "4", begun):
        network(images)
    assert calls == [12, 12, 12, 12, 22, 22], "entered twice, computed once before the layer and twice from it on"


def test_what_is_as_long_as_the_example_but_no_batch_is_not_kept() -> None:
    class Prototypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes = nn.Parameter(torch.randn(3, 5))
            self.prototypes, self.features, self.last = nn.Linear(5, 4), nn.Linear(2, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            prototypes = torch.tanh(self.prototypes(self.classes))
            return self.last(torch.relu(self.features(x))) @ prototypes.T

    network, images = Prototypes().eval(), torch.randn(5, 2)
    some = torch.tensor([4, 0])
    for count in (1, 2, 3):
        forks = Forks(network, images[:count])
        with torch.inference_mode():
            with forks.keeping(network, ["last"]) as begun:
                whole = network(images)
            assert sorted(begun.outputs) == ["features"]
            with forks.resuming(network, "last", begun, some):
                torch.testing.assert_close(network(images[some]), whole[some])


def test_a_network_that_keeps_tensors_is_run_whole() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.kept = self.first(x)
            return self.second(self.kept)

    network = Keeps().eval()
    forks = Forks(network, torch.randn(3, 3, 4, 4))
    assert forks.first(["second"]) == ""
    with forks.keeping(network, [""]) as begun:
        network(torch.randn(4, 3, 4, 4))
    assert begun.outputs == {}
