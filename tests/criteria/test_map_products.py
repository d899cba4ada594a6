"""The products of feature maps behind DI: against loops, in any layout, in blocks that fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur.criteria import map_products
from secateur.criteria.map_products import block_norms, blocks, channels_at_once, gram
from secateur.errors import ConfigError


def random_maps(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu()


def centred(maps: Tensor) -> Tensor:
    X = maps.double().flatten(1)
    return X - X.mean(0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("images", [2, 32, 33, 70])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_products_are_those_of_the_centred_maps(
    dtype: torch.dtype, tolerance: float, images: int, channels: int
) -> None:
    maps = random_maps(images, 5, 3, 2)
    X = centred(maps)
    G, energy = gram(maps, channels, dtype)
    assert float((G - X @ X.T).abs().max()) <= tolerance * energy
    assert torch.equal(G, G.T)
    assert energy == pytest.approx(float((maps.double() - maps[0].double()).square().sum()))
    A = torch.randn(images, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    A -= A.mean(0)
    norms = block_norms(maps, A, channels, dtype)
    for c in range(5):
        expected = float((centred(maps[:, c]).T @ A).square().sum())
        assert float(norms[c]) == pytest.approx(expected, rel=max(1e-12, 10 * tolerance))


def test_layouts_do_not_matter() -> None:
    maps = random_maps(9, 4, 3, 3)
    last = maps.to(memory_format=torch.channels_last)
    strided = torch.stack([maps, -maps], dim=4)[..., 0]
    for other in (last, strided):
        assert not other.is_contiguous()
        for mine, expected in zip(blocks(other, 2, torch.float32), blocks(maps, 2, torch.float32), strict=True):
            assert torch.equal(mine, expected)


def test_weights_of_any_size_fit_into_float32() -> None:
    maps = random_maps(4, 2, 3, 3)
    A = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]], dtype=torch.float64)
    plain = block_norms(maps, A, 2, torch.float32)
    for scale in (1e-60, 1e60):
        torch.testing.assert_close(block_norms(maps, scale * A, 2, torch.float32), scale**2 * plain, rtol=1e-6, atol=0)
    assert block_norms(maps, 0 * A, 2, torch.float32).tolist() == [0.0, 0.0]


def test_channels_that_never_change_are_exact_zeros() -> None:
    maps = random_maps(7, 3, 2, 2)
    maps[:, 1] = 0.1
    A = torch.randn(7, 2, dtype=torch.float64)
    assert float(block_norms(maps, A - A.mean(0), 3, torch.float32)[1]) == 0.0


def test_callers_that_cast_are_not_followed() -> None:
    maps, A = random_maps(8, 3, 2, 2), torch.eye(8, dtype=torch.float64)[:, :2] - 1 / 8
    plain = gram(maps, 2, torch.float32)[0], block_norms(maps, A, 2, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gram(maps, 2, torch.float32)[0], plain[0])
        assert torch.equal(block_norms(maps, A, 2, torch.float32), plain[1])


def test_float32_products_count_as_whole_only_where_torch_may_not_cut_them() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert not map_products.float32_products_are_whole()
    finally:
        torch.set_float32_matmul_precision(before)
    assert map_products.float32_products_are_whole()


def test_fewer_channels_at_a_time_with_less_memory() -> None:
    maps = torch.zeros(10, 64, 4, 4)
    counts = [channels_at_once(maps, columns=3, memory=memory) for memory in (30_000, 100_000, 2**31)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == map_products.BLOCK // maps[:, 0].numel()
    assert channels_at_once(torch.zeros(2, 3, 1024, 1024), columns=2, memory=2**31) == 1
    with pytest.raises(ConfigError, match="memory is 10000 bytes; 10 images with maps of 4 x 4 need at least"):
        channels_at_once(maps, columns=3, memory=10_000)
