"""Import paths: what they find, what they say when they do not, and that looking leaves no trace."""

from __future__ import annotations

import collections
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from secateur.errors import CheckpointError, ConfigError, NetworkError
from secateur_cli.inputs.sources import build_network, call, import_path, network_factory
from secateur_cli.settings.config import NetworkConfig

MODULE = """
import torch
from torch import nn

VALUE = 3

def build(width=2, *, bias=True):
    if width < 1:
        raise ValueError("width must be positive")
    return nn.Conv2d(1, width, 1, bias=bias)

def number():
    return 5

class Nets:
    @staticmethod
    def tiny():
        return nn.Identity()

trained = nn.Identity()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secateur_test_nets.py").write_text(MODULE)
    (tmp_path / "secateur_test_broken.py").write_text("1 / 0\n")
    (tmp_path / "secateur_test_needy.py").write_text("import secateur_test_absent\n")
    package = tmp_path / "secateur_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    return tmp_path


def test_finds_a_callable_beside_the_configuration(folder: Path) -> None:
    before = list(sys.path)
    build = import_path("secateur_test_nets:build", folder=folder)
    assert isinstance(build(), nn.Conv2d)
    assert isinstance(import_path("secateur_test_nets:Nets.tiny", folder=folder)(), nn.Identity)
    assert sys.path == before


def test_finds_a_callable_in_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "secateur_test_here.py").write_text("def build():\n    return 1\n")
    monkeypatch.chdir(folder)
    assert import_path("secateur_test_here:build", folder=folder / "secateur_test_package")() == 1


def test_finds_installed_packages() -> None:
    assert import_path("collections:OrderedDict") is collections.OrderedDict


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("torch.nn.Conv2d", "is not an import path; it must read 'package.module:callable'"),
        (":build", "is not an import path"),
        ("torch:", "is not an import path"),
        ("secateur_test_nowhere:build", "no module 'secateur_test_nowhere'"),
        ("secateur_test_package.models:build", "no module 'secateur_test_package.models'"),
        ("secateur_test_nowhere.models:build", "so 'secateur_test_nowhere.models' cannot be imported"),
        ("secateur_test_nets:biuld", "has no 'biuld'; did you mean 'build'?"),
        ("secateur_test_nets:Nets.tinny", "secateur_test_nets:Nets has no 'tinny'; did you mean 'tiny'?"),
        ("secateur_test_nets:trained.build", "secateur_test_nets:trained has no 'build'; "),
        ("secateur_test_nets:VALUE", "is of type int; it must be something that can be called"),
        ("secateur_test_broken:build", "importing 'secateur_test_broken' failed: ZeroDivisionError"),
        ("secateur_test_needy:build", "it needs the module 'secateur_test_absent'"),
        ("..nets:build", "importing '..nets' failed"),
    ],
)
def test_wrong_paths_are_named(folder: Path, path: str, message: str) -> None:
    before = list(sys.path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        import_path(path, folder=folder)
    assert sys.path == before


def test_wrong_arguments_are_named_with_the_right_ones(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unexpected keyword argument 'depth'; its arguments are \(width=2, \*, bias=True\)"
    ):
        call("secateur_test_nets:build", {"depth": 3}, folder=folder)
    with pytest.raises(ConfigError, match="failed with width=0: ValueError: width must be positive"):
        call("secateur_test_nets:build", {"width": 0}, folder=folder)


def test_build_network_loads_weights_beside_the_configuration(folder: Path) -> None:
    weights = {"weight": torch.full((3, 1, 1, 1), 7.0), "bias": torch.zeros(3)}
    save_file(weights, folder / "net.safetensors")
    config = NetworkConfig(build="secateur_test_nets:build", arguments={"width": 3}, weights=Path("net.safetensors"))
    network = build_network(config, folder)
    assert torch.equal(network.state_dict()["weight"], weights["weight"])
    fresh = network_factory(config, folder)()
    assert fresh is not network
    assert not torch.equal(fresh.state_dict()["weight"], weights["weight"])


def test_weights_that_do_not_fit(folder: Path) -> None:
    save_file({"weight": torch.zeros(5, 1, 1, 1), "bias": torch.zeros(5)}, folder / "wide.safetensors")
    config = NetworkConfig(build="secateur_test_nets:build", weights=Path("wide.safetensors"))
    with pytest.raises(CheckpointError):
        build_network(config, folder)


def test_what_is_built_must_be_a_network(folder: Path) -> None:
    with pytest.raises(
        NetworkError,
        match=r"'secateur_test_nets:number' returned something of type int; it must be a torch\.nn\.Module",
    ):
        build_network(NetworkConfig(build="secateur_test_nets:number"), folder)
