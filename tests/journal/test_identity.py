"""Which search a journal belongs to: whatever decides the result changes the identity, nothing else does."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from torch import nn

from networks_for_tests import Residual
from secateur.channel_graph import channel_groups
from secateur.errors import CheckpointError, DataError, JournalError
from secateur.journal import digest_of_batches, digest_of_weights, identify
from secateur.journal.identity import differences, flat

IMAGES, LABELS = torch.arange(24.0).reshape(4, 3, 1, 2), torch.tensor([0, 1, 2, 0])


class Talkative(nn.Module):
    """Its state is more than tensors."""

    def get_extra_state(self) -> int:
        return 3


def test_digest_of_weights_against_plain_hashing() -> None:
    net = nn.Linear(2, 1)
    digest = hashlib.sha256()
    for name, text in (("weight", "(1, 2)"), ("bias", "(1,)")):
        digest.update(f"{name} torch.float32 {text} ".encode())
        digest.update(getattr(net, name).detach().numpy().tobytes())
    assert digest_of_weights(net) == digest.hexdigest()


def test_every_change_of_the_weights_changes_their_digest() -> None:
    net = Residual()
    digests = {digest_of_weights(net), digest_of_weights(copy.deepcopy(net))}
    assert len(digests) == 1
    changed = [copy.deepcopy(net) for _ in range(4)]
    with torch.no_grad():
        changed[0].stem.weight[0, 0, 0, 0] += 1e-6
        changed[1].norm.running_var[0] *= 2
    changed[2].norm.num_batches_tracked += 1  # no dimension
    changed[3] = changed[3].bfloat16()
    digests |= {digest_of_weights(other) for other in changed}
    assert len(digests) == 5


def test_what_lies_in_memory_otherwise_is_the_same() -> None:
    turned = nn.Linear(3, 3, bias=False)
    plain = copy.deepcopy(turned)
    turned.weight = nn.Parameter(turned.weight.detach().t().contiguous().t())
    assert not turned.weight.is_contiguous()
    assert digest_of_weights(turned) == digest_of_weights(plain)
    wide = torch.cat([IMAGES, IMAGES], dim=1)[:, :3]
    assert digest_of_batches([wide]) == digest_of_batches([IMAGES])


@pytest.mark.parametrize(
    "batches",
    [
        [(IMAGES + 1, LABELS)],
        [(IMAGES, LABELS.flip(0))],
        [(IMAGES, None)],
        [(IMAGES[:2], LABELS[:2]), (IMAGES[2:], LABELS[2:])],
        [(IMAGES.double(), LABELS)],
        [(IMAGES.reshape(4, 6, 1, 1), LABELS)],
        [],
    ],
)
def test_every_change_of_the_data_changes_its_digest(batches: list[tuple[torch.Tensor, torch.Tensor | None]]) -> None:
    assert digest_of_batches(batches) != digest_of_batches([(IMAGES, LABELS)])


def test_the_parts_of_an_identity_change_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    example = torch.zeros(2, 3, 8, 8)
    groups = channel_groups(net, example)

    def parts(**changed: object) -> dict[str, str]:
        usual = {"model": net, "groups": groups, "batches": [example], "seed": 0, "settings": {"delta": 0.1}}
        given = usual | changed
        return flat(
            identify(given["model"], given["groups"], given["batches"], seed=given["seed"], settings=given["settings"])  # type: ignore[arg-type]  # mixed on purpose
        )

    strided, other = copy.deepcopy(net), copy.deepcopy(net)
    strided[0].stride = (2, 2)
    nn.init.zeros_(other[0].bias)
    cases = {
        "weights": {"model": other},
        "structure": {"model": strided},
        "data": {"batches": [example + 1]},
        "seed": {"seed": 1},
        "settings.delta": {"settings": {"delta": 0.2}},
    }
    usual = parts()
    assert parts() == usual
    for part, changed in cases.items():
        (found,) = differences(usual, parts(**changed))
        assert found.startswith(f"{part}: ")
    (found,) = differences(usual, parts(groups={}))
    assert found.startswith("structure: ")


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(JournalError, match=r"must be plain data; settings\.net is not"):
        flat({"settings": {"net": nn.Identity()}})
    with pytest.raises(DataError, match="NaN"):
        digest_of_batches([torch.tensor([float("nan")])])
    with pytest.raises(CheckpointError, match="only tensors"):
        digest_of_weights(Talkative())
