"""k-means and frequent directions against their twins, and what the papers promise of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from references_related import k_means, sketch_row_by_row
from secateur.criteria.clustering import _filled, clusters
from secateur.criteria.sketching import frequent_directions
from secateur.errors import ConfigError, ScoreError


def rows_of(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 99), st.data())
@settings(max_examples=40)
def test_clusters_are_those_of_the_twin(count: int, width: int, seed: int, data: st.DataObject) -> None:
    rows, wanted = rows_of(count, width, seed), data.draw(st.integers(1, count))
    found = clusters(rows, wanted)
    assert sorted(i for cluster in found for i in cluster) == list(range(count))
    assert len(found) == wanted
    if wanted < count:  # else each row is alone, in whatever order the twin finds them
        assert list(found) == k_means(rows.tolist(), wanted)


def test_equal_rows_still_make_as_many_clusters_as_asked_for() -> None:
    assert sorted(map(len, clusters(torch.ones(5, 2), 3))) == [1, 1, 3]
    assert clusters(torch.tensor([[0.0], [5.0], [0.0], [5.0]]), 2) == ((0, 2), (1, 3))


def test_an_empty_cluster_gets_the_row_that_lies_farthest_of_those_that_are_not_alone() -> None:
    distances = torch.tensor([[1.0, 50.0, 60.0], [4.0, 50.0, 60.0], [2.0, 50.0, 60.0], [70.0, 9.0, 60.0]])
    assert _filled(torch.tensor([0, 0, 0, 1]), distances, 3).tolist() == [0, 2, 0, 1]


@given(st.integers(2, 20), st.integers(1, 8), st.integers(0, 99), st.data())
@settings(max_examples=40)
def test_a_sketch_is_the_twin_s_and_keeps_its_bound(count: int, width: int, seed: int, data: st.DataObject) -> None:
    rows, wanted = rows_of(count, width, seed), data.draw(st.integers(1, count))
    sketch, taken = frequent_directions(rows, wanted)
    expected, read = sketch_row_by_row(rows.tolist(), wanted)
    assert (sketch.shape, taken) == ((wanted, width), read)
    products = sketch.T @ sketch
    torch.testing.assert_close(products, torch.from_numpy(expected.T @ expected), rtol=1e-8, atol=1e-8)
    lost = torch.linalg.eigvalsh(rows[:taken].T @ rows[:taken] - products)
    energy = float(rows[:taken].square().sum())
    assert float(lost[0]) >= -1e-8 * energy
    assert float(lost[-1]) <= (2 / wanted + 1e-9) * energy if wanted > 1 else True
    assert count - taken < wanted - wanted // 2


def test_what_a_sketch_and_clusters_refuse() -> None:
    for find in (clusters, frequent_directions):
        for count in (0, 4):
            with pytest.raises(ConfigError, match=r"3 filters make 1\.\.3 .* asked for"):
                find(torch.rand(3, 2), count)
        with pytest.raises(ScoreError, match="NaN or infinity"):
            find(torch.tensor([[1.0], [torch.nan]]), 1)
    assert torch.equal(frequent_directions(torch.eye(3), 3)[0], torch.eye(3, dtype=torch.float64))
