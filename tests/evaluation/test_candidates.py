"""A race decides as the literal evaluation does, one by one, whatever has been raced before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import references_worth
from networks_for_tests import (
    ChannelShuffle,
    Chunked,
    ConcatTwice,
    Depthwise,
    Grouped,
    PermutedFlatten,
    Residual,
    ZeroPaddedShortcut,
    randomise_batch_norm,
)
from races_for_tests import check, cuts
from secateur import MacsCost, apply_plan, fine_tune, greedy_plan, weight_scores
from secateur.channel_graph import channel_groups
from secateur.channel_map import with_channel_maps
from secateur.errors import ConfigError, DataError, NetworkError, PlanError
from secateur.evaluation import CandidateWorth, MaskedAccuracy, accuracy
from secateur.networks import digits_resnet
from secateur.protocols import Evaluate, Kept, Race, Worth
from secateur.records import ChannelGroup, Member, PruningPlan

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "depthwise": Depthwise,
    "grouped": Grouped,
    "chunked": Chunked,
    "concat": ConcatTwice,
    "shuffle": ChannelShuffle,
    "permuted": PermutedFlatten,
    "padded": ZeroPaddedShortcut,
}
Batch = tuple[Tensor, Tensor]
WIDER = ChannelGroup("stem", 9, (Member("stem", "producer", tuple((c,) for c in range(9))),))


def problem(build: Callable[[], nn.Module], *, images: int = 90, size: int = 16) -> tuple[nn.Module, Any, list[Batch]]:
    """Return a network, its groups, and images labelled by itself but for some, so that every removal shows."""
    inputs = torch.randn(images, 3, 17, 17) if build is PermutedFlatten else torch.randn(images, 3, size, size)
    network = with_channel_maps(randomise_batch_norm(build()).eval(), inputs[:2])
    with torch.no_grad():
        outputs = network(inputs)
        labels = (outputs - outputs.mean(0)).argmax(1)
        if isinstance(head := getattr(network, "head", None), nn.Linear):
            head.bias.sub_(outputs.mean(0))  # otherwise one class would win always
    labels[:5] = (labels[:5] + 1) % 5
    batches = list(zip(inputs.split(40), labels.split(40), strict=True))
    return network, channel_groups(network, inputs[:3]), batches


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_every_worth_is_that_of_the_masked_network(build: Callable[[], nn.Module]) -> None:
    network, groups, batches = problem(build)
    literal = MaskedAccuracy(network, groups, batches)
    worth = CandidateWorth(network, groups, batches, memory=2**18, chunk=7)
    assert isinstance(worth, Race)
    assert worth({}) == literal({})
    generator = torch.Generator().manual_seed(0)
    kept: Kept = {}
    while candidates := cuts(groups, kept, generator):
        true = [literal(candidate) for candidate in candidates]
        check(worth.race(candidates), true)
        assert [worth(candidate) for candidate in candidates] == true
        kept = candidates[max(range(len(true)), key=true.__getitem__)]
    assert kept, "something was cut"


@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([1, 2**14, 2**30]))
@settings(max_examples=15)
def test_any_candidates_race_rightly(seed: int, chunk: int, memory: int) -> None:
    torch.manual_seed(seed)
    network, groups, batches = problem(Residual, images=60, size=8)
    literal = MaskedAccuracy(network, groups, batches)
    worth = CandidateWorth(network, groups, batches, chunk=chunk, memory=memory)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        start = cuts(groups, {}, generator)
        candidates = [*start, *cuts(groups, start[0], generator), {}]
        check(worth.race(candidates), [literal(candidate) for candidate in candidates])


def test_what_is_known_is_not_judged_again_and_what_is_found_is_told() -> None:
    network, groups, batches = problem(Residual)
    worth = CandidateWorth(network, groups, batches)
    candidates = cuts(groups, {}, torch.Generator().manual_seed(0))
    literal = [MaskedAccuracy(network, groups, batches)(candidate) for candidate in candidates]
    told: dict[int, Worth] = {}
    found = worth.race(candidates, record=told.__setitem__)
    assert [told[idx] for idx in range(len(candidates))] == found
    best = max(range(len(literal)), key=literal.__getitem__)
    again: dict[int, Worth] = {}
    known = {idx: Worth(2.0 if idx == best else 1.5, exact=idx == best) for idx in range(len(candidates))}
    assert worth.race(candidates, known=known, record=again.__setitem__) == [known[i] for i in range(len(candidates))]
    assert again == {}
    known = {idx: Worth(1.0, exact=False) for idx in range(len(candidates))}
    check(worth.race(candidates, known=known), literal)


def test_prototypes_of_classes_are_no_batch() -> None:
    class Prototypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes = nn.Parameter(torch.randn(3, 5))
            self.prototypes, self.first, self.second = nn.Linear(5, 8), nn.Conv2d(3, 10, 3), nn.Conv2d(10, 12, 3)
            self.features, self.last = nn.Linear(12, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            prototypes = torch.tanh(self.prototypes(self.classes))
            maps = torch.relu(self.second(torch.relu(self.first(x))))
            return self.last(self.features(maps.mean((2, 3)))) @ prototypes.T

    network, images = Prototypes().eval(), torch.randn(60, 3, 8, 8)
    with torch.no_grad():
        outputs = network(images)
    batches = [(images, (outputs - outputs.mean(0)).argmax(1))]
    groups = channel_groups(network, images[:2])
    literal, worth = MaskedAccuracy(network, groups, batches), CandidateWorth(network, groups, batches)
    candidates = cuts(groups, {}, torch.Generator().manual_seed(0))
    check(worth.race(candidates), [literal(candidate) for candidate in candidates])


def digits() -> tuple[nn.Module, Any, list[Batch]]:
    data = pytest.importorskip("sklearn.datasets").load_digits()
    inputs = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    network = digits_resnet()
    fine_tune(network, list(zip(inputs[:512].split(64), labels[:512].split(64), strict=True)), epochs=3)
    network.eval()
    held_out = list(zip(inputs[600:720].split(60), labels[600:720].split(60), strict=True))
    return network, channel_groups(network, inputs[:2]), held_out


def test_the_greedy_search_ends_in_the_plan_of_the_literal_one() -> None:
    network, groups, batches = digits()
    example = batches[0][0][:2]
    scores = weight_scores(network, "l1")
    cost = MacsCost(network, example, groups)

    def plan(evaluate: Evaluate) -> PruningPlan:
        return greedy_plan(groups, scores, cost, "60%", evaluate, delta=0.05, round_to=1)

    literal, raced = plan(MaskedAccuracy(network, groups, batches)), plan(CandidateWorth(network, groups, batches))
    assert dict(raced.kept) == dict(literal.kept)
    assert raced.cost_after == literal.cost_after


def cut_by(network: nn.Module, groups: Any, kept: Kept) -> nn.Module:
    return apply_plan(network, PruningPlan(tuple(groups.values()), dict(kept), "none", 0.0, 0.0, 0.0)).eval()


@pytest.mark.parametrize("measure", ["loss", "fidelity"])
def test_loss_and_fidelity_are_their_definitions(measure: Any) -> None:
    network, groups, batches = problem(ConcatTwice)
    given = batches if measure == "loss" else [inputs for inputs, _ in batches]
    worth = CandidateWorth(network, groups, given, measure=measure)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    candidates = cuts(groups, {}, torch.Generator().manual_seed(3))
    candidates += [{name: kept[:-1] for name, kept in c.items() if len(kept) > 1} for c in candidates]
    true = []
    for kept in candidates:
        with torch.no_grad():
            dense, outputs = network(images).double().tolist(), cut_by(network, groups, kept)(images).double().tolist()
        true.append(
            -references_worth.mean_cross_entropy(outputs, labels.tolist())
            if measure == "loss"
            else -references_worth.mean_divergence(dense, outputs)
        )
        assert worth(kept) == pytest.approx(true[-1], abs=1e-5)
    found = worth.race(candidates)
    best = max(range(len(true)), key=true.__getitem__)
    assert found[best].exact
    for value, exact in ((f.value, f.exact) for f in found):
        assert value <= found[best].value if exact else value < found[best].value
    assert all(f.value >= t - 1e-5 for f, t in zip(found, true, strict=True))
    assert worth({}) == pytest.approx(0.0 if measure == "fidelity" else worth({}), abs=1e-6)


def test_the_network_is_left_as_it_was_in_whatever_mode() -> None:
    network, groups, batches = problem(Residual)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    worth = CandidateWorth(network, groups, batches)
    worth.race(cuts(groups, {}, torch.Generator().manual_seed(0)))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert worth({}) == accuracy(network, batches)


def test_in_inference_mode_worths_are_what_they_are_outside() -> None:
    network, groups, batches = problem(Residual)
    candidates = cuts(groups, {}, torch.Generator().manual_seed(0))
    literal = [MaskedAccuracy(network, groups, batches)(candidate) for candidate in candidates]
    with torch.inference_mode():
        check(CandidateWorth(network, groups, batches).race(candidates), literal)


def test_settings_are_plain_data() -> None:
    network, groups, batches = problem(Residual)
    images = [inputs for inputs, _ in batches]
    plain = CandidateWorth(network, groups, batches).settings
    assert json.loads(json.dumps(dict(plain))) == {"measure": "accuracy", "recovery": "none", "images": 90}
    mended = CandidateWorth(network, groups, batches, measure="loss", recovery="recalibrate", calibration=images)
    assert dict(mended.settings) == {
        "measure": "loss",
        "recovery": "recalibrate",
        "images": 90,
        "calibration_images": 80,
    }


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"measure": "error"}, ConfigError, "allowed: accuracy, loss, fidelity"),
        ({"recovery": "training"}, ConfigError, "allowed: none, recalibrate, compensate"),
        ({"recovery": "compensate"}, ConfigError, "needs calibration images"),
        ({"calibration": [torch.zeros(2, 3, 16, 16)]}, ConfigError, "reads no calibration images"),
        ({"chunk": 0}, ConfigError, "chunk is 0; it must be a whole number, at least 1"),
        ({"chunk": 2.5}, ConfigError, "chunk is 2.5; it must be a whole number"),
        ({"memory": 0}, ConfigError, "memory is 0"),
        ({"rows": 0}, ConfigError, "rows is 0"),
        ({"samples": 0}, ConfigError, "samples is 0"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(768, 3))}, NetworkError, "another network: it has no layer"),
        ({"groups": {"stem": WIDER}}, NetworkError, "'stem' has 8 channels on its producer side.* its channel 8"),
        ({"batches": []}, DataError, "empty"),
        ({"batches": [torch.zeros(2, 3, 16, 16)]}, DataError, "without labels"),
        ({"batches": [(torch.zeros(2, 3, 16, 16), torch.tensor([0, 7]))]}, DataError, r"found 0\.\.7"),
        ({"model": torch.jit.script(Residual())}, NetworkError, "ScriptModule"),
    ],
)
def test_bad_input_is_refused(changed: dict[str, Any], error: type[Exception], words: str) -> None:
    network, groups, batches = problem(Residual)
    arguments = {"model": network, "groups": groups, "batches": batches} | changed
    first = [arguments.pop(name) for name in ("model", "groups", "batches")]
    with pytest.raises(error, match=words):
        CandidateWorth(*first, **arguments)


def test_a_candidate_that_is_none_is_refused_and_nan_is_said() -> None:
    network, groups, batches = problem(Residual)
    worth = CandidateWorth(network, groups, batches)
    with pytest.raises(PlanError, match="nosuch"):
        worth({"nosuch": (0,)})
    with pytest.raises(PlanError, match="at least one"):
        worth.race([{}, {"stem": ()}])
    with torch.no_grad():
        network.head.weight[0, 0] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        CandidateWorth(network, groups, batches)


@pytest.mark.thorough
def test_one_step_of_a_trained_network_is_decided_literally(shared: Path) -> None:
    from secateur.networks import resnet20
    from secateur.weights import load_weights

    network = resnet20().eval()
    load_weights(network, shared / "models" / "resnet20-cifar10.safetensors")
    images = torch.randn(64, 3, 32, 32)
    network = with_channel_maps(network, images[:2])
    groups = channel_groups(network, images[:2], residual="skip")
    labels = network(images).argmax(1)
    batches = [(images, labels)]
    literal, worth = MaskedAccuracy(network, groups, batches), CandidateWorth(network, groups, batches)
    generator, kept = torch.Generator().manual_seed(0), {}
    for _ in range(3):
        candidates = [
            {**kept, name: tuple(c for c in kept.get(name, range(group.width)) if c != removed)}
            for name, group in groups.items()
            for removed in [kept.get(name, range(group.width))[int(torch.randint(8, (), generator=generator))]]
        ]
        true = [literal(candidate) for candidate in candidates]
        check(worth.race(candidates), true)
        kept = candidates[max(range(len(true)), key=true.__getitem__)]
