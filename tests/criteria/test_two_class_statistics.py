"""One-vs-rest statistics: against loops over all pixels, by hand, and the traps of the published definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import references_criteria as naive
from secateur.criteria import SNR, Fisher, OneVsRest, SymmetricDivergence, WelchT, one_vs_rest
from secateur.errors import ConfigError, DataError

TWINS: list[tuple[type[OneVsRest], dict[str, Any], Any]] = [
    (SNR, {}, naive.snr),
    (Fisher, {}, naive.fisher),
    (SymmetricDivergence, {}, naive.symmetric_divergence),
    (SymmetricDivergence, {"exact_kl": True}, naive.symmetric_kl),
    (WelchT, {}, naive.welch_t),
]


def score(rule: OneVsRest, maps: Tensor, labels: Tensor, *, cuts: tuple[int, ...] = ()) -> Tensor:
    state = rule.init(maps.shape[1])
    for part in torch.tensor_split(torch.arange(len(maps)), list(cuts)):
        if len(part):
            state = rule.update(state, maps[part], labels[part])
    return rule.compute(state)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Maps and labels of 2..4 classes, some with one image, in no order, and where to cut them into batches."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    N, C = draw(st.integers(2, 12)), draw(st.integers(1, 3))
    H, W = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    numbers = draw(st.lists(st.sampled_from([0, 3, 7, 90]), min_size=N, max_size=N).filter(lambda y: len(set(y)) > 1))
    offset = draw(st.sampled_from([0.0, 1.0, 100.0]))
    maps = offset + torch.randn(N, C, H, W, generator=generator, dtype=torch.float64)
    cuts = tuple(sorted(draw(st.lists(st.integers(0, N), max_size=4))))
    return maps, torch.tensor(numbers), cuts


@given(
    problem=problems(),
    which=st.sampled_from(TWINS),
    reduce=st.sampled_from(["pixels", "gap"]),
    aggregate=st.sampled_from(["mean", "max", "sum"]),
)
@settings(max_examples=150)
def test_scores_are_those_of_a_loop_over_all_values_however_they_are_cut(
    problem: tuple[Tensor, Tensor, tuple[int, ...]], which: Any, reduce: Any, aggregate: Any
) -> None:
    maps, labels, cuts = problem
    rule_class, options, statistic = which
    rule = rule_class(reduce=reduce, aggregate=aggregate, **options)
    expected = naive.one_vs_rest_by_loops(statistic, maps, labels, reduce=reduce, aggregate=aggregate)
    assert score(rule, maps, labels, cuts=cuts).tolist() == pytest.approx(expected, rel=1e-7, abs=1e-9)
    order = torch.randperm(len(maps))
    torch.testing.assert_close(score(rule, maps[order], labels[order], cuts=cuts), score(rule, maps, labels))


def test_by_hand() -> None:
    """Class 0 has the values 1, 3 and class 1 has 6, 8, 10: means 2 and 8, variances 1 and 8/3, 2 and 3 images."""
    features, labels = torch.tensor([[1.0], [3.0], [6.0], [8.0], [10.0]]), torch.tensor([0, 0, 1, 1, 1])
    v = 8 / 3
    assert score(SNR(), features, labels).item() == pytest.approx(6 / (1 + v**0.5 + 1e-4))
    assert score(Fisher(), features, labels).item() == pytest.approx(36 / (1 + v + 1e-4))
    assert score(WelchT(), features, labels).item() == pytest.approx(6 / (1 / 2 + v / 3 + 1e-4) ** 0.5)
    published = (1 / (v + 0.05) + v / 1.05) / 2 + 36 / (1 + v + 0.05) / 2 - 1
    assert score(SymmetricDivergence(), features, labels).item() == pytest.approx(published)
    exact = (1.05 / (v + 0.05) + (v + 0.05) / 1.05) / 2 - 1 + 36 * (1 / 1.05 + 1 / (v + 0.05)) / 2
    assert score(SymmetricDivergence(exact_kl=True), features, labels).item() == pytest.approx(exact)


def test_with_two_classes_mean_max_and_half_the_sum_agree() -> None:
    """Each of two classes is the other's rest, and all four statistics are symmetric."""
    maps, labels = torch.rand(10, 3, 2, 2), torch.arange(10) % 2
    for rule_class, options, _ in TWINS:
        mean, largest, total = (score(rule_class(aggregate=a, **options), maps, labels) for a in ("mean", "max", "sum"))
        torch.testing.assert_close(mean, largest)
        torch.testing.assert_close(total, 2 * mean)


def test_the_signed_snr_cancels_over_balanced_classes_and_the_absolute_one_does_not() -> None:
    """The trap: mu_k - mu_rest = L / (L - 1) (mu_k - mu), which sums to zero, so the best channel looks like noise."""
    signed = one_vs_rest(lambda m, rest, v, u, n, k: (m - rest) / (v.sqrt() + u.sqrt() + 1e-4), name="signed snr")
    difference = one_vs_rest(lambda m, rest, v, u, n, k: m - rest, name="difference", aggregate="sum")
    labels = torch.arange(60) % 3
    telling = labels.double()[:, None] + 0.01 * torch.randn(60, 1, dtype=torch.float64)
    assert abs(score(difference, telling, labels).item()) < 1e-12
    assert abs(score(signed, telling, labels).item()) < 0.02 * score(SNR(), telling, labels).item()


def test_t_counts_images_not_pixels() -> None:
    maps, labels = torch.randn(8, 1, 1, 1), torch.arange(8) % 2
    wide = maps.expand(8, 1, 5, 5)
    for rule in (SNR(), Fisher(), WelchT()):
        torch.testing.assert_close(score(rule, wide, labels), score(rule, maps, labels))


def test_dead_and_constant_channels_come_last() -> None:
    maps, labels = torch.randn(12, 3, 4, 4), torch.arange(12) % 3
    maps[:, 0], maps[:, 1] = 0.0, 0.1
    for rule_class, options, _ in TWINS:
        dead, constant, alive = score(rule_class(**options), maps, labels, cuts=(5,)).tolist()
        assert dead == (-1.0 if rule_class is SymmetricDivergence and not options else 0.0)
        assert constant == pytest.approx(dead, abs=1e-9)
        assert alive > dead


def test_a_lively_channel_that_tells_nothing_is_above_a_dead_one_as_published_and_equal_by_the_true_divergence() -> (
    None
):
    features = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert score(SymmetricDivergence(), features, labels).item() == pytest.approx(-0.05 / 0.3)
    assert score(SymmetricDivergence(exact_kl=True), features, labels).item() == pytest.approx(0)


def test_gap_reads_the_average_of_each_map() -> None:
    maps, labels = torch.rand(9, 2, 3, 3).double(), torch.arange(9) % 3
    for rule_class, options, _ in TWINS:
        pooled = score(rule_class(**options), maps.mean((2, 3)), labels)
        torch.testing.assert_close(score(rule_class(reduce="gap", **options), maps, labels), pooled)


def test_a_large_mean_does_not_drown_a_small_variance() -> None:
    """Sums of squares in float64 would have lost it: 1e6^2 carries 1e-4 in its last digit."""
    labels = torch.arange(40) % 2
    small = 1e-3 * torch.randn(40, 1, 4, 4, dtype=torch.float64) + 1e-3 * labels[:, None, None, None]
    shifted = score(Fisher(epsilon=1e-12), 1e6 + small, labels, cuts=(3, 11))
    torch.testing.assert_close(shifted, score(Fisher(epsilon=1e-12), small, labels), rtol=1e-5, atol=0)


def test_batches_may_lack_classes_hold_one_image_and_have_other_sizes() -> None:
    rule = WelchT()
    small, large = torch.rand(4, 2, 2, 2), torch.rand(3, 2, 4, 4)
    state = rule.update(rule.init(2), small, torch.tensor([5, 5, 5, 5]))
    state = rule.update(state, large[:1], torch.tensor([2]))
    state = rule.update(state, large[1:], torch.tensor([2, 9]))
    assert state.labels.tolist() == [2, 5, 9]
    assert state.images.tolist() == [2, 4, 1]
    assert state.moments.count[:, 0].tolist() == [32, 16, 16]
    assert bool(torch.isfinite(rule.compute(state)).all())


def test_one_class_alone_is_refused_when_scores_are_asked_for() -> None:
    rule = SNR()
    state = rule.update(rule.init(2), torch.rand(3, 2), torch.tensor([4, 4, 4]))
    with pytest.raises(DataError, match="only class 4 has been seen; snr needs images of at least two classes"):
        rule.compute(state)
    with pytest.raises(DataError, match="no image has been seen"):
        rule.compute(rule.init(2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reduce": "mean"}, "reduce is 'mean'; allowed: pixels, gap"),
        ({"aggregate": "min"}, "aggregate is 'min'; allowed: mean, max, sum"),
        ({"samples": 1}, "samples is 1"),
        ({"epsilon": 0.0}, "epsilon is 0.0; it must be a positive number"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
    ],
)
def test_options_outside_of_what_is_allowed_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SNR(**options)


def test_any_statistic_can_be_wrapped() -> None:
    maps, labels = torch.rand(12, 3, 2, 2), torch.arange(12) % 4
    wrapped = one_vs_rest(
        lambda m, r, v, u, n, k: (m - r).abs() / (v / n + u / k + 1e-4).sqrt(), name="mine", aggregate="max"
    )
    assert wrapped.name == "mine"
    torch.testing.assert_close(score(wrapped, maps, labels), score(WelchT(aggregate="max"), maps, labels))
    with pytest.raises(ConfigError, match=r"'sum' must give one number for each class and channel, \(4, 3\)"):
        score(one_vs_rest(lambda m, r, v, u, n, k: m.sum(), name="sum"), maps, labels)


def test_a_thousand_classes() -> None:
    labels = torch.arange(2000) % 1000
    features = torch.randn(2000, 4) + labels[:, None] / 500 * torch.tensor([0.0, 0.1, 1.0, 10.0])
    scores = score(SNR(), features, labels, cuts=(777,))
    assert scores.tolist() == sorted(scores.tolist())
