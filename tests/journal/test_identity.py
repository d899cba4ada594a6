"""Which search a journal belongs to: whatever decides the result changes the identity, nothing else does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from secateur.channel_graph import channel_groups
from secateur.errors import DataError, JournalError
from secateur.journal import digest_of_batches, identify
from secateur.journal.identity import differences, flat

IMAGES, LABELS = torch.arange(24.0).reshape(4, 3, 1, 2), torch.tensor([0, 1, 2, 0])


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


def test_how_data_lies_in_memory_does_not_matter() -> None:
    part_of_more = torch.cat([IMAGES, IMAGES], dim=1)[:, :3]
    assert not part_of_more.is_contiguous()
    assert digest_of_batches([part_of_more]) == digest_of_batches([IMAGES])


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
    with pytest.raises(JournalError, match=r"must be plain data .*; settings\.net is not"):
        flat({"settings": {"net": nn.Identity()}})
    with pytest.raises(DataError, match="NaN"):
        digest_of_batches([torch.tensor([float("nan")])])
