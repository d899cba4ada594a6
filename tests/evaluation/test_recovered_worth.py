"""Candidates with fresh batch statistics or the best weights are worth what the network made by hand is worth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import references_recovery
import references_worth
from networks_for_tests import Chunked, ConcatTwice, Depthwise, Residual, ZeroPaddedShortcut, randomise_batch_norm
from races_for_tests import cuts
from secateur import recalibrate_batch_norm
from secateur.channel_graph import apply_plan, channel_groups
from secateur.channel_graph.masks import silence
from secateur.channel_map import with_channel_maps
from secateur.errors import DataError, SecateurWarning
from secateur.evaluation import CandidateWorth
from secateur.evaluation.nested_weights import NestedWeights
from secateur.protocols import Kept
from secateur.records import PruningPlan
from secateur.scoring.readers import bytes_for

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "depthwise": Depthwise,
    "chunked": Chunked,
    "concat": ConcatTwice,
    "padded": ZeroPaddedShortcut,
}


def problem(build: Callable[[], nn.Module]) -> tuple[nn.Module, Any, list[tuple[Tensor, Tensor]], list[Tensor]]:
    images, others = torch.randn(40, 3, 8, 8), torch.randn(24, 3, 8, 8)
    network = with_channel_maps(randomise_batch_norm(build()).eval(), images[:2])
    labels = torch.randint(0, 5, (40,))
    return network, channel_groups(network, images[:2]), [(images, labels)], list(others.split(12))


def some_candidates(groups: Any) -> list[Kept]:
    alone = [{name: tuple(range(group.width // 2))} for name, group in groups.items()]
    return [*alone, {name: kept for each in alone for name, kept in each.items()}]


def loss(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    images, labels = batches[0]
    with torch.no_grad():
        return -references_worth.mean_cross_entropy(network(images).double().tolist(), labels.tolist())


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_fresh_statistics_are_those_of_the_cut_network(build: Callable[[], nn.Module]) -> None:
    network, groups, batches, images = problem(build)
    worth = CandidateWorth(
        network, groups, batches, measure="loss", recovery="recalibrate", calibration=images, memory=2**20
    )
    candidates = some_candidates(groups)
    true = []
    for kept in candidates:
        plan = PruningPlan(tuple(groups.values()), dict(kept), "none", 0.0, 0.0, 0.0)
        cut = apply_plan(network, plan).eval()
        recalibrate_batch_norm(cut, images)
        true.append(loss(cut, batches))
    assert [worth(kept) for kept in candidates] == pytest.approx(true, abs=1e-5)
    found = worth.race(candidates)
    best = max(range(len(true)), key=true.__getitem__)
    assert found[best].value == pytest.approx(true[best], abs=1e-5)
    assert all(f.value >= t - 1e-5 for f, t in zip(found, true, strict=True))


class NormTwice(nn.Module):
    """One batch norm, called before and behind the layers that are cut: bare, and the first time inside of a block."""

    def __init__(self, *, in_block: bool) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(8)
        first = nn.Conv2d(3, 8, 3, padding=1)
        self.begin = nn.Sequential(first, norm) if in_block else first
        self.norm, self.in_block = norm, in_block
        self.narrow, self.widen, self.head = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.begin(x)
        x = torch.relu(x if self.in_block else self.norm(x))
        maps: Tensor = x + torch.relu(self.norm(3 * self.widen(torch.relu(self.narrow(x)))))
        outputs: Tensor = self.head(maps.mean((2, 3)))
        return outputs


@pytest.mark.parametrize("in_block", [False, True])
def test_a_batch_norm_that_runs_twice_is_measured_over_both(in_block: bool) -> None:
    network, groups, batches, images = problem(lambda: NormTwice(in_block=in_block))
    worth = CandidateWorth(network, groups, batches, measure="loss", recovery="recalibrate", calibration=images)
    candidates: list[Kept] = [{"narrow": kept} for kept in [(4,), (0, 4), (2, 5), (0, 1, 2, 3), (1, 2, 3, 4, 5)]]
    true = []
    for kept in candidates:
        cut = apply_plan(network, PruningPlan(tuple(groups.values()), dict(kept), "none", 0.0, 0.0, 0.0)).eval()
        recalibrate_batch_norm(cut, images)
        true.append(loss(cut, batches))
    for found, expected in zip(worth.race(candidates), true, strict=True):
        assert found.value == pytest.approx(expected, abs=1e-4) if found.exact else found.value >= expected - 1e-4
    assert [worth(kept) for kept in candidates] == pytest.approx(true, abs=1e-4)


def test_statistics_need_two_images_at_least() -> None:
    network, groups, batches, images = problem(Residual)
    with pytest.raises(DataError, match="at least two"):
        CandidateWorth(network, groups, batches, recovery="recalibrate", calibration=[images[0][:1]])


def mended_by_hand(network: nn.Module, groups: Any, kept: Kept, images: Tensor, ridge: float) -> nn.Module:
    """Return the masked network, each convolution or linear layer that lost inputs solved for on the dense stream."""
    found = copy.deepcopy(network)
    gone: dict[str, set[int]] = {}
    for name, channels in kept.items():
        for member in groups[name].members:
            if member.role == "consumer":
                dropped = [c for c in range(groups[name].width) if c not in channels]
                gone.setdefault(member.layer, set()).update(member.positions(dropped))
    norms = {"first": "body_norm", "second": "norm"} if isinstance(network, Residual) else {}
    for name, positions in gone.items():
        dense, layer = network.get_submodule(name), found.get_submodule(name)
        if not positions or not isinstance(dense, (nn.Conv2d, nn.Linear)):
            continue
        seen: list[tuple[Tensor, Tensor]] = []
        hook = dense.register_forward_hook(lambda _m, inputs, output, seen=seen: seen.append((inputs[0], output)))
        with torch.no_grad():
            network(images)
        hook.remove()
        inputs, outputs = seen[0]
        if isinstance(dense, nn.Conv2d):
            kernel = dense.kernel_size[0] * dense.kernel_size[1]
            U = references_recovery.rows_of_convolution(
                inputs,
                kernel=dense.kernel_size,
                stride=dense.stride,
                dilation=dense.dilation,
                padding=dense.padding,
                mode=dense.padding_mode,
                sizes=outputs.shape[2:],
            ).flatten(1)
            T = outputs.movedim(1, -1).flatten(0, -2)
        else:
            kernel, U, T = 1, inputs, outputs
        columns = [c for c in range(U.shape[1]) if c // kernel not in positions]
        shift = dense.bias is not None or name in norms
        weight, b = references_worth.best_weights(
            U, T, dense.weight.detach().flatten(1).T, columns, ridge=ridge, intercept=shift
        )
        with torch.no_grad():
            layer.weight.copy_(weight.T.reshape(layer.weight.shape))
            if dense.bias is not None:
                layer.bias.copy_(b)
            elif name in norms:
                found.get_submodule(norms[name]).running_mean.sub_(b)
    silence(found, groups, kept)
    return found


@pytest.mark.parametrize("build", [Residual, ConcatTwice, Chunked, ZeroPaddedShortcut])
@pytest.mark.filterwarnings("ignore:fewer rows than unknowns")
def test_the_best_weights_are_those_of_least_squares(build: Callable[[], nn.Module]) -> None:
    network, groups, batches, images = problem(build)
    images = [batch[:3] for batch in images]
    worth = CandidateWorth(
        network, groups, batches, measure="loss", recovery="compensate", calibration=images, ridge=0.05, memory=2**24
    )
    candidates = some_candidates(groups)
    true = []
    for kept in candidates:
        mended = mended_by_hand(network, groups, kept, torch.cat(images), 0.05)
        true.append(loss(mended, batches))
    assert [worth(kept) for kept in candidates] == pytest.approx(true, abs=1e-5)
    found = worth.race([candidates[-1], *candidates[:-1], {}])
    assert found[0].value >= true[-1] - 1e-5
    best = max(range(len(candidates)), key=true.__getitem__)
    if found[-1].value < true[best]:
        assert found[(best + 1) % len(candidates)].value == pytest.approx(true[best], abs=1e-5)
    together = {name: tuple(range(1, group.width)) for name, group in groups.items()}
    beyond: list[Kept] = [together, *({**together, name: kept[1:]} for name, kept in together.items())]
    for of_one, kept in zip(worth.race(beyond), beyond, strict=True):
        by_hand = loss(mended_by_hand(network, groups, kept, torch.cat(images), 0.05), batches)
        assert of_one.value == pytest.approx(by_hand, abs=1e-5) if of_one.exact else of_one.value >= by_hand - 1e-5


@pytest.mark.parametrize(
    ("masks", "norm"), [({"second": (0, 1, 5)}, nn.Identity()), ({}, nn.Identity()), ({}, nn.BatchNorm2d(8).eval())]
)
def test_masked_channels_stay_zero_where_a_candidate_has_other_weights(masks: Kept, norm: nn.Module) -> None:
    """Also where no batch norm silences the layer that writes the stream. Its inputs go, and it has a bias."""
    network, _, batches, images = problem(Residual)
    network.second, network.norm = nn.Conv2d(6, 8, 3, padding=1), norm
    groups = channel_groups(network, images[0][:2], residual="mask")
    worth = CandidateWorth(
        network, groups, batches, measure="loss", recovery="compensate", calibration=images, ridge=0.05
    )
    candidates: list[Kept] = [{"second": (0, 1), "first": (1, 4)}, {"first": (1, 2, 4), **masks}, masks]
    true = [loss(mended_by_hand(network, groups, kept, torch.cat(images), 0.05), batches) for kept in candidates]
    for found, by_hand in zip(worth.race(candidates), true, strict=True):
        assert found.value == pytest.approx(by_hand, abs=1e-5) if found.exact else found.value >= by_hand - 1e-5
    assert [worth(kept) for kept in candidates] == pytest.approx(true, abs=1e-5)


def test_nothing_changes_where_nothing_goes_and_readers_that_do_not_fit_are_told() -> None:
    network, groups, _, images = problem(Residual)
    all_of_it = NestedWeights(network, groups, images, rows=10**5, ridge=1e-2, memory=2**24)
    assert all_of_it.left == {}
    stage = all_of_it.stage({})
    assert all(torch.equal(v, network.state_dict()[name]) for name, v in stage.network.state_dict().items())
    with pytest.warns(SecateurWarning, match=r"do not fit into 4,096 bytes of memory: first"):
        few = NestedWeights(network, groups, images, rows=10**5, ridge=1e-2, memory=2**12)
    assert "do not fit in memory" in few.left["first"]


def test_a_reader_too_large_for_the_memory_does_not_take_those_behind_it_with_it() -> None:
    layers = [nn.Linear(4, 8), nn.Linear(8, 200), nn.Linear(200, 6), nn.Linear(6, 2)]
    network, images = nn.Sequential(*layers), [torch.randn(500, 4)]
    network[3].register_forward_hook(lambda _module, _inputs, output: 2 * output)
    with pytest.warns(SecateurWarning, match="1 layers keep their dense weights.*: 2$"):
        found = NestedWeights(network, channel_groups(network, images[0]), images, rows=500, ridge=1e-2, memory=2**15)
    assert set(found.left) == {"2", "3"}


def test_readers_that_fit_one_by_one_but_not_together_do_not_all_fit() -> None:
    network, images = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))), [torch.randn(50, 8)]
    each = bytes_for(network[1], 0)
    with pytest.warns(SecateurWarning, match="1 layers keep their dense weights.*: 3$"):
        NestedWeights(network, channel_groups(network, images[0]), images, rows=50, ridge=1e-2, memory=3 * each - 1)


def test_weights_that_were_found_take_no_more_than_the_memory() -> None:
    network, groups, _, images = problem(Residual)
    found = NestedWeights(network, groups, images, rows=10**4, ridge=1e-2, memory=2**17)
    generator = torch.Generator().manual_seed(0)
    first = found.stage({"first": (0, 1)}).network.state_dict()
    for _ in range(40):
        found.stage(cuts(groups, {}, generator)[0])
        assert sum(of.weight.nbytes + of.shift.nbytes for of in found._found.values() if of) <= 2**17
    again = found.stage({"first": (0, 1)}).network.state_dict()
    assert all(torch.equal(value, first[name]) for name, value in again.items())


def test_recovery_brings_back_what_a_cut_takes() -> None:
    """Duplicated channels: half of them can do the work of all, once the readers know."""
    network, groups, batches, images = problem(Residual)
    with torch.no_grad():
        network.first.weight[3:] = network.first.weight[:3]
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(network.body_norm, name)[3:] = getattr(network.body_norm, name)[:3]
    kept = {"first": (0, 1, 2)}
    images = [torch.randn(200, 3, 8, 8)]
    given = [inputs for inputs, _ in batches]
    raw = CandidateWorth(network, groups, given, measure="fidelity")(kept)
    mended = CandidateWorth(
        network, groups, given, measure="fidelity", recovery="compensate", calibration=images, ridge=1e-8
    )(kept)
    assert mended == pytest.approx(0.0, abs=1e-5)
    assert raw < -1e-4
