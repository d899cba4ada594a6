"""What every criterion owes its callers. A criterion that joins `CRITERIA` is tested here without another line."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from secateur.criteria import CRITERIA, GRADIENT_CRITERIA, GROUP_CRITERIA, criterion, known_criterion
from secateur.errors import ConfigError, DataError
from secateur.protocols import Criterion, Mergeable

N, C, H, W = 24, 5, 6, 4
DEAD, DULL, TELLING = 0, 1, 2
SCORE_OF_THE_DEAD = {"symmetric_divergence": -1}  # by its published formula; 0 in all others
Batch = tuple[Tensor, Tensor | None]


@pytest.fixture(params=sorted(CRITERIA))
def rule(request: pytest.FixtureRequest) -> Criterion[Any]:
    return criterion(request.param)


def batch(rule: Criterion[Any], *, seed: int = 0, images: int = N) -> Batch:
    """Maps of five channels: one dead, one that repeats a pattern, one that tells the classes apart, two of noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % 3
    maps = torch.rand(images, C, H, W, generator=generator)
    maps[:, DEAD] = 0
    maps[:, DULL] = 0.01 * torch.ones(H, W)
    maps[:, TELLING] += 4 * torch.rand(3, H, W, generator=generator)[labels]
    return maps, labels if rule.needs_labels else None


def score(rule: Criterion[Any], *batches: Batch) -> Tensor:
    state = rule.init(C)
    for maps, labels in batches:
        state = rule.update(state, maps, labels)
    return rule.compute(state)


def test_attributes_are_those_of_the_protocol(rule: Criterion[Any]) -> None:
    assert isinstance(rule, Criterion)
    assert CRITERIA[rule.name] is type(rule)
    assert isinstance(rule.needs_labels, bool)
    assert rule.batch_size is None or rule.batch_size > 0
    assert rule.samples >= (rule.batch_size or 1)


def test_options_are_plain_data_that_cannot_change(rule: Criterion[Any]) -> None:
    assert dataclasses.is_dataclass(rule)
    options = dataclasses.asdict(rule)
    assert options["name"] == rule.name
    assert all(value is None or isinstance(value, str | int | float | bool) for value in options.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(rule, "samples", 3)  # noqa: B010  # a plain assignment is what the type checker forbids already


def test_scores_are_one_finite_float64_per_channel(rule: Criterion[Any]) -> None:
    scores = score(rule, batch(rule))
    assert (scores.shape, scores.dtype, scores.device.type) == ((C,), torch.float64, "cpu")
    assert bool(torch.isfinite(scores).all())
    assert not scores.requires_grad


def test_larger_means_keep(rule: Criterion[Any]) -> None:
    scores = score(rule, batch(rule))
    assert float(scores[TELLING]) > float(scores[DULL]) >= float(scores[DEAD])
    assert float(scores[DEAD]) == float(scores.min()) == SCORE_OF_THE_DEAD.get(rule.name, 0)


def test_channels_are_scored_by_what_they_hold_not_where_they_stand(rule: Criterion[Any]) -> None:
    maps, labels = batch(rule)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(score(rule, (maps[:, order], labels)), score(rule, (maps, labels))[order])


def test_images_and_batches_have_no_order(rule: Criterion[Any]) -> None:
    maps, labels = batch(rule)
    order = torch.randperm(N)
    shuffled = (maps[order], None if labels is None else labels[order])
    torch.testing.assert_close(score(rule, shuffled), score(rule, (maps, labels)))
    first, second = batch(rule, seed=1), batch(rule, seed=2)
    torch.testing.assert_close(score(rule, first, second), score(rule, second, first))


def test_without_a_batch_size_any_split_gives_the_same_scores(rule: Criterion[Any]) -> None:
    maps, labels = batch(rule)
    halves = [(maps[i], None if labels is None else labels[i]) for i in (slice(0, 7), slice(7, N))]
    if rule.batch_size is None:
        torch.testing.assert_close(score(rule, *halves), score(rule, (maps, labels)), rtol=1e-12, atol=1e-15)
    else:
        assert not torch.allclose(score(rule, *halves), score(rule, (maps, labels)))


def test_states_of_shares_add_up_in_any_order(rule: Criterion[Any]) -> None:
    assert isinstance(rule, Mergeable)
    shares = [batch(rule, seed=seed, images=12 + 3 * seed) for seed in range(3)]
    states = [rule.update(rule.init(C), maps, labels) for maps, labels in shares]
    empty = rule.init(C)
    before = [rule.compute(state) for state in states]
    for a, b, c in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        merged = rule.merge(rule.merge(rule.merge(empty, states[a]), states[b]), rule.merge(states[c], empty))
        torch.testing.assert_close(rule.compute(merged), score(rule, *shares), rtol=1e-12, atol=1e-15)
        going_on = rule.update(merged, *shares[0])
        torch.testing.assert_close(rule.compute(going_on), score(rule, *shares, shares[0]), rtol=1e-12, atol=1e-15)
    assert all(torch.equal(rule.compute(state), scores) for state, scores in zip(states, before, strict=True))
    with pytest.raises(DataError, match="seen"):
        rule.compute(rule.merge(empty, rule.init(C)))
    if rule.name == "hrank":  # integers: exactly
        assert torch.equal(rule.compute(merged), score(rule, *shares))


def test_state_is_returned_and_nowhere_hidden(rule: Criterion[Any]) -> None:
    first, second = batch(rule, seed=1), batch(rule, seed=2)
    before = dict(vars(rule))
    here, there = rule.init(C), rule.init(C)
    here = rule.update(here, *first)
    there = rule.update(there, *second)
    here = rule.update(here, *second)
    assert torch.equal(rule.compute(here), score(rule, first, second))
    assert torch.equal(rule.compute(there), score(rule, second))
    assert torch.equal(rule.compute(here), rule.compute(here))
    assert vars(rule) == before


def test_maps_are_left_as_they_were(rule: Criterion[Any]) -> None:
    maps, labels = batch(rule)
    copy = maps.clone()
    score(rule, (maps, labels))
    assert torch.equal(maps, copy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_cast_not_computed_in(rule: Criterion[Any], dtype: torch.dtype) -> None:
    maps, labels = batch(rule)
    cast = maps.to(dtype)
    torch.testing.assert_close(score(rule, (cast, labels)), score(rule, (cast.float(), labels)), rtol=1e-6, atol=1e-9)


def test_autocast_changes_nothing(rule: Criterion[Any]) -> None:
    plain = score(rule, batch(rule))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(score(rule, batch(rule)), plain)


def test_memory_layout_gradients_and_inference_mode_change_nothing(rule: Criterion[Any]) -> None:
    maps, labels = batch(rule)
    plain = score(rule, (maps, labels))
    torch.testing.assert_close(score(rule, (maps.to(memory_format=torch.channels_last), labels)), plain)
    torch.testing.assert_close(score(rule, (maps.transpose(2, 3).contiguous().transpose(2, 3), labels)), plain)
    differentiable = score(rule, (maps.clone().requires_grad_(), labels))
    assert torch.equal(differentiable, plain)
    assert not differentiable.requires_grad
    with torch.inference_mode():
        state = rule.update(rule.init(C), maps.clone(), labels)
    assert torch.equal(rule.compute(rule.update(state, maps, labels)), score(rule, (maps, labels), (maps, labels)))


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_maps_on_a_graphics_card(rule: Criterion[Any]) -> None:
    maps, labels = batch(rule)
    there = (maps.cuda(), None if labels is None else labels.cuda())
    torch.testing.assert_close(score(rule, there), score(rule, (maps, labels)), rtol=1e-6, atol=1e-9)
    assert score(rule, there).device.type == "cpu"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda maps: maps.index_fill(0, torch.tensor([3]), float("nan")), "NaN"),
        (lambda maps: maps.index_fill(1, torch.tensor([3]), float("inf")), "NaN or infinite"),
        (lambda maps: maps.int(), "floating"),
        (lambda maps: maps[0], "allowed: .N, C, H, W."),
        (lambda maps: maps[:0], "hold nothing"),
        (lambda maps: maps[:, :4], "4 channels, the layer has 5"),
    ],
)
def test_maps_that_cannot_be_used_are_refused(rule: Criterion[Any], spoil: Any, words: str) -> None:
    maps, labels = batch(rule)
    with pytest.raises(DataError, match=words):
        rule.update(rule.init(C), spoil(maps), labels)


def test_missing_labels_and_missing_images_are_refused(rule: Criterion[Any]) -> None:
    if rule.needs_labels:
        with pytest.raises(DataError, match="labels are missing"):
            rule.update(rule.init(C), batch(rule)[0], None)
    with pytest.raises(DataError, match="seen"):
        rule.compute(rule.init(C))


def test_features_of_linear_layers_are_maps_of_one_pixel(rule: Criterion[Any]) -> None:
    maps, labels = batch(rule)
    outcomes: list[Any] = []
    for features in (maps[:, :, 0, 0], maps[:, :, :1, :1]):
        try:
            outcomes.append(score(rule, (features, labels)).tolist())
        except DataError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("l1", "weights, `weight_scores`"),
        ("taylor", "weights and gradients, `gradient_scores`"),
        ("reconstruction", "the layers behind, `reconstruction_scores`"),
    ],
)
def test_a_criterion_that_reads_something_else_says_who_takes_it(name: str, where: str) -> None:
    with pytest.raises(ConfigError, match=f"the criterion '{name}' reads {where} takes it; allowed here: di, fisher"):
        criterion(name)


def test_unknown_names_and_options_name_the_nearest(rule: Criterion[Any]) -> None:
    with pytest.raises(ConfigError, match=rf"did you mean '{rule.name}'\? Allowed: {', '.join(sorted(CRITERIA))}"):
        criterion(rule.name + "x")
    with pytest.raises(ConfigError, match=r"did you mean 'samples'\? Allowed: .*samples"):
        criterion(rule.name, sample=3)
    with pytest.raises(ConfigError, match="unknown criterion 'zzz'; allowed"):
        criterion("zzz")
    assert criterion(rule.name, samples=77).samples == 77


@pytest.mark.parametrize("name", sorted({**CRITERIA, **GRADIENT_CRITERIA, **GROUP_CRITERIA}))
def test_numbers_of_images_and_bytes_are_whole(name: str) -> None:
    defaults = known_criterion(name)
    for option in ("samples", "batch_size", "rows"):
        if getattr(defaults, option, None) is not None:
            for wrong in (0, 2.5):
                with pytest.raises(ConfigError, match=f"{name}: {option} is {wrong}; it must be a whole number"):
                    known_criterion(name, **{option: wrong})
