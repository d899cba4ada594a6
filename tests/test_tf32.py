"""Switches of torch are put back as they were, whichever names they were set by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from secateur.evaluation.exactness import told_to_round
from secateur.tf32 import rounds_on_processors, tf32_allowed, without_tf32

cudnn: Any = torch.backends.cudnn
matmul: Any = torch.backends.cuda.matmul


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = (cudnn.allow_tf32, matmul.allow_tf32)
    yield
    cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.mark.parametrize("convolutions", [True, False])
@pytest.mark.parametrize("products", [True, False])
def test_tf32_is_off_within_and_as_before_after(convolutions: bool, products: bool) -> None:
    cudnn.allow_tf32, matmul.allow_tf32 = convolutions, products
    assert tf32_allowed() == (convolutions or products)
    with pytest.raises(ZeroDivisionError), without_tf32():
        assert tf32_allowed() or 1 / 0
    with without_tf32():
        assert not tf32_allowed()
    assert (cudnn.allow_tf32, matmul.allow_tf32) == (convolutions, products)


@pytest.mark.skipif(not hasattr(cudnn, "conv"), reason="torch before 2.9 has one name for each switch")
def test_tf32_switched_by_its_newer_name_is_noticed() -> None:
    """Reading the older name is an error then."""
    cudnn.allow_tf32, matmul.allow_tf32, before = False, False, cudnn.conv.fp32_precision
    try:
        cudnn.conv.fp32_precision = "tf32"
        with pytest.raises(RuntimeError):
            assert cudnn.allow_tf32
        assert tf32_allowed()
        cudnn.conv.fp32_precision = "ieee"
        assert not tf32_allowed()
    finally:
        cudnn.conv.fp32_precision = before


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "conv"), reason="torch before 2.9 cannot switch it")
def test_processors_keep_all_of_float32_too() -> None:
    conv: Any = torch.backends.mkldnn.conv
    before = conv.fp32_precision
    try:
        conv.fp32_precision = "bf16"
        assert rounds_on_processors()
        assert told_to_round(torch.device("cpu"))
        assert not told_to_round(torch.device("cuda"))
        with without_tf32():
            assert not rounds_on_processors()
        assert conv.fp32_precision == "bf16"
    finally:
        conv.fp32_precision = before
    assert not rounds_on_processors()


def test_networks_may_use_the_older_names_meanwhile() -> None:
    with without_tf32(), cudnn.flags(enabled=True, allow_tf32=False):
        assert not tf32_allowed()


@pytest.mark.parametrize("level", ["highest", "high", "medium"])
def test_the_precision_of_products_comes_back_as_it_was(level: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(level)
        assert tf32_allowed() or level == "highest"
        with without_tf32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == level
    finally:
        torch.set_float32_matmul_precision(before)
