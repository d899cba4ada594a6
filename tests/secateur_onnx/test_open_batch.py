"""A file takes any batch size, or is not written: what asks for the number of images is found and told how to mend."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx.parser import parse_model
from torch import Tensor, nn

from secateur.errors import MissingDependencyError, NetworkError, SecateurWarning
from secateur_onnx import check_parity, create_session, export
from secateur_onnx.open_batch import Passed, fixes_batch
from secateur_onnx.sessions import infer

open_batch = importlib.import_module("secateur_onnx.open_batch")

EXAMPLE = torch.zeros(1, 3, 8, 8)
CURE = r"right for 2 images and no other.*len\(x\) and int\(x\.shape\[0\]\).*; write x\.flatten\(1\), or x\.shape\[0\]"


class Small(nn.Module):
    """A convolution and a classifier; how the maps become rows is left to those below."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.rows(self.conv(inputs)))

    def rows(self, maps: Tensor) -> Tensor:
        return maps.view(maps.shape[0], -1)


class Len(Small):
    def rows(self, maps: Tensor) -> Tensor:
        return maps.view(len(maps), -1)


class Int(Small):
    def rows(self, maps: Tensor) -> Tensor:
        return maps.reshape(int(maps.shape[0]), -1)


class Loop(Small):
    def rows(self, maps: Tensor) -> Tensor:
        return torch.stack([one.flatten() for one in maps])


class Branching(Len):
    """Left to the older exporter, since it branches on a value."""

    def rows(self, maps: Tensor) -> Tensor:
        return super().rows(maps if bool(maps.abs().sum() >= 0) else -maps)


class Divided(Small):
    """Right rows for any number of images, with values that only one number gives."""

    def rows(self, maps: Tensor) -> Tensor:
        flat = maps.flatten(1)
        return flat - flat.sum(0) / len(maps)


class Asked(Small):
    """Asks for the batch size, and does the same whatever it is."""

    def rows(self, maps: Tensor) -> Tensor:
        return maps.flatten(1) if maps.shape[0] == 2 else 1 * maps.flatten(1)


@pytest.mark.parametrize(
    "network", [Len(), Int(), Loop(), Branching(), Divided()], ids=lambda made: type(made).__name__
)
def test_one_batch_size_alone_is_refused_with_the_cure(
    tmp_path: Path, network: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")
    with pytest.raises(NetworkError, match=CURE):
        export(network, EXAMPLE, path)
    assert path.read_bytes() == b"earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert capfd.readouterr() == ("", "")


def test_one_batch_size_alone_is_refused_in_float16(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=CURE):
        export(Len().half(), EXAMPLE, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_what_the_error_advises_works(tmp_path: Path) -> None:
    network = Small()
    result = export(network, EXAMPLE, tmp_path / "model.onnx")
    assert result.exporter == "dynamo"
    for images in (1, 2, 5):
        check_parity(network, result.path, [torch.randn(images, 3, 8, 8)]).require()


def test_the_older_exporter_takes_over_where_it_leaves_the_batch_open(tmp_path: Path) -> None:
    network = Asked()
    with pytest.warns(SecateurWarning, match="older exporter: it fixes the batch size at 2"):
        result = export(network, EXAMPLE, tmp_path / "model.onnx")
    assert (result.exporter, result.fallback_reason) == ("torchscript", "it fixes the batch size at 2")
    check_parity(network, result.path, [torch.randn(5, 3, 8, 8)]).require()


@pytest.mark.parametrize(
    "error", [MissingDependencyError("onnxruntime is not there"), RuntimeError("no kernel for the CPU")]
)
def test_what_onnxruntime_cannot_try_is_written_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(open_batch, "require" if isinstance(error, ImportError) else "open_session", refuse)
    path = export(Small(), EXAMPLE, tmp_path / "model.onnx").path
    assert infer(create_session(path), np.zeros((3, 3, 8, 8))).shape == (3, 5)


def test_formats_without_a_kernel_on_the_cpu_are_written_all_the_same(tmp_path: Path) -> None:
    path = export(Small().double(), EXAMPLE, tmp_path / "model.onnx").path
    with pytest.raises(ValueError, match="NOT_IMPLEMENTED"):
        create_session(path)


def net(declared: str, body: str) -> Any:
    return parse_model(f'<ir_version: 8, opset_import: ["": 17]> net {declared} {{ {body} }}')


def batches(width: int) -> tuple[Passed, Passed]:
    example, other = (torch.arange(1.0, 1 + 2 * n).view(n, 2) for n in (2, 3))
    return Passed(example, example.repeat(1, width // 2)), Passed(other, other.repeat(1, width // 2))


@pytest.mark.parametrize(
    ("declared", "fixed"),
    [
        ("(float[N, 2] x) => (float[N, 2] y)", False),
        ("(float[N, 2] x) => (float y)", False),
        ("(float[2, 2] x) => (float[2, 2] y)", True),
        ("(float[N, 2] x) => (float[2, 2] y)", True),
    ],
)
def test_a_declared_number_fixes_the_batch(declared: str, fixed: bool) -> None:
    assert fixes_batch(net(declared, "y = Relu(x)"), *batches(2)) is fixed


@pytest.mark.parametrize(
    ("body", "by_rows", "by_values"),
    [
        ("y = Concat<axis=1>(x, x)", False, False),
        ("a = Concat<axis=1>(x, x) s = Constant<value_ints=[2, -1]>() y = Reshape(a, s)", True, True),
        ("a = Concat<axis=1>(x, x) s = Constant<value_ints=[2, 4]>() y = Reshape(a, s)", True, True),
        ("s = Constant<value_ints=[3]>() y = Reshape(x, s)", False, False),  # it fails on the example too
        (
            "a = Concat<axis=1>(x, x) n = Shape<end=1>(x) f = Cast<to=1>(n) two = Constant<value_floats=[2.0]>() "
            "b = Mul(a, f) y = Div(b, two)",
            False,
            True,
        ),
        ("a = Concat<axis=1>(x, x) y = Neg(a)", False, False),  # wrong, whatever the batch size
    ],
)
def test_a_run_shows_what_is_not_declared(body: str, by_rows: bool, by_values: bool) -> None:
    proto = net("(float[N, 2] x) => (float[N, 4] y)", body)
    assert fixes_batch(proto, *batches(4)) is by_rows
    assert fixes_batch(proto, *batches(4), values=True) is by_values
