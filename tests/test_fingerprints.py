"""What tells one network from another: its code is told by the operations that it asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.fingerprints import operations_of
from secateur.networks import digits_resnet
from started_for_tests import run

IMAGES = torch.rand(2, 3, 6, 6)


class Net(nn.Module):
    """Two convolutions of one shape, and code."""

    def __init__(self, code: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.code = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), code

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, x)


CODES: dict[str, Callable[..., Tensor]] = {
    "one after the other": lambda net, x: net.second(net.first(x)),
    "the other way round": lambda net, x: net.first(net.second(x)),
    "an activation": lambda net, x: net.second(net.first(x).relu()),
    "another activation": lambda net, x: net.second(net.first(x).tanh()),
    "a number": lambda net, x: net.second(functional.leaky_relu(net.first(x), 0.1)),
    "another number": lambda net, x: net.second(functional.leaky_relu(net.first(x), 0.2)),
    "a sum": lambda net, x: net.second(y := net.first(x)) + y,
    "a sum with the input": lambda net, x: net.second(net.first(x)) + x,
    "a sum with itself": lambda net, x: (y := net.second(net.first(x))) + y,
    "at half the size": lambda net, x: net.second(net.first(x[:, :, ::2, ::2])),
    "in another type": lambda net, x: net.second(net.first(x)).double(),
    "in place": lambda net, x: net.second(net.first(x).relu_()),
}


def test_every_code_has_a_hash_of_its_own_whatever_the_weights_are() -> None:
    found = [{name: operations_of(Net(code), IMAGES) for name, code in CODES.items()} for _ in range(2)]
    assert found[0] == found[1]
    assert len({*found[0].values()}) == len(CODES)


def test_where_tensors_come_to_lie_decides_nothing(tmp_path: Path) -> None:
    model = digits_resnet()
    expected = operations_of(model, torch.zeros(2, 1, 8, 8))
    held = []
    for size in (10, 1000, 100_000):
        held.append(torch.zeros(size))
        assert operations_of(model, torch.rand(2, 1, 8, 8)) == expected
    code = (
        "import torch; from secateur.networks import digits_resnet; from secateur.fingerprints import operations_of; "
        "print(operations_of(digits_resnet(), torch.zeros(2, 1, 8, 8)))"
    )
    assert run("-c", code, folder=tmp_path).strip() == expected


@pytest.mark.parametrize("training", [True, False])
def test_the_network_and_its_images_are_left_as_they_were(training: bool) -> None:
    model, images = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True)).train(training), IMAGES.clone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    operations_of(model, images)
    assert torch.equal(images, IMAGES)
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Sparse(nn.Module):
    """Asks for a tensor whose values have no one place in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(torch.eye(len(x)).to_sparse(), x)


class Branching(nn.Linear):
    """Asks for an operation that takes functions."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, super().forward, lambda y: 2 * y, (x,))


class OutsideOfTorch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(2 * x.numpy())


class UnderAutocast(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


@pytest.mark.parametrize(
    "build",
    [Sparse, OutsideOfTorch, *(partial(kind, 3, 3) for kind in (Branching, UnderAutocast))],
    ids=["sparse", "numpy", "branching", "autocast"],
)
def test_whatever_torch_does_is_read(build: Callable[[], nn.Module]) -> None:
    assert operations_of(build(), torch.rand(4, 3)) == operations_of(build(), torch.rand(4, 3))
