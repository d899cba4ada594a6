"""Accuracy is the share of hits, whatever the mode; a masked candidate is worth what the cut network is worth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import references
from secateur.channel_graph import apply_plan, channel_groups
from secateur.errors import DataError, PlanError
from secateur.evaluation import CandidateWorth, MaskedAccuracy, accuracy, judged
from secateur.feature_maps import collect_scores
from secateur.records import PruningPlan
from secateur.training import fine_tune


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


def images(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 1, 6, 6), torch.randint(0, 4, (count,))


@given(st.integers(1, 20), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=30)
def test_accuracy_counts_hits_however_the_images_are_split(count: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randint(0, 3, (count, 4), generator=generator).float()  # many ties
    labels = torch.randint(0, 4, (count,), generator=generator)
    batches = list(zip(outputs.split(size), labels.split(size), strict=True))
    expected = references.top1_accuracy(outputs.tolist(), labels.tolist())
    assert accuracy(nn.Identity(), batches) == expected


def test_which_images_are_right_stand_in_their_order() -> None:
    torch.manual_seed(0)
    net, (inputs, labels) = small_net().eval(), images(13)
    with torch.no_grad():
        expected = [int(row.argmax()) == int(label) for row, label in zip(net(inputs), labels, strict=True)]
    right, classes = judged(net, zip(inputs.split(5), labels.split(5), strict=True))
    assert right.tolist() == expected
    assert classes.tolist() == labels.tolist()
    assert accuracy(net, [(inputs, labels)]) == sum(expected) / 13
    assert [len(each) for each in judged(net, [])] == [0, 0]


def test_accuracy_is_taken_in_eval_mode_and_leaves_the_network_as_it_was() -> None:
    net = small_net().train()
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    inputs, labels = images(50)
    first = accuracy(net, [(inputs, labels)])
    assert first == accuracy(net, [(inputs, labels)])  # no dropout
    assert [m.training for m in net] == [True, True, False, True, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net(inputs).sum().backward()  # gradients still flow
    assert net[0].weight.grad is not None


def test_images_are_left_as_they_were_by_a_network_that_works_in_place_on_them() -> None:
    class Normalised(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x.sub_(0.5).div_(0.25))

    inputs, labels = images(20)
    before, net = inputs.clone(), Normalised(small_net())
    accuracy(net, [(inputs, labels)])
    collect_scores(net, [(inputs, labels)], "di")
    assert torch.equal(inputs, before)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "empty"),
        ([(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))], "empty"),
        ([torch.zeros(2, 4)], "without labels"),
        ([(torch.zeros(2, 4), torch.tensor([0, 4]))], r"0\.\.3, the outputs of the network; found 0\.\.4"),
        ([(torch.zeros(2, 4), torch.tensor([-1, 0]))], r"found -1\.\.0"),
        ([(torch.zeros(2, 4), torch.tensor([0.5, 1.0]))], "whole numbers"),
        ([(torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.int64))], "whole numbers"),
        ([(torch.zeros(2, 4, 4), torch.tensor([0, 1]))], r"shape \(2, 4, 4\)"),
        ([(torch.full((2, 4), torch.nan), torch.tensor([0, 1]))], "NaN"),
    ],
)
def test_bad_batches_are_refused(batches: list[object], words: str) -> None:
    net = nn.Identity().train()
    with pytest.raises(DataError, match=words):
        accuracy(net, batches)
    assert net.training


def test_an_output_that_is_nan_is_refused() -> None:
    net = nn.Linear(2, 2)
    nn.init.constant_(net.weight, torch.nan)
    with pytest.raises(DataError, match=r"NaN for images 0\.\.0"):
        accuracy(net, [(torch.zeros(1, 2), torch.tensor([0]))])


def test_a_masked_candidate_is_worth_what_the_cut_network_is_worth() -> None:
    net = small_net().eval()
    inputs, _ = images(200)
    labels = net(inputs).argmax(1)  # so that every removal shows
    groups = channel_groups(net, inputs[:2])
    (name,) = groups
    before = {key: value.clone() for key, value in net.state_dict().items()}
    worth = MaskedAccuracy(net, groups, iter([(inputs[:120], labels[:120]), (inputs[120:], labels[120:])]))
    assert worth({}) == 1.0
    for kept in ((0, 1), (2, 3, 4, 5), (5,), (0, 1, 2, 3, 4, 5)):
        plan = PruningPlan(tuple(groups.values()), {name: kept}, "macs", 1.0, 1.0, 1.0)
        small = apply_plan(small_copy(net), plan)
        assert worth({name: kept}) == accuracy(small, [(inputs, labels)])
    assert worth({name: (5,)}) < 1.0
    assert worth({}) == 1.0  # nothing of the candidates before is left
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def small_copy(net: nn.Module) -> nn.Module:
    copy = small_net().eval()
    copy.load_state_dict(net.state_dict())
    return copy


def test_masked_accuracy_refuses_unknown_groups_and_no_images() -> None:
    net = small_net()
    inputs, labels = images(4)
    groups = channel_groups(net, inputs)
    with pytest.raises(PlanError, match="nosuch"):
        MaskedAccuracy(net, groups, [(inputs, labels)])({"nosuch": (0,)})
    with pytest.raises(DataError, match="empty"):
        MaskedAccuracy(net, groups, [])


class Named(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


def test_outputs_that_are_no_tensor_are_named_by_all_that_judge() -> None:
    batches = [(torch.ones(2, 3), torch.tensor([0, 1]))]
    for judge in (
        lambda: accuracy(Named(3, 2), batches),
        lambda: MaskedAccuracy(Named(3, 2), {}, batches)({}),
        lambda: CandidateWorth(Named(3, 2), {}, batches, measure="fidelity"),
        lambda: fine_tune(Named(3, 2), batches, epochs=1),
    ):
        with pytest.raises(DataError, match=r"must return logits \(N, classes\); it returned dict"):
            judge()
