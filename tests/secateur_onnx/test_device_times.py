"""Layers that stand several times in a file: they compute what torch's do, and their times are told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from secateur.errors import ConfigError, DataError, SecateurWarning
from secateur_onnx import latency_cost
from secateur_onnx.latency import device_times
from secateur_onnx.latency.device_times import _copies_model, added_time, time_layers_on_device
from secateur_onnx.latency.geometry import Geometry, layer_calls
from secateur_onnx.latency.layer_nodes import group_count, input_shape, weight_shape
from secateur_onnx.sessions import create_session

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dilated": (lambda: nn.Conv2d(3, 12, 3, padding="same", dilation=2), (3, 9, 7)),
    "grouped": (lambda: nn.Conv2d(8, 4, 1, groups=2), (8, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6, stride=2, padding=1), (6, 9, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1), (8, 5, 5)),
    "linear": (lambda: nn.Linear(7, 5), (7,)),
    "tokens": (lambda: nn.Linear(7, 5), (4, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_file_computes_the_layer(name: str, tmp_path: Path) -> None:
    build, shape = LAYERS[name]
    module, images = build(), torch.randn(2, *shape)
    record, (geometry,) = layer_calls(module, images)[""]
    pair = (record.inputs, record.outputs)
    path = tmp_path / "copies.onnx"
    path.write_bytes(_copies_model(geometry, group_count(geometry, pair), 2, 2).SerializeToString())
    assert weight_shape(geometry, pair) == tuple(module.weight.shape)
    weight, bias, inputs = module.weight.detach(), module.bias.detach(), images.reshape(2, *shape)
    flat = inputs.reshape(input_shape(geometry, record.inputs, 2)).numpy()
    feeds: dict[str, Any] = {"input": flat}
    for copy, factor in enumerate((1.0, -1.0)):
        feeds |= {f"weight_{copy}": (factor * weight).numpy(), f"bias_{copy}": (factor * bias).numpy()}
    expected: Tensor = module(images).detach()
    for factor, found in zip((1.0, -1.0), create_session(path, threads=1).run(None, feeds), strict=True):
        np.testing.assert_allclose(
            found, functional.relu(factor * expected).reshape(found.shape).numpy(), rtol=1e-5, atol=1e-5
        )


@given(each=st.floats(1e-6, 1e-2), run=st.floats(0, 1e-2), copies=st.sampled_from((2, 4, 8, 16)))
def test_what_a_run_costs_is_no_time_of_a_layer(each: float, run: float, copies: int) -> None:
    many, one = [run + copies * each] * 9, [run + each] * 9
    assert added_time(many, one, copies=copies) == pytest.approx(each, rel=1e-6)


def test_a_difference_that_noise_has_swallowed() -> None:
    with pytest.warns(SecateurWarning, match="4 layers took no longer than one"):
        assert added_time([1.0, 1.1], [1.2, 1.3], copies=4) == pytest.approx(1.005 / 4)


def test_large_weights_stand_fewer_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 copies of the first linear layer of VGG would take 6.6 GB of a device."""
    asked = list[int]()
    monkeypatch.setattr(device_times, "LARGEST", 2**16)
    monkeypatch.setattr(device_times, "added_time", lambda *_, copies: asked.append(copies) or 1.0)
    time_layers_on_device(
        Geometry("Gemm", (1,)), [(8, 8), (64, 64), (256, 256)], batch=1, provider="cpu", threads=1, seconds=0.01
    )
    assert asked == [16, 2, 2]


def test_wide_layers_take_longer(network: nn.Sequential) -> None:
    conv = Geometry("Conv", (16, 16), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
    small, large = time_layers_on_device(conv, [(8, 8), (128, 128)], batch=1, provider="cpu", threads=1, seconds=0.05)
    assert 0 < small < large  # 256 times the arithmetic
    depthwise = Geometry("Conv", (8, 8), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), depthwise=True)
    assert min(time_layers_on_device(depthwise, [(8, 8), (16, 16)], batch=1, provider="cpu", threads=1)) > 0


def test_what_cannot_be_timed_is_refused(network: nn.Sequential) -> None:
    conv = Geometry("Conv", (16, 16), (3, 3))
    with pytest.raises(ConfigError, match=r"cannot be timed alone on 'tensorrt'; allowed: cpu, cuda"):
        time_layers_on_device(conv, [(8, 8)], batch=1, provider="tensorrt")
    small = Geometry("Conv", (2, 2), (3, 3))
    with pytest.raises(DataError, match="onnxruntime fails on 8 to 4 channels"):
        time_layers_on_device(small, [(8, 4)], batch=1, provider="cpu", threads=1)


def test_a_provider_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError, match="cuda"):
        latency_cost(nn.Linear(3, 2), torch.zeros(1, 3), {}, provider="cuda")
