"""Parity: equal networks pass, tampered ones do not, and the numbers are those of a plain loop."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from references import parity_by_loops
from secateur.errors import ConfigError, DataError, NetworkError, VerificationError
from secateur.tf32 import tf32_allowed
from secateur_onnx import check_parity, create_session, export, parity
from secateur_onnx.sessions import infer


def batches(count: int = 3, size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Noise around a colour of its own in each image, so that the network does not name one class for all."""
    generator = torch.Generator().manual_seed(3)
    colours = 3 * torch.randn(count, size, 3, 1, 1, generator=generator)
    images = colours + torch.randn(count, size, 3, 16, 16, generator=generator)
    return [(batch, torch.zeros(size)) for batch in images]


def test_the_exported_network_passes(network: nn.Sequential, dense_file: Path) -> None:
    result = check_parity(network, dense_file, batches()).require()
    assert result.passed
    assert (result.samples, result.provider, result.top1_agreement) == (12, "cpu", 1.0)
    assert 0 < result.max_relative < 1e-5
    assert json.loads(json.dumps(result.to_json())) == {
        "provider": "cpu",
        "samples": 12,
        "max_abs": result.max_abs,
        "mean_abs": result.mean_abs,
        "max_relative": result.max_relative,
        "top1_agreement": 1.0,
        "tolerance": 1e-4,
        "passed": True,
    }


def test_a_weight_changed_after_export_is_caught(network: nn.Sequential, dense_file: Path) -> None:
    with torch.no_grad():
        network[3].weight[0, 0] += 0.05
    result = check_parity(network, dense_file, batches())
    assert not result.passed
    with pytest.raises(
        VerificationError, match=r"over 12 inputs the largest difference is .* where 0\.0001 is allowed"
    ):
        result.require()


def test_numbers_are_those_of_the_loop(network: nn.Sequential, dense_file: Path) -> None:
    with torch.no_grad():
        network[8].weight.add_(0.3 * torch.randn(10, 8))
    data = batches()
    session = create_session(dense_file)
    expected = [row for x, _ in data for row in network(x).double().tolist()]
    found = [row for x, _ in data for row in infer(session, x.numpy()).astype(float).tolist()]
    naive = parity_by_loops(expected, found)
    result = check_parity(network, dense_file, data)
    assert 0 < naive["top1_agreement"] < 1
    for name, value in naive.items():
        assert math.isclose(getattr(result, name), value, rel_tol=1e-12), name


def test_the_split_into_batches_does_not_matter(network: nn.Sequential, dense_file: Path) -> None:
    network[8].weight.data.mul_(1.1)
    whole = torch.cat([x for x, _ in batches()])
    one, many = check_parity(network, dense_file, [whole]), check_parity(network, dense_file, whole.split(5))
    assert one.samples == many.samples == 12
    assert math.isclose(one.max_relative, many.max_relative, rel_tol=1e-5)
    assert math.isclose(one.mean_abs, many.mean_abs, rel_tol=1e-5)


def test_max_samples_and_progress(network: nn.Sequential, dense_file: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = check_parity(
        network, dense_file, batches(), max_samples=6, on_progress=lambda done, total: seen.append((done, total))
    )
    assert result.samples == 6
    assert seen == [(4, 6), (6, 6)]


def test_outputs_of_another_shape_are_an_error(network: nn.Sequential, dense_file: Path) -> None:
    network[8] = nn.Linear(8, 7)
    with pytest.raises(VerificationError, match=r"outputs \(4, 7\), the ONNX file \(4, 10\)"):
        check_parity(network, dense_file, batches())


def test_outputs_that_are_not_finite_are_an_error(network: nn.Sequential, dense_file: Path) -> None:
    network[8].bias.data[0] = math.nan
    with pytest.raises(VerificationError, match="the network gives outputs that are NaN"):
        check_parity(network, dense_file, batches())


def test_no_batches_and_no_samples(network: nn.Sequential, dense_file: Path) -> None:
    with pytest.raises(DataError, match="no batches"):
        check_parity(network, dense_file, [])
    for samples in (0, 2.5):
        with pytest.raises(ConfigError, match=f"max_samples is {samples}; it must be a whole number, at least 1"):
            check_parity(network, dense_file, batches(), max_samples=samples)  # type: ignore[arg-type]  # bad on purpose
    for tolerance in (-1e-4, math.nan):
        with pytest.raises(ConfigError, match="tolerance must be 0 or more"):
            check_parity(network, dense_file, batches(), tolerance=tolerance)


@pytest.mark.parametrize("shape", [(2, 3, 20, 20), (2, 5, 16, 16), (2, 48)])
def test_a_batch_the_file_was_not_exported_for(
    network: nn.Sequential, dense_file: Path, shape: tuple[int, ...]
) -> None:
    """Whether or not torch would run on it."""
    with pytest.raises(DataError, match=rf"was exported for inputs of shape .*; found {re.escape(str(shape))}"):
        check_parity(network, dense_file, [torch.zeros(shape)])


def test_a_network_that_fails_on_a_batch_is_told(network: nn.Sequential, dense_file: Path) -> None:
    with pytest.raises(NetworkError, match=r"fails on a batch of shape \(2, 3, 16, 16\): "):
        check_parity(network, dense_file, [torch.zeros(2, 3, 16, 16, dtype=torch.uint8)])


@pytest.mark.parametrize(("provider", "told"), [("tensorrt", True), ("cuda", False), ("cpu", False)])
def test_what_no_setting_keeps_from_rounding_is_told(provider: str, told: bool) -> None:
    result = parity.ParityResult(provider, 8, 1e-2, 1e-3, 1e-3, 1.0, 1e-4)
    with pytest.raises(VerificationError, match=f"provider {provider}") as error:
        result.require()
    assert ("NVIDIA_TF32_OVERRIDE=0" in str(error.value)) == told


@pytest.mark.parametrize("shape", [(2, 0), (2, 3, 0), (2, 0, 3)])
def test_outputs_without_a_number_prove_nothing(shape: tuple[int, ...]) -> None:
    with pytest.raises(VerificationError, match=r"no numbers to compare: its outputs are \(2, "):
        parity._Differences().add(np.zeros(shape), np.zeros(shape))


def test_modes_are_restored(network: nn.Sequential, dense_file: Path) -> None:
    network.train()
    network[1].eval()
    check_parity(network, dense_file, batches(1))
    assert [m.training for m in network] == [True, False, *[True] * 7]


def test_half_precision_has_a_tolerance_of_its_own(tmp_path: Path, network: nn.Sequential) -> None:
    half = network.half()
    path = export(half, torch.zeros(1, 3, 16, 16), tmp_path / "half.onnx").path
    result = check_parity(half, path, batches()).require()
    assert result.tolerance == 1e-2
    assert 1e-5 < result.max_relative < 5e-3
    assert not check_parity(half, path, batches(), tolerance=1e-5).passed
    with torch.no_grad():
        half[3].weight[0, 0] += 0.5
    with pytest.raises(VerificationError, match=r"where 0\.01 is allowed"):
        check_parity(half, path, batches()).require()


def test_each_position_and_each_single_number_has_a_class(tmp_path: Path) -> None:
    maps, images = nn.Conv2d(2, 3, 1), torch.randn(4, 2, 5, 5)
    path = export(maps, images, tmp_path / "maps.onnx").path
    before = maps(images).argmax(1)
    with torch.no_grad():
        maps.bias[0] += 0.3
    share = float((maps(images).argmax(1) == before).double().mean())
    assert check_parity(maps, path, [images]).top1_agreement == share < 1
    number = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    path = export(number, torch.zeros(2, 3), tmp_path / "number.onnx").path
    assert check_parity(number, path, [torch.randn(4, 3)]).require().top1_agreement == 1


def test_a_tolerance_of_nothing_lets_through_what_does_not_differ(tmp_path: Path) -> None:
    path = export(nn.Flatten(), torch.zeros(2, 3, 2), tmp_path / "flat.onnx").path
    assert check_parity(nn.Flatten(), path, [torch.randn(4, 3, 2)], tolerance=0).require().max_relative == 0


def test_a_network_in_double_is_compared_in_its_own_format(tmp_path: Path) -> None:
    network = nn.Linear(5, 3).double()
    path = export(network, torch.zeros(1, 5), tmp_path / "double.onnx").path
    assert check_parity(network, path, [torch.randn(4, 5)]).max_relative < 1e-14


def test_neither_side_may_round_to_tensorfloat(
    network: nn.Sequential, dense_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def recording(path: Path, *, tf32: bool = True, **settings: Any) -> Any:
        asked.append(tf32)
        return create_session(path, **settings)

    allowed: list[bool] = []
    network.register_forward_pre_hook(lambda *_: allowed.append(tf32_allowed()))
    monkeypatch.setattr(parity, "create_session", recording)
    assert tf32_allowed()  # as torch has it for convolutions
    check_parity(network, dense_file, batches(1))
    assert (asked, allowed, tf32_allowed()) == ([False], [False], True)


def test_batches_in_formats_that_numpy_lacks_are_compared(network: nn.Sequential, dense_file: Path) -> None:
    (images, _), *_ = batches(1)
    for inputs in (images.bfloat16(), images.clone().requires_grad_()):
        assert check_parity(network, dense_file, [inputs]).require().samples == 4
