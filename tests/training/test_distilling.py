"""The loss by the teacher is that of a loop, its maps are those that both networks share, and it teaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import references_training as twins
from networks_for_tests import Residual
from secateur.channel_graph import apply_plan, channel_groups
from secateur.errors import NetworkError
from secateur.networks import digits_resnet
from secateur.records import PruningPlan
from secateur.recovery import recalibrate_batch_norm
from secateur.training import distilling, feature_loss, fine_tune, logit_loss
from secateur.training.block_ends import block_ends, captured
from training_for_tests import blobs, net, same, state


def images() -> Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def halved(model: nn.Module, residual: Any = "joint") -> tuple[nn.Module, PruningPlan]:
    """The network with every second channel of every group, and the plan."""
    groups = channel_groups(model, images()[:2], residual=residual)
    kept = {name: tuple(range(1, group.width, 2)) for name, group in groups.items()}
    plan = PruningPlan(tuple(groups.values()), kept, "macs", 1.0, 0.5, 0.5)
    return apply_plan(model, plan), plan


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_by_the_logits_is_that_of_a_loop(temperature: float) -> None:
    own, wanted = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    expected = twins.distillation_loss(own.tolist(), wanted.tolist(), temperature)
    assert logit_loss(own, wanted, temperature=temperature).item() == pytest.approx(expected)


def test_the_loss_by_feature_maps_is_relative() -> None:
    first, second = torch.randn(2, 3, 2, 2), torch.randn(2, 1, 2, 2)
    loss = feature_loss({"a": 1.5 * first, "b": second, "c": second}, {"a": first, "b": second})
    assert loss.item() == pytest.approx((0.25 + 0.0) / 2, rel=1e-5)


def test_a_teacher_may_lie_on_another_device() -> None:
    maps = torch.ones(2, 1, 2, 2, device="meta")
    assert feature_loss({"a": maps}, {"a": torch.ones(2, 1, 2, 2)}).device.type == "meta"


def test_block_ends_are_found_by_what_they_return() -> None:
    assert list(block_ends(digits_resnet(), images())) == ["layer1.0", "layer2.0", "layer3.0", "layer3.1"]
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3))
    assert block_ends(plain, images()) == {}
    assert block_ends(Residual(), torch.randn(2, 3, 8, 8)) == {}  # no module of its own returns the sum


class Block(nn.Module):
    """A residual block, with or without an activation of its own, that may work in place on its maps."""

    def __init__(
        self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, *, act: nn.Module | None = None, in_place: bool = False
    ) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), norm(4), nn.ReLU())
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), norm(4)
        self.act, self.in_place = act or nn.ReLU(inplace=in_place), in_place

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.conv(self.first(x)))
        return self.act(maps.add_(x) if self.in_place else maps + x)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda width: nn.GroupNorm(2, width), nn.InstanceNorm2d])
def test_block_ends_do_not_depend_on_the_kind_of_normalisation(
    norm: Callable[[int], nn.Module], in_place: bool
) -> None:
    blocks = [Block(norm, in_place=in_place) for _ in range(2)]
    network = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), nn.ReLU()), *blocks)
    assert block_ends(network, images()) == {"1.act": "1.conv", "2.act": "2.conv"}


def test_an_activation_that_several_blocks_call_ends_none_of_them() -> None:
    act = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(1, 4, 3), Block(act=act), Block(act=act))
    assert block_ends(network, images()) == {"1": "1.conv", "2": "2.conv"}


def test_captured_maps_are_not_what_the_network_makes_of_them_in_place() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True))
    with captured(network, {"0": None}) as maps:
        network(images())
        assert torch.equal(maps["0"], network[0](images()))


def test_pruned_channels_of_a_stream_are_taken_out_of_the_teachers_maps() -> None:
    """The maps of a pruned network whose dense network never used the channels that went are the teacher's own."""
    dense = digits_resnet().eval()
    pruned, plan = halved(dense)
    with distilling(dense, dense, images(), weight=0.0, feature_weight=2.0) as lesson:
        assert lesson(images(), dense(images())).item() == 0.0
    seen: dict[str, Tensor] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, key=(tag, name): seen.update({str(key): output.detach().clone()})
        )
        for tag, network in (("dense", dense), ("pruned", pruned))
        for name in block_ends(dense, images())
    ]
    with distilling(pruned, dense, images(), weight=0.0, feature_weight=2.0, plan=plan) as lesson:
        loss = lesson(images(), pruned(images()))
    shares = []
    for name, layer in block_ends(dense, images()).items():
        kept = next(
            m.positions(plan[g.name])
            for g in plan.groups
            for m in g.members
            if m.layer == layer and m.role == "producer"
        )
        wanted, own = seen[str(("dense", name))][:, kept], seen[str(("pruned", name))]
        shares.append(float((own - wanted).square().sum() / wanted.square().sum()))
    for handle in handles:
        handle.remove()
    assert loss.item() == pytest.approx(2.0 * sum(shares) / len(shares), rel=1e-5)
    assert loss.item() > 0
    loss.backward()
    assert all(p.grad is not None for name, p in pruned.named_parameters() if not name.startswith("linear"))
    assert all(p.grad is None for p in dense.parameters())


def test_it_comes_nearer_to_its_teacher() -> None:
    dense = digits_resnet().eval()
    recalibrate_batch_norm(dense, [images()])
    batches = [(images(), torch.arange(6))]

    def distances(**changes: Any) -> tuple[float, float]:
        pruned, plan = halved(dense, "skip")
        fine_tune(pruned, batches, epochs=15, learning_rate=0.01, teacher=dense, plan=plan, **changes)
        recalibrate_batch_norm(pruned, [images()])
        with distilling(pruned, dense, images(), weight=0.0, feature_weight=1.0, plan=plan) as lesson, torch.no_grad():
            logits = pruned.eval()(images())
            return logit_loss(logits, dense(images())).item(), lesson(images(), logits).item()

    labels, logits = distances(distillation=0.0), distances(distillation=1.0)
    maps = distances(distillation=0.0, feature_weight=3.0)
    assert logits[0] < labels[0] / 2
    assert maps[1] < labels[1] / 2


def test_a_share_of_one_reads_no_labels_and_none_reads_no_teacher() -> None:
    wrong = [(inputs, (labels + 1) % 3) for inputs, labels in blobs()]
    teacher = net(seed=1)
    first, second = net(), net()
    fine_tune(first, blobs(), teacher=teacher, distillation=1.0)
    fine_tune(second, wrong, teacher=teacher, distillation=1.0)
    assert same(first, state(second))
    third, fourth = net(), net()
    fine_tune(third, blobs(), teacher=teacher, distillation=0.0)
    fine_tune(fourth, blobs())
    for name, value in third.state_dict().items():
        torch.testing.assert_close(value, fourth.state_dict()[name])


def test_the_loss_of_training_is_the_mean_of_both_by_their_shares() -> None:
    model, teacher, (inputs, labels) = nn.Linear(2, 3), nn.Linear(2, 3), blobs()[0]
    logits = model(inputs)
    by_teacher = logit_loss(logits, teacher(inputs), temperature=2.0).item()
    expected = 0.7 * functional.cross_entropy(logits, labels).item() + 0.3 * by_teacher
    options: dict[str, Any] = {"distillation": 0.3, "temperature": 2.0, "learning_rate": 1e-9}
    history = fine_tune(model, [(inputs, labels)], teacher=teacher, **options)
    assert history.epochs[0].loss == pytest.approx(expected, rel=1e-5)


def test_the_teacher_is_left_alone() -> None:
    teacher = net(seed=1)
    teacher[3].eval()
    before, modes = state(teacher), [module.training for module in teacher]
    fine_tune(net(), blobs(), teacher=teacher)
    assert same(teacher, before)
    assert [module.training for module in teacher] == modes
    assert not any(module._forward_hooks for module in teacher)


@pytest.mark.parametrize("feature_weight", [0.0, 1.0])
@pytest.mark.parametrize("types", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_a_teacher_may_have_weights_of_another_type(
    types: tuple[torch.dtype, torch.dtype], feature_weight: float
) -> None:
    dense = digits_resnet()
    (model, plan), teacher = halved(dense), dense.to(types[1])
    model, data = model.to(types[0]), [(images().to(types[0]), torch.arange(6))]
    history = fine_tune(model, data, teacher=teacher, plan=plan, feature_weight=feature_weight, epochs=1)
    assert 0 < history.epochs[0].loss < 1e4
    assert {p.dtype for p in teacher.parameters()} == {types[1]}


def test_whole_numbers_reach_a_teacher_of_another_type_as_they_are() -> None:
    def reading() -> nn.Module:
        return nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3))

    data = [(torch.arange(12).reshape(6, 2) % 5, torch.arange(6) % 3)]
    assert fine_tune(reading(), data, teacher=reading().bfloat16(), epochs=1).chosen == 1


def test_teachers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(NetworkError, match=r"answers \(2, 2\) with \(2, 4\), the network with \(2, 3\)"):
        fine_tune(net(), blobs(), teacher=nn.Linear(2, 4))
    dense = digits_resnet()
    pruned, _ = halved(dense)
    with (
        pytest.raises(NetworkError, match="in the teacher: give the plan"),
        distilling(pruned, dense, images(), feature_weight=1.0),
    ):
        pass
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with (
        pytest.raises(NetworkError, match="no module of the teacher ends a residual block"),
        distilling(plain, plain, images(), feature_weight=1.0),
    ):
        pass
    with (
        pytest.raises(NetworkError, match=r"no module 'layer1\.0'"),
        distilling(plain, dense, images(), feature_weight=1.0),
    ):
        pass


def test_from_a_loop_of_ones_own() -> None:
    student, teacher, (inputs, labels) = net(), net(seed=1), blobs()[0]
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    with distilling(student, teacher, inputs, weight=0.5, temperature=2.0) as lesson:
        before = state(student)
        logits = student(inputs)
        (0.5 * functional.cross_entropy(logits, labels) + lesson(inputs, logits)).backward()
        optimizer.step()
    assert not same(student, before)
