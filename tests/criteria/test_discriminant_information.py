"""Discriminant information: against its definition, automatic differentiation and literal removal; then its laws."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from references import di_batch_gradient, di_by_definition, di_by_ridge, di_mask_gradient, di_removal, scatter_matrices
from secateur import collect_scores
from secateur.criteria import DI, discriminant_information
from secateur.criteria.discriminant_information import class_marks
from secateur.errors import ConfigError, DataError
from secateur.networks import resnet20
from secateur.weights import load_weights

seeds = st.integers(0, 10**6)
rhos = st.sampled_from([0.01, 0.1, 1.0, 30.0])
# (N, C, H, W): fewer features than images, more features than images, more pixels than images.
shapes = st.sampled_from([(12, 3, 1, 1), (12, 2, 1, 2), (12, 4, 2, 3), (7, 5, 2, 2), (6, 3, 3, 3)])
laws = settings(max_examples=25)


def batch(seed: int, shape: tuple[int, ...], classes: int = 3) -> tuple[Tensor, Tensor]:
    """ReLU-like maps that say something about the labels; every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(shape[0]) % classes
    centres = torch.randn(classes, *shape[1:], generator=generator)
    return (centres[labels] + torch.randn(shape, generator=generator)).relu().double(), labels


def score(maps: Tensor, labels: Tensor, **options: Any) -> Tensor:
    di = DI(**options)
    return di.compute(di.update(di.init(maps.shape[1]), maps, labels))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-8) -> bool:
    return bool((actual - expected).abs().max() <= tolerance * expected.abs().max())


@given(seed=seeds, shape=shapes, rho=rhos)
@laws
def test_the_value_is_that_of_the_definition_and_of_the_ridge(seed: int, shape: tuple[int, ...], rho: float) -> None:
    maps, labels = batch(seed, shape)
    value = discriminant_information(maps.flatten(1), labels, rho=rho)
    assert float(value) == pytest.approx(float(di_by_definition(maps.flatten(1), labels, rho)), rel=1e-8)
    assert float(value) == pytest.approx(di_by_ridge(maps.flatten(1), labels, rho), rel=1e-8)
    scaled = discriminant_information(maps, labels, rho=rho, labelling="scaled")
    assert float(scaled) == pytest.approx(float(di_by_definition(maps.flatten(1), labels, rho, scaled=True)), rel=1e-8)


@given(seed=seeds, shape=shapes, rho=rhos)
@laws
def test_equation_6_is_the_derivative_to_the_masks(seed: int, shape: tuple[int, ...], rho: float) -> None:
    maps, labels = batch(seed, shape)
    scores = score(maps, labels, rho=rho)
    assert close(scores, rho * di_batch_gradient(maps, labels, rho))
    # The derivative of the definition itself is the difference of two large D x D terms and loses six digits or more.
    assert close(scores, di_mask_gradient(maps, labels, rho), 1e-4)


@given(seed=seeds, shape=shapes, rho=rhos)
@laws
def test_equation_5_is_what_removing_a_channel_loses(seed: int, shape: tuple[int, ...], rho: float) -> None:
    maps, labels = batch(seed, shape)
    scores = score(maps, labels, rho=rho, equation=5)
    value = di_by_definition(maps.flatten(1), labels, rho)
    assert float((scores - di_removal(maps, labels, rho)).abs().max()) < 1e-8 * float(value)
    assert bool((scores >= score(maps, labels, rho=rho) / 2 * (1 - 1e-9)).all())


def test_a_layer_of_one_channel_loses_everything() -> None:
    for shape in [(9, 1, 2, 2), (5, 1, 3, 3)]:
        maps, labels = batch(1, shape)
        loss = score(maps, labels, equation=5)
        assert close(loss, discriminant_information(maps, labels)[None])


def test_the_printed_equation_6_is_not_the_derivative() -> None:
    maps, labels = batch(2, (7, 5, 2, 2))
    K, _ = scatter_matrices(maps.flatten(1), labels)
    assert int(torch.linalg.matrix_rank(K)) < len(K)  # more features than images: no inverse without rho
    maps, labels = batch(2, (12, 4, 1, 1))
    K, K_B = scatter_matrices(maps.flatten(1), labels)
    printed = 2 * 5.0 * (torch.linalg.inv(K) @ K_B @ torch.linalg.inv(K)).diagonal()
    derivative = di_mask_gradient(maps, labels, 5.0)
    assert not close(printed, derivative, 0.1)
    assert close(score(maps, labels, rho=5.0), derivative)


@given(seed=seeds, shape=shapes, rho=rhos)
@laws
def test_the_value_is_bounded_and_features_never_lower_it(seed: int, shape: tuple[int, ...], rho: float) -> None:
    maps, labels = batch(seed, shape)
    features = maps.flatten(1)
    counts = torch.bincount(labels).double()
    bound = float(len(labels) - (counts**2).sum() / len(labels))
    values = [
        float(discriminant_information(features[:, :d], labels, rho=rho)) for d in range(1, features.shape[1] + 1)
    ]
    assert min(values) >= 0
    assert max(values) <= bound * (1 + 1e-12)
    assert all(b >= a - 1e-10 * bound for a, b in itertools.pairwise(values))


@given(seed=seeds, shape=shapes, rho=rhos)
@laws
def test_the_scores_of_equation_6_sum_to_the_derivative_to_rho(seed: int, shape: tuple[int, ...], rho: float) -> None:
    maps, labels = batch(seed, shape)
    step = 1e-4
    above, below = (float(discriminant_information(maps, labels, rho=rho * (1 + s))) for s in (step, -step))
    assert float(score(maps, labels, rho=rho).sum()) == pytest.approx(-(above - below) / step, rel=1e-4)


@given(seed=seeds, shape=shapes, equation=st.sampled_from([5, 6]), factor=st.sampled_from([0.125, 3.0, 64.0]))
@laws
def test_scaling_all_maps_is_scaling_rho(seed: int, shape: tuple[int, ...], equation: int, factor: float) -> None:
    maps, labels = batch(seed, shape)
    plain = score(maps, labels, equation=equation, rho=0.5)
    assert close(score(factor * maps, labels, equation=equation, rho=0.5 * factor**2), plain)
    relative = score(maps, labels, equation=equation, rho=0.5, rho_mode="relative")
    assert close(score(factor * maps, labels, equation=equation, rho=0.5, rho_mode="relative"), relative)


def test_relative_rho_counts_in_the_mean_squared_length() -> None:
    maps, labels = batch(4, (12, 3, 2, 2))
    K, _ = scatter_matrices(maps.flatten(1), labels)
    relative = score(maps, labels, rho=0.5, rho_mode="relative")
    assert close(relative, score(maps, labels, rho=0.5 * float(torch.trace(K)) / 12))


def test_scaling_one_feature_moves_equation_6_but_not_5() -> None:
    maps, labels = batch(5, (60, 4, 1, 1))
    scaled = maps * torch.tensor([10.0, 1.0, 1.0, 1.0])[None, :, None, None]
    ratio6 = score(scaled, labels, rho=1e-3)[0] / score(maps, labels, rho=1e-3)[0]
    ratio5 = score(scaled, labels, rho=1e-3, equation=5)[0] / score(maps, labels, rho=1e-3, equation=5)[0]
    assert float(ratio6) == pytest.approx(0.01, rel=1e-3)
    assert float(ratio5) == pytest.approx(1.0, rel=1e-3)


def test_twins_share_equation_6_and_vanish_in_equation_5() -> None:
    maps, labels = batch(6, (60, 3, 1, 1))
    twins = torch.cat([maps, maps[:, :1]], dim=1)
    single, double = score(maps, labels, rho=1e-3), score(twins, labels, rho=1e-3)
    assert float(double[0] / single[0]) == pytest.approx(0.25, rel=1e-3)
    assert float(double[3]) == pytest.approx(float(double[0]), rel=1e-6)
    single5, double5 = score(maps, labels, rho=1e-3, equation=5), score(twins, labels, rho=1e-3, equation=5)
    assert float(double5[0]) < 1e-3 * float(single5[0])
    assert float(double5[3]) < 1e-3 * float(single5[0])


@pytest.mark.parametrize("equation", [5, 6])
@pytest.mark.parametrize("shape", [(12, 4, 1, 1), (12, 4, 2, 3), (6, 4, 3, 3)])
@pytest.mark.parametrize("rho_mode", ["absolute", "relative"])
def test_channels_that_never_change_score_zero_exactly(equation: int, shape: tuple[int, ...], rho_mode: str) -> None:
    maps, labels = batch(7, shape)
    maps[:, 1] = 0
    maps[:, 2] = 0.1
    scores = score(maps.float(), labels, equation=equation, rho_mode=rho_mode)
    assert scores[[1, 2]].tolist() == [0.0, 0.0]
    assert bool((scores[[0, 3]] > 0).all())
    assert score(0 * maps, labels, equation=equation, rho_mode=rho_mode).tolist() == [0.0] * 4


@pytest.mark.parametrize("equation", [5, 6])
def test_each_batch_is_a_kernel_of_its_own(equation: Literal[5, 6]) -> None:
    first, second = batch(8, (12, 4, 2, 2)), batch(9, (12, 4, 2, 2))
    di = DI(equation=equation)
    state = di.update(di.update(di.init(4), *first), *second)
    assert state.batches == 2
    assert close(di.compute(state), score(*first, equation=equation) + score(*second, equation=equation), 1e-14)
    together = score(torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]), equation=equation)
    assert not close(together, di.compute(state), 0.01)


def test_scaled_labels_agree_with_one_hot_for_equal_classes_only() -> None:
    maps, labels = batch(10, (12, 4, 2, 2))
    assert close(score(maps, labels, labelling="scaled") * 4, score(maps, labels))
    uneven = torch.tensor([0] * 9 + [1] * 2 + [2])
    ratio = score(maps, uneven, labelling="scaled") / score(maps, uneven)
    assert float(ratio.max() / ratio.min()) > 1.01
    assert class_marks(uneven, 12, labelling="scaled").square().sum(0).tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_class_numbers_are_names() -> None:
    maps, labels = batch(11, (12, 4, 2, 2))
    assert close(score(maps, 900 - 7 * labels), score(maps, labels), 1e-12)


def test_pooled_features_are_the_averages_of_the_maps() -> None:
    maps, labels = batch(12, (12, 4, 3, 2))
    pooled = maps.mean((2, 3))
    for equation in (5, 6):
        assert close(
            score(maps, labels, pool="gap", equation=equation), score(pooled, labels, equation=equation), 1e-12
        )
    half = maps.half()  # averages rounded to half precision would be others
    assert close(score(half, labels, pool="gap"), score(half.double(), labels, pool="gap"), 1e-12)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "missing"),
        (torch.zeros(6, dtype=torch.int64), "class 0.*shuffled"),
        (torch.tensor([0, 1]), "6 feature maps but 2 labels"),
        (torch.eye(6, dtype=torch.int64), "vector of class numbers"),
        (torch.rand(6), "torch.float32"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(labels: Tensor | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        DI().update(DI().init(3), torch.rand(6, 3, 2, 2), labels)


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(DataError, match="one image"):
        DI().update(DI().init(3), torch.rand(1, 3, 2, 2), torch.tensor([1]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rho": 0.0}, "rho is 0.0.*positive"),
        ({"rho": -1.0}, "positive"),
        ({"rho": float("nan")}, "positive"),
        ({"equation": 7}, "equation is 7; allowed: 5, 6"),
        ({"rho_mode": "mean"}, "absolute, relative"),
        ({"labelling": "soft"}, "onehot, scaled"),
        ({"pool": "max"}, "none, gap"),
        ({"batch_size": 1}, "di: batch_size is 1; it must be a whole number, at least 2"),
        ({"batch_size": None}, "di: batch_size is None; it must be a whole number, at least 2"),
        ({"samples": 1}, "di: samples is 1; it must be a whole number, at least 2"),
        ({"precision": "half"}, "mixed, double"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DI(**options)


def test_a_rho_that_float64_cannot_see_is_refused() -> None:
    maps, labels = batch(13, (12, 4, 2, 2))
    maps[1:4] = maps[:1]  # the images of which nothing but rho tells apart
    with pytest.raises(ConfigError, match="rho is too small"):
        score(1e6 * maps, labels, rho=1e-12)


@pytest.mark.parametrize("options", [{}, {"equation": 5}, {"pool": "gap"}, {"rho_mode": "relative"}])
def test_little_memory_changes_no_score_and_too_little_is_refused(options: dict[str, Any]) -> None:
    maps, labels = batch(14, (12, 20, 9, 8))
    assert close(score(maps, labels, memory=120_000, **options), score(maps, labels, **options))
    with pytest.raises(ConfigError, match="memory is 30000 bytes; 12 images with maps of 9 x 8 need at least"):
        score(maps, labels, memory=30_000, **options)


def test_precision_is_that_of_the_products(shared: Path) -> None:
    """Of the trained network: float32 is used, and tells the same."""
    network = resnet20()
    load_weights(network, shared / "models/resnet20-cifar10.safetensors")
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images, labels = torch.nn.functional.interpolate(images, size=32, mode="bicubic"), torch.arange(64) % 10
    mixed, double = (
        collect_scores(network, [(images, labels)], DI(precision=precision)) for precision in ("mixed", "double")
    )
    for layer, scores in double.items():
        assert close(mixed[layer], scores, 1e-5)
    assert not torch.equal(mixed["conv1"], double["conv1"])
