"""Static INT8: small, computed in integers, near the floats, judged and refused in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from secateur.errors import CheckpointError, ConfigError, DataError, NetworkError
from secateur_onnx import check_parity, export, export_int8, file_accuracy, read_metadata
from secateur_onnx.few_bits import static_int8

IMAGES = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.5


def test_what_it_is(network: nn.Sequential, tmp_path: Path) -> None:
    source = export(network, IMAGES, tmp_path / "net.onnx", metadata={"budget": "50%"}).path
    before = source.read_bytes()
    done = export_int8(source, tmp_path / "int8.onnx", [(IMAGES[:16], torch.zeros(16)), IMAGES[16:]], samples=20)
    assert (done.images, done.file_bytes) == (20, done.path.stat().st_size)
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.onnx", "net.onnx"]
    assert read_metadata(done.path) == read_metadata(source)
    weights = {t.name: t.data_type for t in onnx.load(done.path).graph.initializer if len(t.dims) == 4}
    assert set(weights.values()) == {onnx.TensorProto.INT8}
    apart = check_parity(network, done.path, [IMAGES])
    assert 1e-6 < apart.max_relative < 0.1
    assert apart.top1_agreement > 0.7


def test_the_file_of_larger_layers_is_a_quarter(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)).eval()
    source = export(net, IMAGES, tmp_path / "net.onnx")
    assert export_int8(source.path, tmp_path / "int8.onnx", [IMAGES]).file_bytes < 0.32 * source.file_bytes


def test_transposed_convolutions_in_groups_stay_in_floats(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, groups=4), nn.Conv2d(8, 4, 1)).eval()
    source = export(net, IMAGES, tmp_path / "net.onnx").path
    done = export_int8(source, tmp_path / "int8.onnx", [IMAGES])
    kinds = {t.data_type for t in onnx.load(done.path).graph.initializer if list(t.dims) == [8, 2, 2, 2]}
    assert kinds == {onnx.TensorProto.FLOAT}
    assert check_parity(net, done.path, [IMAGES]).max_relative < 0.1


def test_accuracy_counts_what_the_file_names(network: nn.Sequential, tmp_path: Path) -> None:
    path = export(network, IMAGES, tmp_path / "net.onnx").path
    named = network(IMAGES).argmax(1)
    wrong = (named + 1) % 10
    batches = [(IMAGES[:10], named[:10]), (IMAGES[10:], torch.cat([named[10:18], wrong[18:]]))]
    assert file_accuracy(path, batches) == 18 / 24
    column = torch.zeros(24, 1, dtype=torch.int64)  # compared as they are, a column would count each pair
    for given, message in (
        ([], "no images"),
        ([IMAGES], "inputs without labels"),
        ([(IMAGES, column)], r"labels must be whole numbers \(N,\)"),
        ([(IMAGES, named + 10)], r"labels must lie in 0\.\.9"),
    ):
        with pytest.raises(DataError, match=message):
            file_accuracy(path, given)
    for images in (IMAGES.bfloat16(), IMAGES.clone().requires_grad_()):
        assert file_accuracy(path, [(images, named)]) > 0.9


def test_outputs_that_are_no_logits_are_refused(tmp_path: Path) -> None:
    path = export(nn.Flatten(0), torch.zeros(2, 1), tmp_path / "flat.onnx").path
    with pytest.raises(DataError, match=r"logits \(N, classes\); it returned shape \(4,\)"):
        file_accuracy(path, [(torch.ones(4, 1), torch.zeros(4, dtype=torch.int64))])


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        ([], {}, DataError, "no images to find the ranges"),
        ([IMAGES[:, :2]], {}, DataError, r"\(any, 3, 16, 16\); found \(24, 2, 16, 16\)"),
        ([IMAGES / 0], {}, DataError, "NaN or infinite"),
        ([IMAGES], {"samples": 0}, ConfigError, "samples is 0; it must be a whole number, at least 1"),
    ],
)
def test_bad_images(dense_file: Path, tmp_path: Path, batches: Any, options: Any, error: Any, message: str) -> None:
    path = tmp_path / "int8.onnx"
    path.write_text("before")
    with pytest.raises(error, match=message):
        export_int8(dense_file, path, batches, **options)
    assert path.read_text() == "before"


def test_bad_files(dense_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "int8.onnx"
    with pytest.raises(CheckpointError, match="there is no ONNX file"):
        export_int8(tmp_path / "none.onnx", path, [IMAGES])
    half = export(nn.Sequential(nn.Conv2d(3, 4, 3)).half(), IMAGES.half(), tmp_path / "half.onnx").path
    with pytest.raises(ConfigError, match="only files in float32"):
        export_int8(half, path, [IMAGES])
    monkeypatch.setattr(static_int8._Reader, "get_next", lambda _: None)
    with pytest.raises(NetworkError, match="onnxruntime cannot write"):
        export_int8(dense_file, path, [IMAGES])
    assert not path.exists()
