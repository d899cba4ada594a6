"""Batches, their order and their augmentation."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur_cli.inputs.epochs import Epochs, drawing_from, generator, pick, seed_everything
from secateur_cli.inputs.images import Pixels, crop_and_flip
from splits_for_tests import gather


def test_normalisation_is_by_channel() -> None:
    pixels = torch.randint(256, (3, 2, 4, 4), dtype=torch.uint8)
    inputs, _ = gather(Epochs(Pixels(pixels, torch.arange(3)), 2, (0.5, 0.25), (0.5, 2.0)))
    for n, c, y, x in [(0, 0, 1, 2), (2, 1, 3, 0), (1, 1, 2, 2)]:
        naive = (int(pixels[n, c, y, x]) / 255 - (0.5, 0.25)[c]) / (0.5, 2.0)[c]
        assert float(inputs[n, c, y, x]) == pytest.approx(naive, abs=1e-6)


@pytest.mark.parametrize(("count", "training", "sizes"), [(5, True, [2, 2]), (5, False, [2, 2, 1]), (1, True, [1])])
def test_a_rest_of_one_is_left_out_of_training(count: int, training: bool, sizes: list[int]) -> None:
    images = Pixels(torch.zeros(count, 1, 2, 2), torch.zeros(count, dtype=torch.int64))
    epochs = Epochs(images, 2, (0.0,), (1.0,), training=training)
    assert [len(labels) for _, labels in epochs] == sizes
    assert len(epochs) == len(sizes)


def test_batches_of_one_are_trained_on() -> None:
    images = Pixels(torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64))
    assert [len(y) for _, y in Epochs(images, 1, (0.0,), (1.0,), training=True)] == [1, 1, 1]


def every_crop_and_flip(image: Tensor, padding: int) -> list[Tensor]:
    """All images that padding with zeros, cropping and mirroring can give, by loops over pixels."""
    _, H, W = image.shape
    results = []
    for top in range(-padding, padding + 1):
        for left in range(-padding, padding + 1):
            for mirrored in (False, True):
                out = torch.zeros_like(image)
                for y in range(H):
                    for x in range(W):
                        row, column = y + top, left + (W - 1 - x if mirrored else x)
                        if 0 <= row < H and 0 <= column < W:
                            out[:, y, x] = image[:, row, column]
                results.append(out)
    return results


def test_crop_and_flip_gives_each_of_its_results_equally_often() -> None:
    image = torch.arange(1, 13, dtype=torch.uint8).reshape(1, 3, 4)
    allowed = every_crop_and_flip(image, 1)
    out = crop_and_flip(image.expand(1800, 1, 3, 4), generator(0, "test"), padding=1)
    found = torch.tensor([[torch.equal(o, a) for a in allowed] for o in out])
    assert found.any(1).all()
    counts = found.sum(0)
    assert len(counts) == 18
    assert all(60 <= count <= 140 for count in counts.tolist())  # 100 expected, standard deviation 9.7


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_pick_is_a_partition_in_proportion(labels: list[int], share: float, seed: int) -> None:
    count = round(share * len(labels))
    taken, rest = pick(torch.tensor(labels), count, random=generator(seed, "test"))
    assert len(taken) == count
    assert sorted([*taken.tolist(), *rest.tolist()]) == list(range(len(labels)))
    for of_class in set(labels):
        expected = count * labels.count(of_class) / len(labels)
        assert abs(sum(labels[i] == of_class for i in taken.tolist()) - expected) <= 1 + 1e-9


def test_order_and_augmentation_are_those_of_the_seed_and_the_epoch() -> None:
    pixels = torch.arange(1, 25, dtype=torch.uint8).reshape(24, 1, 1, 1).repeat(1, 1, 4, 4)

    def epochs(seed: int) -> list[tuple[list[int], Tensor]]:
        split = Epochs(Pixels(pixels, torch.arange(24)), 8, (0.0,), (1.0,), seed=seed, training=True, augment=True)
        read = [gather(split) for _ in range(2)]
        return [(labels.tolist(), inputs[labels.argsort()]) for inputs, labels in read]

    first, second, other = *epochs(0), epochs(1)[0]
    for (order, images), (another, changed) in ((first, second), (first, other)):
        assert order != another
        assert not torch.equal(images, changed)
    assert [order for order, _ in epochs(0)] == [first[0], second[0]]


def test_in_a_block_all_generators_begin_from_its_seed_and_then_go_on_as_before() -> None:
    def draws() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    seed_everything(5)
    outside = draws()
    for _ in range(2):
        seed_everything(5)
        with drawing_from(1):
            inside = draws()
        assert draws() == outside
        assert not set(inside) & set(outside)
        seed_everything(1)
        assert draws() == inside


def test_a_block_touches_no_device_that_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch would begin work on both of two devices to keep their generators, and warn of it."""
    forked: list[list[int]] = []

    @contextmanager
    def fork(devices: Sequence[int]) -> Iterator[None]:
        forked.append(list(devices))
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for used in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda used=used: used)
        with drawing_from(1):
            pass
    assert forked == [[], [0, 1]]


def test_the_seed_decides_whom_pick_draws() -> None:
    labels = torch.arange(100) % 2
    first, again, other = (pick(labels, 10, random=generator(seed, "test"))[0].tolist() for seed in (0, 0, 1))
    assert first == again != sorted(first)
    assert set(first) != set(other)


@pytest.mark.parametrize(
    ("images", "count"),
    [(50_000, 49_999), (300_000, 299_000), pytest.param(9_000_000, 9_000_000, marks=pytest.mark.thorough)],
)
def test_pick_draws_as_many_as_asked_for_of_large_data(images: int, count: int) -> None:
    taken, rest = pick(torch.zeros(images, dtype=torch.int64), count, random=generator(0, "test"))
    assert (len(taken), len(rest)) == (count, images - count)
