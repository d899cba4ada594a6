"""Half the bits: float16 with a scaled loss, bfloat16 without, and a clear word where a device has neither."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import precision as precisions
from secateur.errors import ConfigError, DataError, SecateurWarning
from secateur.precision import PRECISIONS, Precision, check_precision, check_scaling, scaler_of
from secateur.training import fine_tune
from secateur.training.steps import Steps
from training_for_tests import blobs, net, state


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_learns_what_float32_does(precision: Precision) -> None:
    model = net()
    history = fine_tune(model, blobs(), blobs(), epochs=8, learning_rate=0.2, precision=precision)
    assert history.epochs[-1].accuracy == 1.0
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def step_of_tiny_gradients(precision: Precision) -> Tensor:
    """One step of a layer behind which the gradient is as small as 1e-9: two layers of weights near 2e-4 follow."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    for layer in model[1:]:
        nn.init.uniform_(layer.weight, 1e-4, 4e-4)
        layer.requires_grad_(False)
    before = model[0].weight.detach().clone()
    fine_tune(model, blobs()[:1], learning_rate=1e6, momentum=0.0, weight_decay=0.0, precision=precision)
    return model[0].weight.detach() - before


def test_small_gradients_survive_float16_by_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = step_of_tiny_gradients("float32")
    largest = float(expected.abs().max())
    torch.testing.assert_close(step_of_tiny_gradients("float16"), expected, rtol=0.0, atol=0.02 * largest)
    monkeypatch.setattr(
        "secateur.training.steps.scaler_of", lambda device, _: torch.amp.GradScaler(device.type, enabled=False)
    )
    assert float((step_of_tiny_gradients("float16") - expected).abs().max()) > 0.2 * largest


def test_gradients_in_float16_are_clipped_by_their_norm_without_the_scale() -> None:
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    plain = {"learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    fine_tune(model, blobs()[:1], precision="float16", clip_norm=0.01, **plain)
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.01, rel=0.01)


def test_a_step_that_overflows_is_left_out_and_the_scale_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = net(), list[tuple[float, bool]]()
    start, update = state(model)["0.weight"], Steps._update

    def watched(self: Steps, *arguments: Any) -> float:
        value = update(self, *arguments)
        seen.append((self.scaler.get_scale(), torch.equal(model[0].weight, start)))
        return value

    monkeypatch.setattr(Steps, "_update", watched)
    monkeypatch.setattr(
        "secateur.training.steps.scaler_of", lambda device, _: torch.amp.GradScaler(device.type, init_scale=2.0**40)
    )
    fine_tune(model, blobs(), epochs=12, precision="float16")
    assert seen[0] == (2.0**39, True)
    assert seen[-1][0] < 2.0**30
    assert not seen[-1][1]


def test_a_gradient_that_always_overflows_ends_the_training() -> None:
    model = net()
    model[4].weight.register_hook(lambda gradient: gradient * torch.inf)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(DataError, match=r"overflows float16 whatever it is scaled by at step 41 of 90: training div"):
        fine_tune(model, blobs(), epochs=30, precision="float16")
    assert all(map(torch.equal, model.parameters(), before))


def test_a_device_without_such_arithmetic_is_refused_before_any_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("\"slow_conv2d_cpu\" not implemented for 'Half'\nand much more")

    monkeypatch.setattr(nn.Conv2d, "forward", lacking)
    model = net()
    with pytest.raises(ConfigError, match=r"the device cpu does not train in float16 \(\"slow.*'Half'\); precision: f"):
        fine_tune(model, blobs(), precision="float16")
    check_precision(torch.device("cpu"), "float32")


def test_weights_in_float16_whose_loss_would_be_scaled_are_refused_before_any_step() -> None:
    model = net()
    model[4].half()
    before = state(model)
    with pytest.raises(ConfigError, match=r"'4\.weight' is float16, .* cannot be scaled back: use \.float\(\)"):
        fine_tune(model, blobs(), precision="float16", clip_norm=1.0)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    model[4].requires_grad_(False)
    check_scaling(model, "float16")


def test_only_float16_is_scaled() -> None:
    assert [scaler_of(torch.device("cpu"), name).is_enabled() for name in PRECISIONS] == [False, False, True]


@pytest.fixture
def anew() -> None:
    """What was warned of before is warned of again."""
    precisions._warn_of_emulation.cache_clear()


@pytest.mark.usefixtures("anew")
def test_a_precision_that_is_emulated_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "_is_native", lambda precision: precision == "float16")
    with pytest.warns(SecateurWarning, match=r"does not compute in bfloat16: it is emulated") as told:
        fine_tune(net(), blobs(), epochs=1, precision="bfloat16")
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fine_tune(net(), blobs(), epochs=1, precision="bfloat16")
        for precision in ("float32", "float16"):
            check_precision(torch.device("cpu"), precision)


def test_what_is_emulated_on_a_processor_is_what_torch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own tests ask the same; a build without oneDNN has nobody to ask."""
    found = {name: precisions._is_native(name) for name in ("bfloat16", "float16")}
    assert found == {
        "bfloat16": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "float16": torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert all(map(precisions._is_native, found))
