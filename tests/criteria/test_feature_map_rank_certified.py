"""Ranks without a decomposition: wherever one is given it is torch's, on both paths, and few are left open."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.criteria import certified_rank, feature_map_rank, feature_map_ranks
from secateur.criteria.certified_rank import certified_ranks, ranks_by_torch
from secateur.criteria.rank_certificate import OPEN
from secateur.errors import DataError
from secateur.feature_maps.tap import producers, tapped
from secateur.networks import resnet56
from secateur.weights import load_weights

EPS = 2.0**-23
Ranks = Callable[[Tensor], Tensor]


def ranks_by_numba(matrices: Tensor) -> Tensor:
    pytest.importorskip("numba")
    from secateur.criteria import compiled_rank

    return compiled_rank.certified_ranks(matrices)


both = pytest.mark.parametrize("path", [ranks_by_numba, ranks_by_torch], ids=["numba", "torch"])


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def one_by_one(matrices: Tensor) -> Tensor:
    """The slow definition. In a batch torch rounds a matrix as its place in memory says: within that, ranks vary."""
    return torch.stack([torch.linalg.matrix_rank(matrix.clone()) for matrix in matrices])


def orthogonal(M: int, n: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(M, n, n, generator=generator, dtype=torch.float64))[0]


def matrices_of_kind(kind: str, seed: int, M: int, H: int, W: int) -> Tensor:
    """Matrices that are hard to rank: singular values around the tolerance, exact and nearly exact dependence."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    k, tolerance = min(H, W), max(H, W) * EPS
    noise = torch.randn(M, H, W, generator=generator, dtype=torch.float64)
    if kind == "relu":
        return (noise - 2 * uniform(M, 1, 1)).relu().float()
    if kind == "sparse":
        return (noise * (uniform(M, H, W) < 0.15)).float()
    if kind == "dead rows and columns":
        return (noise * (uniform(M, H, 1) < 0.6) * (uniform(M, 1, W) < 0.7)).float()
    if kind == "duplicates":
        noise = noise.float()
        return noise[:, torch.randint(H, (H,), generator=generator)]
    if kind == "integers":
        return (3 * noise).round().float() * (uniform(M, H, 1) < 0.7)
    if kind == "outer products":
        return (uniform(M, H, 1) @ uniform(M, 1, W) + 10 ** (-8 + 3 * uniform(M, 1, 1)) * noise).float()
    spectrum = {
        "graded": 10 ** (-8 * uniform(M, k)),
        "at the tolerance": torch.cat([torch.ones(M, 1), tolerance * 2 ** (2 * uniform(M, k - 1) - 1)], 1),
        "half deficient": (torch.arange(k) < k / 2).double().expand(M, k),
    }[kind]
    left, right = orthogonal(M, H, generator)[:, :, :k], orthogonal(M, W, generator)[:, :k]
    return ((left * spectrum[:, None]) @ right).float()


KINDS = [
    "relu",
    "sparse",
    "dead rows and columns",
    "duplicates",
    "integers",
    "outer products",
    "graded",
    "at the tolerance",
    "half deficient",
]


@both
@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10**6), H=st.integers(1, 20), W=st.integers(1, 20))
@settings(max_examples=25)
def test_a_rank_that_is_given_is_that_of_torch(path: Ranks, kind: str, seed: int, H: int, W: int) -> None:
    matrices = matrices_of_kind(kind, seed, 40, H, W)
    expected = one_by_one(matrices)
    ranks = path(matrices)
    certain = ranks != OPEN
    assert torch.equal(ranks[certain], expected[certain])
    assert torch.equal(feature_map_ranks(matrices[None])[0], expected)


@both
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(32, 32), (28, 28), (9, 40), (56, 56)])
def test_larger_matrices_too(path: Ranks, kind: str, shape: tuple[int, int]) -> None:
    matrices = matrices_of_kind(kind, 1, 60, *shape)
    ranks = path(matrices)
    certain = ranks != OPEN
    assert torch.equal(ranks[certain], one_by_one(matrices)[certain])


@both
@pytest.mark.parametrize("n", [8, 16, 32])
def test_only_what_lies_near_the_tolerance_is_left_open(path: Ranks, n: int) -> None:
    margin = max(1 / 4, 4 / n)
    for share, rank in [
        (0.0, 1),
        (0.9 * (1 - margin), 1),
        (1.01 * (1 - margin), OPEN),
        (1.0, OPEN),
        (0.99 * (1 + margin), OPEN),
        (1.1 * (1 + margin), 2),
    ]:
        matrix = torch.zeros(1, n, n)
        matrix[0, 0, 0], matrix[0, -1, -1] = 1.0, share * n * EPS
        assert path(matrix).tolist() == [rank], share


@both
@pytest.mark.parametrize(("kind", "most"), [("relu", 0.02), ("dead rows and columns", 0.02), ("half deficient", 0.0)])
def test_few_are_left_open(path: Ranks, kind: str, most: float) -> None:
    matrices = matrices_of_kind(kind, 2, 2000, 16, 16)
    assert (path(matrices) == OPEN).double().mean() <= most


@both
def test_a_full_map_of_four_pixels_is_certain_and_a_deficient_one_is_not(path: Ranks) -> None:
    assert path(torch.stack([torch.eye(2), torch.ones(2, 2), torch.zeros(2, 2)])).tolist() == [2, OPEN, 0]


@both
def test_rows_that_add_up_to_zero(path: Ranks) -> None:
    row = torch.randn(9)
    matrices = torch.stack([torch.stack([row, -row] * 4), torch.stack([row, -row, row.roll(1), -row.roll(1)] * 2)])
    assert path(matrices).tolist() == [1, 2]


@both
@pytest.mark.parametrize("exponent", [-149, -140, -120, -80, -41, -39, 0, 39, 41, 80, 120])
def test_scales_from_denormal_to_overflow(path: Ranks, exponent: int) -> None:
    matrices = torch.cat([matrices_of_kind(kind, 3, 8, 12, 12) for kind in ("relu", "graded", "half deficient")])
    matrices = torch.ldexp(matrices.double(), torch.tensor(exponent)).float()
    assert torch.isfinite(matrices).all()
    ranks = path(matrices)
    certain = ranks != OPEN
    expected = one_by_one(matrices)
    assert torch.equal(ranks[certain], expected[certain])
    assert bool(certain[: 8 if abs(exponent) < 39 else 0].all())
    assert torch.equal(feature_map_ranks(matrices[None])[0], expected)


def test_the_largest_numbers_of_float32() -> None:
    matrices = torch.full((2, 6, 6), torch.finfo(torch.float32).max)
    matrices[1] = 1e38 * torch.eye(6)
    assert torch.equal(feature_map_ranks(matrices[None])[0], torch.linalg.matrix_rank(matrices))


@pytest.mark.parametrize("given", [1, 2, 3, 5])
def test_threads_change_nothing(given: int, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    from secateur.criteria import compiled_rank

    matrices = torch.cat([matrices_of_kind(kind, 4, 101, 10, 14) for kind in KINDS])
    threads(1)
    expected = certified_ranks(matrices)
    threads(given)
    monkeypatch.setattr(compiled_rank, "PART", 700)
    assert torch.equal(certified_ranks(matrices), expected)
    assert torch.equal(certified_ranks(matrices[:1]), expected[:1])


@both
def test_strided_maps(path: Ranks) -> None:
    matrices = matrices_of_kind("relu", 5, 30, 12, 9)
    assert torch.equal(path(matrices.mT.contiguous().mT), path(matrices))
    assert torch.equal(path(matrices[:, ::2]), path(matrices[:, ::2].clone()))
    maps = matrices.view(5, 6, 12, 9)
    last = maps.to(memory_format=torch.channels_last)
    assert torch.equal(feature_map_ranks(last), feature_map_ranks(maps))


def test_without_numba_the_ranks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = torch.cat([matrices_of_kind(kind, 6, 50, 11, 11) for kind in KINDS])
    before = feature_map_ranks(matrices[None])
    monkeypatch.delattr("secateur.criteria.compiled_rank", raising=False)
    monkeypatch.setitem(sys.modules, "secateur.criteria.compiled_rank", None)
    monkeypatch.setattr(certified_rank, "CHUNK", 1000)
    asked: list[int] = []
    monkeypatch.setattr(
        certified_rank, "ranks_by_torch", lambda given: (asked.append(len(given)), ranks_by_torch(given))[1]
    )
    assert torch.equal(feature_map_ranks(matrices[None]), before)
    assert asked == [len(matrices)]


@pytest.mark.parametrize("shape", [(7, 7), (11, 11), (8, 8), (5, 14)])
def test_the_rank_of_a_map_depends_on_no_other_map(shape: tuple[int, int]) -> None:
    matrices = matrices_of_kind("at the tolerance", 7, 400, *shape)
    ranks = feature_map_ranks(matrices[None])[0]
    assert torch.equal(ranks, one_by_one(matrices))
    for start in (1, 2, 3):
        assert torch.equal(feature_map_ranks(matrices[None, start:])[0], ranks[start:])
    assert torch.equal(feature_map_ranks(matrices.flip(0)[:, None])[:, 0].flip(0), ranks)


def test_a_decomposition_is_asked_for_the_open_maps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    decompose = torch.linalg.matrix_rank

    def counted(matrices: Tensor) -> Tensor:
        asked.append(len(matrices))
        return decompose(matrices)

    monkeypatch.setattr(feature_map_rank.torch.linalg, "matrix_rank", counted)
    near = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 8 * EPS]))
    maps = torch.stack([torch.eye(8), torch.zeros(8, 8), near, torch.ones(8, 8)])[None]
    assert feature_map_ranks(maps).tolist() == [[8, 0, 7, 1]]
    assert asked == [1]


def test_the_maps_of_a_trained_network(shared: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms.functional")
    image = pytest.importorskip("PIL.Image")
    pixels: list[Tensor] = []
    with tarfile.open(shared / "data" / "cifar10-jpeg-val.tar.gz") as files:
        for member in files:
            data = files.extractfile(member) if member.name.endswith("3.jpg") and len(pixels) < 24 else None
            if data is not None:
                pixel = transforms.to_tensor(image.open(io.BytesIO(data.read())).convert("RGB"))
                pixels.append(transforms.normalize(pixel, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    network = resnet56().eval()
    load_weights(network, shared / "models" / "resnet56-cifar10-jpeg.safetensors")
    counts = torch.zeros(3, dtype=torch.int64)

    def compare(layer: str, maps: Tensor) -> None:
        matrices = maps.flatten(0, 1)
        expected = torch.linalg.matrix_rank(matrices)
        assert torch.equal(feature_map_ranks(maps).flatten(), expected), layer
        for row, path in enumerate((certified_ranks, ranks_by_torch)):
            ranks = path(matrices)
            assert torch.equal(ranks[ranks != OPEN], expected[ranks != OPEN]), layer
            counts[row] += (ranks == OPEN).sum()
        counts[2] += len(matrices)

    convolutions = {name: module for name, module in producers(network).items() if name != "linear"}
    with torch.no_grad(), tapped(network, compare, layers=convolutions, tap="act"):
        network(torch.stack(pixels))
    assert counts[2] == 24 * 2032
    assert counts[:2].max() < 0.01 * counts[2]


@both
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("shape", [(8, 8), (7, 5), (32, 32)])
def test_a_map_that_is_not_finite_stays_open(path: Ranks, value: float, shape: tuple[int, int]) -> None:
    """So that a criterion finds it among the few open ones, without reading every number once more."""
    for place in range(0, shape[0] * shape[1], 5):
        for matrices in (torch.randn(3, *shape), torch.zeros(3, *shape)):
            matrices[1].view(-1)[place] = value
            assert path(matrices)[1] == OPEN
            with pytest.raises(DataError, match="NaN or infinite"):
                feature_map_ranks(matrices[None])
