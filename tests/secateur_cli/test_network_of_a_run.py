"""What the network computes when a run begins is what it goes on with, though nothing but its code says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from comparisons_for_tests import SMALL, compare
from runs_for_tests import User, contents, give
from secateur.errors import ConfigError
from secateur_cli.stages.identity import NETWORK, hold_to

pytestmark = pytest.mark.filterwarnings("ignore::secateur.errors.SecateurWarning")  # few images, tiny network
CODE = """
from pathlib import Path
import random
import torch
from secateur_user_networks import Small

class Coded(Small):
    def __init__(self, path):
        super().__init__()
        self.activation = getattr(torch, Path(path).read_text())

    def forward(self, x):
        x = self.activation(self.second(self.activation(self.norm(self.first(x)))))
        return self.head(self.drop(x.mean((2, 3))))

class Fickle(Small):
    def forward(self, x):
        for _ in range(random.SystemRandom().randrange(1000)):
            x = x + 0
        return super().forward(x)
"""
OTHER = f"of a network with other operations in torch {torch.__version__}; choose another"


@pytest.fixture(scope="module", autouse=True)
def _networks_of_other_code(user: User, owner: User) -> None:
    for each in (user, owner):
        (each.folder / "secateur_user_code.py").write_text(CODE, encoding="utf-8")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A file with the activation of the network `Coded`, which is no module of it."""
    path = tmp_path / "code"
    path.write_text("relu", encoding="utf-8")
    return path


def coded(code: Path) -> tuple[str, ...]:
    build = ("network.build=secateur_user_code:Coded", f"network.arguments={{path: {code}}}")
    return (*build, "train.epochs=1", "fine_tune=null")


def search(user: User, _: User, output: Path, code: Path) -> tuple[int, str, str]:
    return user.command(output, *coded(code), name="search")


def comparison(_: User, owner: User, output: Path, code: Path) -> tuple[int, str, str]:
    return compare(owner, output, *SMALL, *coded(code), "compare.stages=[cut]", "compare.seeds=[0]")


def figure(user: User, _: User, output: Path, code: Path) -> tuple[int, str, str]:
    changes = [word for setting in coded(code) for word in ("--set", setting)]
    asked = ("--seeds", "1", "--at", "60%", "--lines", "uniform", "--until", "removed")
    return give("figure", "allocations", str(user.config), "--output", str(output), *asked, *changes)


@pytest.mark.parametrize("command", [search, comparison, figure])
def test_other_code_is_another_network(
    user: User, owner: User, tmp_path: Path, code: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    output = tmp_path / "out"
    assert command(user, owner, output, code)[0] == 0
    before = contents(output)
    code.write_text("tanh", encoding="utf-8")
    ended, _, complained = command(user, owner, output, code)
    assert ended == 2
    assert OTHER in " ".join(complained.split())
    assert {name: content for name, content in contents(output).items() if name in before} == before
    code.write_text("relu", encoding="utf-8")
    assert command(user, owner, output, code)[0] == 0


def test_a_network_that_computes_something_else_each_time_is_not_told_from_others(user: User, tmp_path: Path) -> None:
    for _ in range(2):
        ended, *_ = user.command(
            tmp_path, "network.build=secateur_user_code:Fickle", "train=null", "recover=none", name="search"
        )
        assert ended == 0
    assert json.loads((tmp_path / "run.json").read_text())["network"].keys() == {"weights"}


def test_another_version_of_torch_says_nothing_of_the_code(
    user: User, tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, record = tmp_path / "out", tmp_path / "out" / "run.json"
    assert search(user, user, output, code)[0] == 0
    text = record.read_text(encoding="utf-8")
    record.write_text(text.replace(f"torch {torch.__version__}", "torch 2.8.0"), encoding="utf-8")
    code.write_text("tanh", encoding="utf-8")
    assert search(user, user, output, code)[0] == 0
    names = [f"operations in torch {version}" for version in ("2.8.0", torch.__version__)]
    assert list(json.loads(record.read_text(encoding="utf-8"))["network"]) == names


def test_a_folder_is_held_to_the_network_that_it_notes(tmp_path: Path) -> None:
    hold_to(tmp_path, {"operations": "a"})
    hold_to(tmp_path, {"operations": "a", "weights": "b"})
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"is of a network with other operations and weights; choose another"):
            hold_to(tmp_path, {"operations": "b", "weights": "c", "form": "d"})
    assert json.loads((tmp_path / NETWORK).read_text(encoding="utf-8")) == {"operations": "a", "weights": "b"}


@pytest.mark.parametrize("damaged", ["{", "[1]", "3"])
def test_a_note_that_is_damaged_is_named(tmp_path: Path, damaged: str) -> None:
    (tmp_path / NETWORK).write_text(damaged, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"network\.json cannot be read \(.*\); delete it"):
        hold_to(tmp_path, {"operations": "a"})
    assert (tmp_path / NETWORK).read_text(encoding="utf-8") == damaged
