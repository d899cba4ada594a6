"""The ridge regression behind DI: two forms, one answer; two precisions, nearly one; any targets; bounded memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.criteria import map_products, ridge
from secateur.errors import ConfigError, DataError

Answer = Callable[..., Tensor]
derivatives: Answer = partial(ridge.mask_derivatives, precision="double")
ANSWERS: list[Answer] = [ridge.explained_variation, derivatives, ridge.removal_losses]
shapes = st.tuples(st.integers(2, 9), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))


def problem(seed: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).relu(), torch.randn(shape[0], 5, generator=generator)


@given(seed=st.integers(0, 10**6), shape=shapes, rho=st.sampled_from([1e-3, 0.1, 10.0]))
@settings(max_examples=40)
def test_primal_and_dual_agree(seed: int, shape: tuple[int, int, int, int], rho: float) -> None:
    maps, targets = problem(seed, shape)
    whole = float(ridge.explained_variation(maps, targets, rho=rho))
    for answer in ANSWERS:
        primal = answer(maps, targets, rho=rho, form="primal")
        dual = answer(maps, targets, rho=rho, form="dual")
        assert float((primal - dual).abs().max()) <= 1e-9 * max(whole, 1e-12)


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_smaller_form_is_chosen(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("the other form was expected")

    with monkeypatch.context() as patch:
        patch.setattr(ridge, "_dual", refuse)
        primal = answer(*problem(0, (8, 2, 2, 2)), rho=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(ridge, "_primal", refuse)
        dual = answer(*problem(0, (7, 2, 2, 2)), rho=0.1)
    assert primal.shape == dual.shape
    monkeypatch.setattr(ridge, "_primal", refuse)
    with pytest.raises(RuntimeError, match="the other form"):
        answer(*problem(0, (8, 2, 2, 2)), rho=0.1)


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_matrix_of_features_by_features(answer: Answer) -> None:
    maps, targets = problem(1, (3, 4, 160, 160))  # D x D would take 84 GB
    assert bool((answer(maps, targets, rho=0.1) >= 0).all())


@pytest.mark.parametrize("shape", [(9, 5, 2, 3), (5, 5, 3, 3), (40, 5, 2, 2)])
def test_chunks_do_not_change_the_answer(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    maps, targets = problem(2, shape)
    whole = [answer(maps, targets, rho=0.1) for answer in ANSWERS]
    for chunk in (1, 2 * shape[0] * shape[2] * shape[3]):
        monkeypatch.setattr(map_products, "BLOCK", chunk)
        for answer, expected in zip(ANSWERS, whole, strict=True):
            torch.testing.assert_close(answer(maps, targets, rho=0.1), expected, rtol=1e-10, atol=1e-12)


def test_the_explained_part_and_the_rest_make_the_whole() -> None:
    maps, targets = problem(3, (30, 4, 1, 2))
    X, Y = maps.flatten(1).double(), targets.double()
    X, Y = X - X.mean(0), Y - Y.mean(0)
    F = torch.linalg.inv(X.T @ X + 2.0 * torch.eye(8)) @ X.T @ Y
    rest = (Y - X @ F).square().sum() + 2.0 * F.square().sum()
    torch.testing.assert_close(ridge.explained_variation(maps, targets, rho=2.0), Y.square().sum() - rest)


def test_constants_added_to_maps_or_targets_change_nothing() -> None:
    maps, targets = problem(4, (6, 3, 2, 2))
    for answer in ANSWERS:
        moved = answer(maps.double() + 3.0, targets.double() - 1e4, rho=1e-6)
        torch.testing.assert_close(moved, answer(maps, targets, rho=1e-6), rtol=1e-7, atol=1e-12)


def test_total_variation_is_the_trace() -> None:
    maps, _ = problem(5, (6, 3, 2, 2))
    centred = maps.double() - maps.double().mean(0)
    assert ridge.total_variation(maps) == pytest.approx(float(centred.square().sum()))


@pytest.mark.parametrize("rho", [0.0, -0.1, float("inf"), float("nan")])
def test_rho_must_be_positive(rho: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        ridge.mask_derivatives(*problem(6, (6, 3, 2, 2)), rho=rho)


def test_unknown_forms_and_unfit_targets_are_refused() -> None:
    maps, targets = problem(7, (6, 3, 2, 2))
    unknown: Any = "both"
    with pytest.raises(ConfigError, match="auto, primal, dual"):
        ridge.mask_derivatives(maps, targets, rho=0.1, form=unknown)
    for unfit in (targets[:5], targets[:, 0], targets[:, :0], targets / 0):
        with pytest.raises(DataError, match="6 images"):
            ridge.mask_derivatives(maps, unfit, rho=0.1)


@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(12, 6, 5, 5), (40, 5, 3, 3), (6, 7, 1, 1), (33, 9, 2, 2)]),
    rho=st.sampled_from([1e-5, 0.1, 10.0]),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e4]),
    offset=st.sampled_from([0.0, 10.0, 1e4]),
    fault=st.sampled_from(["none", "equal images", "equal channels", "dead channel", "first image far off"]),
)
@example(seed=70190, shape=(6, 7, 1, 1), rho=1e-5, scale=1.0, offset=0.0, fault="dead channel")
@settings(max_examples=120)
def test_mixed_precision_is_close_to_double(
    seed: int, shape: tuple[int, ...], rho: float, scale: float, offset: float, fault: str
) -> None:
    maps, targets = problem(seed, shape)
    maps = scale * (maps + offset * torch.rand(shape[1:], generator=torch.Generator().manual_seed(seed)))
    if fault == "equal images":
        maps[1] = maps[0]
    elif fault == "equal channels":
        maps[:, 1] = maps[:, 0]
    elif fault == "dead channel":
        maps[:, 1] = offset
    elif fault == "first image far off":
        maps[0] = 100 * scale
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ridge, "SMALL", 0)
        try:
            double = derivatives(maps, targets, rho=rho, form="dual")
        except ConfigError:  # refused in both
            with pytest.raises(ConfigError, match="too small"):
                ridge.mask_derivatives(maps, targets, rho=rho, form="dual")
            return
        mixed = ridge.mask_derivatives(maps, targets, rho=rho, form="dual")
    assert float((mixed - double).abs().max()) <= 2 * ridge.ROUNDING * float(double.max())
    assert bool((mixed[double == 0] == 0).all())


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The types in which Gram matrices were made."""
    made: list[torch.dtype] = []

    def recorded(maps: Tensor, channels: int, dtype: torch.dtype) -> tuple[Tensor, float]:
        made.append(dtype)
        return map_products.gram(maps, channels, dtype)

    monkeypatch.setattr(ridge, "gram", recorded)
    return made


def test_float32_serves_large_maps_that_it_can_tell_apart(products: list[torch.dtype]) -> None:
    maps, targets = problem(8, (24, 12, 32, 32))
    assert maps.numel() >= ridge.SMALL
    mixed = ridge.mask_derivatives(maps, targets, rho=0.1)
    assert products == [torch.float32]
    double = derivatives(maps, targets, rho=0.1)
    torch.testing.assert_close(mixed, double, rtol=1e-5, atol=0)
    assert not torch.equal(mixed, double)
    for other in (maps.half(), maps.bfloat16()):  # cast, not computed in
        torch.testing.assert_close(
            ridge.mask_derivatives(other, targets, rho=0.1), derivatives(other, targets, rho=0.1), rtol=1e-5, atol=0
        )


@pytest.mark.parametrize("fault", ["equal images", "too large", "float64", "small", "cut", "dead"])
def test_float64_serves_where_float32_will_not_do(fault: str, products: list[torch.dtype]) -> None:
    maps, targets = problem(9, (24, 12, 32, 32))
    if fault == "equal images":
        maps[1] = maps[0]
    elif fault == "too large":
        maps *= 1e19
    elif fault == "float64":
        maps = maps.double()
    elif fault == "small":
        maps = maps[:, :4]
    elif fault == "dead":
        maps *= 0
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium" if fault == "cut" else "highest")
        mixed = ridge.mask_derivatives(maps, targets, rho=0.1)
    finally:
        torch.set_float32_matmul_precision(before)
    assert products[-1] == torch.float64
    assert torch.equal(mixed, derivatives(maps, targets, rho=0.1))


@pytest.mark.parametrize("rho", [1e-3, 10.0])
def test_the_bound_on_rounding_is_as_told_and_no_looser_than_its_norm_of_the_inverse(rho: float) -> None:
    maps, targets = problem(12, (12, 5, 4, 4))
    Z, Y = (maps - maps[0]).flatten(1).double(), targets.double() - targets.double().mean(0)
    X = Z - Z.mean(0)
    G = X @ X.T
    M = G + (rho + G.trace() / 12**2) * torch.eye(12)
    A, energy = torch.linalg.solve(M, Y), float(Z.square().sum())
    told = 2**-23 * A.norm() * energy**0.5 * (1 + (energy / torch.linalg.eigvalsh(M).min()) ** 0.5) / (X.T @ A).norm()
    found = ridge._rounding(G, torch.linalg.cholesky(M), A, energy)
    assert told <= found <= 12**0.5 * told


@pytest.mark.parametrize("outputs", [1, 4, 5])  # beyond four the squares of R are the smaller
def test_the_losses_of_blocks_are_traces_and_a_single_unfit_block_is_refused(outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    A, R = (torch.randn(3, 2, width, generator=generator, dtype=torch.float64) for width in (3, outputs))
    M = A @ A.mT
    expected = torch.stack([torch.trace(r.T @ torch.linalg.inv(m) @ r) for m, r in zip(M, R, strict=True)])
    torch.testing.assert_close(ridge.block_losses(M, R), expected)
    M[1] = 0.0
    with pytest.raises(ConfigError, match="too small"):
        ridge.block_losses(M, R)


def test_more_targets_than_images_cost_no_more_than_as_many() -> None:
    maps, _ = problem(10, (6, 4, 3, 2))
    targets = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    for answer in ANSWERS:
        each = sum(answer(maps, column[:, None], rho=0.1) for column in targets.T)
        for form in ("primal", "dual"):
            torch.testing.assert_close(answer(maps, targets, rho=0.1, form=form), each, rtol=1e-9, atol=1e-10)


class Held(TorchDispatchMode):
    """`most`: how many bytes of tensors made inside were alive at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self.now = 0
        self._storages: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        given = {tensor.untyped_storage().data_ptr() for tensor in before}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._storages:
            self._storages.add(storage)
            self._count(storage.nbytes())
            weakref.finalize(storage, self._count, -storage.nbytes())

    def _count(self, change: int) -> None:
        self.now += change
        self.most = max(self.most, self.now)


@pytest.mark.parametrize("shape", [(20, 12, 20, 20), (40, 30, 6, 5), (64, 300, 1, 1), (30, 5, 2, 3)])
def test_no_more_memory_is_held_than_allowed(shape: tuple[int, ...]) -> None:
    maps, targets = problem(11, shape)
    N, _, H, W = shape
    least = 96 * N * (N + 5) + 32 * (N + 5) * H * W + 48 * min(N, H * W) ** 2
    for answer in [*ANSWERS, ridge.mask_derivatives]:
        plain = answer(maps, targets, rho=0.1)
        for memory in (least, 4 * least):
            with Held() as held:
                bounded = answer(maps, targets, rho=0.1, memory=memory)
            assert maps.nbytes / 8 < held.most <= memory
            torch.testing.assert_close(bounded, plain, rtol=1e-9, atol=1e-10)
        with pytest.raises(ConfigError, match=f"memory is {least - 1} bytes.*at least {least}"):
            answer(maps, targets, rho=0.1, memory=least - 1)
