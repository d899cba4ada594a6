"""Ranks of feature maps: against a loop and torch, on maps of known rank, and where the tolerance decides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from references import average_ranks
from secateur.criteria import HRank, feature_map_rank, feature_map_ranks
from secateur.errors import ConfigError, DataError

EPS = 2.0**-23
shapes = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(2, 9), st.integers(2, 9))


def relu_maps(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Maps as a ReLU leaves them: many zeros, some maps altogether, their scales far apart."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randn(*shape[:2], 1, 1, generator=generator)
    scales = 10 ** (4 * torch.rand(*shape[:2], 1, 1, generator=generator) - 2)
    return (scales * (torch.randn(shape, generator=generator) - offsets)).relu()


def map_of_rank(rank: int, height: int, width: int) -> Tensor:
    """A sum of `rank` rectangles that share no row and no column."""
    out = torch.zeros(height, width)
    for k in range(rank):
        out[k :: min(height, width), k] = 1.0 + k
    return out


def score(maps: Tensor, *, split: tuple[int, ...] = ()) -> Tensor:
    hrank = HRank()
    state = hrank.init(maps.shape[1])
    for batch in torch.split(maps, list(split) or len(maps)):
        state = hrank.update(state, batch)
    return hrank.compute(state)


@given(seed=st.integers(0, 10**6), shape=shapes)
@settings(max_examples=40)
def test_ranks_are_those_of_torch_and_of_a_loop(seed: int, shape: tuple[int, int, int, int]) -> None:
    maps = relu_maps(seed, shape)
    assert torch.equal(feature_map_ranks(maps), torch.linalg.matrix_rank(maps))
    assert score(maps).tolist() == pytest.approx(average_ranks(maps), abs=1e-12)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 7), (7, 3), (2, 9)])
def test_maps_of_known_rank(height: int, width: int) -> None:
    for rank in range(min(height, width) + 1):
        assert feature_map_ranks(map_of_rank(rank, height, width)[None, None]).tolist() == [[rank]]


@pytest.mark.parametrize(("height", "width"), [(2, 2), (2, 8), (8, 2), (4, 16)])
def test_the_tolerance_is_that_of_float32_strict_and_of_the_larger_side(height: int, width: int) -> None:
    at = max(height, width) * EPS
    for small, rank in [(0.5 * at, 1), (at, 1), (1.001 * at, 2), (0.0, 1)]:
        matrix = torch.zeros(height, width)
        matrix[0, 0], matrix[1, 1] = 1.0, small
        assert feature_map_ranks(matrix[None, None]).item() == rank, small


def test_zero_rows_count_in_the_tolerance() -> None:
    matrix = torch.diag(torch.tensor([1.0, 3 * EPS]))
    padded = torch.zeros(2, 4)
    padded[:, :2] = matrix
    assert feature_map_ranks(matrix[None, None]).item() == 2
    assert feature_map_ranks(padded[None, None]).item() == 1


def test_float64_maps_are_ranked_as_float32() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1e-9], dtype=torch.float64))
    assert torch.linalg.matrix_rank(matrix).item() == 2
    assert feature_map_ranks(matrix[None, None]).item() == 1


def test_a_map_of_zeros_has_rank_zero_and_others_keep_their_place() -> None:
    maps = torch.stack([torch.zeros(3, 3), torch.eye(3), torch.zeros(3, 3), torch.ones(3, 3)])[None]
    ranks = feature_map_ranks(maps)
    assert ranks.dtype == torch.int64
    assert ranks.tolist() == [[0, 3, 0, 1]]
    assert feature_map_ranks(0 * maps).tolist() == [[0, 0, 0, 0]]


def test_chunks_do_not_change_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = relu_maps(3, (5, 7, 4, 6))
    whole = feature_map_ranks(maps)
    monkeypatch.setattr(feature_map_rank, "CHUNK", 4 * 6 * 3)
    assert torch.equal(feature_map_ranks(maps), whole)
    monkeypatch.setattr(feature_map_rank, "CHUNK", 1)
    assert torch.equal(feature_map_ranks(maps), whole)


@given(seed=st.integers(0, 10**6), exponent=st.integers(-20, 20))
@settings(max_examples=20)
def test_scaling_a_map_keeps_its_rank(seed: int, exponent: int) -> None:
    maps = relu_maps(seed, (3, 4, 5, 7))
    assert torch.equal(feature_map_ranks(maps * 2.0**exponent), feature_map_ranks(maps))


@given(seed=st.integers(0, 10**6), cut=st.integers(1, 8))
@settings(max_examples=20)
def test_scores_depend_on_no_split_and_no_order(seed: int, cut: int) -> None:
    maps = relu_maps(seed, (9, 4, 5, 5))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(score(maps, split=(cut, 9 - cut)), score(maps))
    assert torch.equal(score(maps[order], split=(9 - cut, cut)), score(maps))


def test_averages_are_exact_sums_of_integers() -> None:
    maps = torch.stack([map_of_rank(k, 4, 4) for k in (1, 2, 4)])[:, None]
    hrank = HRank()
    state = hrank.update(hrank.init(1), maps)
    assert (state.sums.dtype, state.sums.tolist(), state.images) == (torch.int64, [7], 3)
    assert hrank.compute(state).tolist() == [7 / 3]


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 3, 1, 5), (2, 3)])
def test_maps_of_one_pixel_are_refused_by_the_criterion(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"0 or 1.*'di'"):
        HRank().update(HRank().init(3), torch.rand(shape))


def test_overflow_to_float32_and_empty_settings_are_refused() -> None:
    with pytest.raises(DataError, match=r"infinite values \(in float32"):
        feature_map_ranks(torch.full((1, 1, 2, 2), 1e300, dtype=torch.float64))
    with pytest.raises(ConfigError, match="samples"):
        HRank(samples=0)
