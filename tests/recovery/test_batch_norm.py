"""Recalibration gives batch norm the mean statistics of the batches and touches nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import references
from secateur.errors import ConfigError, DataError
from secateur.recovery import recalibrate_batch_norm


def net() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    )
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@given(st.integers(1, 4), st.integers(2, 5), st.integers(0, 100))
@settings(max_examples=20)
def test_statistics_are_the_mean_over_batches(batches: int, size: int, seed: int) -> None:
    data = torch.randn(batches, size, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) * 3 + 5
    norm = nn.BatchNorm2d(3)
    norm.running_mean.fill_(100.0)  # nothing of the old may remain
    norm.running_var.fill_(torch.inf)
    assert recalibrate_batch_norm(norm, list(data)) == batches * size
    means, variances = references.mean_batch_statistics(data.flatten(3).tolist())
    torch.testing.assert_close(norm.running_mean, torch.tensor(means))
    torch.testing.assert_close(norm.running_var, torch.tensor(variances))


def test_only_the_statistics_change() -> None:
    model = net().eval()
    model[1].momentum, model[5].momentum = 0.3, None
    model[3].train()
    before = state(model)
    modes = [m.training for m in model.modules()]
    assert recalibrate_batch_norm(model, [(torch.randn(8, 2, 5, 5), torch.zeros(8))] * 3) == 24
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{n}.{k}" for n in (1, 5) for k in ("running_mean", "running_var", "num_batches_tracked")}
    assert (model[1].momentum, model[5].momentum) == (0.3, None)
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


def test_dropout_stays_off() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2)).train()
    recalibrate_batch_norm(model, [torch.ones(16, 2)])
    assert model[1].running_mean.tolist() == [1.0, 1.0]
    assert model[1].running_var.tolist() == [0.0, 0.0]


class NormThenDropout(nn.BatchNorm2d):
    """A batch norm that holds what follows it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.after = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(super().forward(x))  # type: ignore[no-any-return]  # a module's call


def test_dropout_within_a_norm_stays_off_too() -> None:
    plain = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    model = nn.Sequential(NormThenDropout(2), nn.BatchNorm2d(2))
    data = [torch.randn(4, 2, 5, 5) for _ in range(3)]
    for network in (plain, model):
        recalibrate_batch_norm(network, data)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())


def test_it_recovers_statistics_that_are_wrong() -> None:
    model, data = net(), torch.randn(64, 2, 6, 6)
    recalibrate_batch_norm(model, [data])
    right = model.eval()(data)
    model[1].running_mean += 2.0
    model[5].running_var *= 9.0
    assert not torch.allclose(model(data), right, atol=0.1)
    recalibrate_batch_norm(model, [data])
    torch.testing.assert_close(model(data), right)


def test_samples_bound_the_images_and_a_rest_is_left_out() -> None:
    read: list[int] = []

    def batches(count: int) -> Iterator[Tensor]:
        for i in range(count):
            read.append(i)
            yield torch.randn(4, 2, 5, 5)

    assert recalibrate_batch_norm(net(), batches(100), samples=8) == 8
    assert len(read) <= 3
    assert recalibrate_batch_norm(net(), batches(3), samples=10) == 8
    assert recalibrate_batch_norm(net(), batches(1), samples=3) == 3
    assert recalibrate_batch_norm(net(), batches(1), samples=2) == 2
    assert recalibrate_batch_norm(net(), [torch.randn(4, 2, 5, 5), torch.randn(3, 2, 5, 5)]) == 4


def test_norms_without_statistics_are_left_alone() -> None:
    assert recalibrate_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), [torch.zeros(2, 2)]) == 0
    stateless = nn.BatchNorm2d(2, track_running_stats=False)
    assert recalibrate_batch_norm(stateless, [torch.zeros(2, 2, 2, 2)]) == 0
    frozen = pytest.importorskip("torchvision").ops.FrozenBatchNorm2d(2)
    model = nn.Sequential(frozen, nn.BatchNorm2d(2))
    recalibrate_batch_norm(model, [torch.randn(4, 2, 2, 2) + 7])
    assert frozen.running_mean.tolist() == [0.0, 0.0]
    assert model[1].running_mean.min() > 3


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "empty"),
        ([torch.zeros(0, 2, 5, 5)], "holds 0"),
        ([torch.zeros(1, 2, 5, 5)], "at least two images; the first batch holds 1"),
        ([torch.randn(4, 2, 5, 5), torch.full((4, 2, 5, 5), torch.nan)], "NaN"),
        ([torch.full((4, 2, 5, 5), 3e38)], r"running_.* of the batch norm '1' is not finite"),
        (["images"], "must be a tensor"),
    ],
)
def test_after_an_error_everything_is_as_before(batches: list[object], words: str) -> None:
    model = net()
    model[1].momentum = 0.3
    model[3].eval()
    before, modes = state(model), [m.training for m in model.modules()]
    with pytest.raises(DataError, match=words):
        recalibrate_batch_norm(model, batches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert model[1].momentum == 0.3


def test_after_ctrl_c_the_old_statistics_are_back() -> None:
    def interrupted() -> Iterator[Tensor]:
        yield torch.randn(4, 2, 5, 5)
        raise KeyboardInterrupt

    model = net()
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        recalibrate_batch_norm(model, interrupted())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_samples_must_be_at_least_two() -> None:
    for samples in (1, 2.5):
        with pytest.raises(ConfigError, match=f"samples is {samples}; it must be a whole number, at least 2"):
            recalibrate_batch_norm(net(), [torch.randn(4, 2, 5, 5)], samples=samples)  # type: ignore[arg-type]  # bad on purpose


class Auxiliary(nn.Module):
    """A network whose second norm runs in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.further = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.further(self.norm(x)) if self.training else self.norm(x)  # type: ignore[no-any-return]  # a module's call


def test_a_norm_that_no_batch_reaches_keeps_what_it_had() -> None:
    model = Auxiliary()
    model.further.running_mean.fill_(3.0)
    model.further.running_var.fill_(7.0)
    model.further.num_batches_tracked.fill_(99)
    before = state(model.further)
    assert recalibrate_batch_norm(model, [torch.randn(4, 2, 5, 5) + 7] * 2) == 8
    assert all(torch.equal(value, before[name]) for name, value in model.further.state_dict().items())
    assert model.norm.running_mean.min() > 5
    assert model.norm.num_batches_tracked == 2


class PastTheOuter(nn.Module):
    """A batch norm that holds another, of which the one within alone is called."""

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.within = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.outer.add_module("within", self.within)

    def forward(self, x: Tensor) -> Tensor:
        return self.within(x)  # type: ignore[no-any-return]  # a module's call


def test_a_norm_keeps_what_is_measured_within_one_that_no_batch_reaches() -> None:
    model = PastTheOuter()
    recalibrate_batch_norm(model, [torch.randn(4, 2, 5, 5) + 7] * 2)
    assert model.outer.running_mean.tolist() == [0.0, 0.0]
    assert model.within.running_mean.min() > 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_many_batches_in_half_precision_are_averaged_in_float64(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(64, 1, 4, 4, generator=generator) * 3 + 5).to(dtype) for _ in range(63)]
    norm, exact = nn.BatchNorm2d(1).to(dtype), nn.BatchNorm2d(1).double()
    recalibrate_batch_norm(norm, data)
    recalibrate_batch_norm(exact, [images.double() for images in data])
    nearest = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(norm.running_mean.double(), exact.running_mean, rtol=nearest, atol=0)
    torch.testing.assert_close(norm.running_var.double(), exact.running_var, rtol=nearest, atol=0)
