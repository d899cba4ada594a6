"""What a CUDA device refuses and gives: on the machine's own, or on the simulated one, which must do the same."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda")]

REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "a sum of both sides": (lambda x: x + torch.ones(3), "same device"),
    "a product of both sides": (lambda x: torch.ones(2, 3) @ x, "same device"),
    "a joining of both sides": (lambda x: torch.cat([x, torch.ones(1)]), "same device"),
    "a mask of the host": (lambda x: torch.where(torch.ones(3) > 0, x, x), "same device"),
    "an index of the device for the host": (lambda x: torch.ones(3)[x.long()], "indices should be|same device"),
    "values of the host at an index": (
        lambda x: x.index_copy(0, torch.tensor([1]).cuda(), torch.ones(1)),
        "same device",
    ),
    "a change of the host by the device": (lambda x: torch.ones(3).add_(x), "same device"),
    "a network of the host": (lambda x: nn.Linear(3, 2)(x), "same device"),
    "a generator of the host": (lambda x: torch.rand(3, generator=Generator(), device="cuda"), "generator"),
    "a shuffle by a generator of the host": (
        lambda x: torch.randperm(3, generator=Generator(), device=x.device),
        "generator",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_both_sides_are_not_mixed(what: str) -> None:
    attempt, words = REFUSED[what]
    with pytest.raises(RuntimeError, match=words):
        attempt(torch.arange(3.0).cuda())


def test_arrays_take_a_way_back() -> None:
    there = torch.arange(3.0, device="cuda")
    for attempt in (there.numpy, lambda: np.asarray(there)):
        with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy"):
            attempt()
    assert there.cpu().numpy().tolist() == there.tolist() == [0.0, 1.0, 2.0]


def test_numbers_and_indices_may_come_from_the_host() -> None:
    there = torch.arange(6.0).reshape(2, 3).to("cuda")
    assert (there * torch.tensor(2.0)).sum().item() == 30
    assert there[:, [0, 2]].tolist() == [[0, 2], [3, 5]]
    assert there[torch.tensor([1])].tolist() == [[3, 4, 5]]
    there[:, [0, 2]] = -1
    there[1, 1] = torch.tensor(7.0)
    assert there.cpu().tolist() == [[-1, 1, -1], [-1, 7, -1]]
    assert there.new_tensor([1, 2]).device == torch.tensor([0], device="cuda").device == there.device


def test_views_and_changes_in_place_are_seen_by_all_who_share_them() -> None:
    there = torch.zeros(2, 3, device="cuda")
    before = there._version
    there.t()[0].fill_(5)
    assert there.tolist() == [[5, 0, 0], [5, 0, 0]]
    assert there._version > before
    assert there[1].untyped_storage().data_ptr() == there.untyped_storage().data_ptr()
    here = torch.ones(2, 3)
    here.copy_(there)
    assert here.tolist() == there.tolist()


def test_a_network_learns_there_what_it_learns_here() -> None:
    torch.manual_seed(0)
    here = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3))
    there = copy.deepcopy(here).to("cuda")
    images, labels = torch.randn(5, 2, 6, 6), torch.arange(5) % 3
    for network in (here, there):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        device = next(network.parameters()).device
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images.to(device)), labels.to(device)).backward()
            optimizer.step()
    back = copy.deepcopy(there).cpu()
    assert all(value.is_cuda for value in there.state_dict().values())
    for name, value in here.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], value, rtol=1e-4, atol=1e-5)
