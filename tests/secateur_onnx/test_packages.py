"""Missing and clashing packages are refused with the command that mends it."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.errors import ConfigError, MissingDependencyError
from secateur_onnx import check_installation, create_session, export
from secateur_onnx.packages import require


def test_missing_onnxruntime_names_the_install_command(monkeypatch: pytest.MonkeyPatch, dense_file: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "secateur\[onnx\]"'):
        create_session(dense_file)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_missing_exporter_package_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"'{package}'.*pip install"):
        export(nn.Linear(3, 2), torch.zeros(1, 3), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_missing_dependency_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError):
        require("onnxruntime")


def test_both_runtimes_are_refused_with_the_uninstall_line(monkeypatch: pytest.MonkeyPatch, dense_file: Path) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.31.1")
    with pytest.raises(MissingDependencyError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        create_session(dense_file)


@pytest.mark.parametrize("installed", ["onnxruntime", "onnxruntime-gpu"])
def test_one_runtime_of_either_kind_is_accepted(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    def version(name: str) -> str:
        if name != installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.31.1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert require("onnxruntime").__name__ == "onnxruntime"


def test_remains_of_an_uninstalled_runtime_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(MissingDependencyError, match="remains"):
        require("onnxruntime")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_the_installation_is_checked_as_a_whole(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    check_installation()
    with pytest.raises(ConfigError, match="unknown provider 'cudo'"):
        check_installation(provider="cudo")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"'{package}'.*pip install"):
        check_installation()
