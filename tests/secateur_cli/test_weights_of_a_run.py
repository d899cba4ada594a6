"""The weights that a run was begun with are those that it goes on with, wherever they come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import yaml

from runs_for_tests import User, contents
from secateur_cli.nni_search import worth_of_run

BUILDERS = """
from pathlib import Path
import numpy
import torch
from secateur_user_networks import Small

def filled(path):
    network = Small()
    network.head.bias.data.fill_(float(Path(path).read_text()))
    return network

def drawn():
    network, random = Small(), torch.Generator()
    random.seed()
    network.head.bias.data += torch.rand(3, generator=random)
    return network

def by_numpy():
    network = Small()
    network.head.bias.data += torch.from_numpy(numpy.random.rand(3))
    return network
"""


@pytest.fixture(scope="session")
def builder(user: User) -> User:
    """The user's folder with networks that bring weights of their own."""
    (user.folder / "secateur_user_builders.py").write_text(BUILDERS)
    return user


def test_other_weights_of_the_builder_are_another_run(builder: User, tmp_path: Path) -> None:
    output, value = tmp_path / "run", tmp_path / "value"
    record = output / "run.json"
    settings = ("network.build=secateur_user_builders:filled", f"network.arguments={{path: {value}}}", "train=null")
    value.write_text("0.1")
    for _ in range(2):
        assert builder.command(output, *settings, name="search")[0] == 0
    before = contents(output)
    value.write_text("0.2")
    code, _, complained = builder.command(output, *settings, name="search")
    assert code == 2
    assert f"{output} holds a run of a network with other weights; choose another with --output" in complained
    assert contents(output) == before
    said = json.loads(record.read_text())
    record.write_text(json.dumps({key: kept for key, kept in said.items() if key != "network"}))  # of an older version
    assert builder.command(output, *settings, name="search")[0] == 0
    assert json.loads(record.read_text())["network"]["weights"] != said["network"]["weights"]


@pytest.mark.parametrize("setting", ["network.build=secateur_user_builders:drawn", "train.epochs=1"])
def test_weights_that_are_drawn_anew_or_trained_are_not_told_from_others(
    builder: User, tmp_path: Path, setting: str
) -> None:
    settings = (setting, *(() if setting.startswith("train") else ("train=null",)))
    for _ in range(2):
        assert builder.command(tmp_path, *settings, name="search")[0] == 0
    assert "weights" not in json.loads((tmp_path / "run.json").read_text())["network"]


DRAWN = ("network.build=secateur_user_builders:by_numpy", "train=null")


def test_a_comparison_begins_with_one_network_whatever_it_is_drawn_by(builder: User, tmp_path: Path) -> None:
    settings = (*DRAWN, "plan={round_to: 2}", "compare={criteria: [l1], searches: [uniform], stages: [cut]}")
    for state in (1, 2):
        numpy.random.seed(state)
        code, _, complained = builder.command(tmp_path / "comparison", *settings, name="compare")
        assert (code, complained) == (0, "")


def test_a_trial_of_nni_has_one_network_whatever_it_is_drawn_by(builder: User) -> None:
    config = builder.folder / "drawn.yaml"
    text = yaml.safe_load(builder.config.read_text(encoding="utf-8"))
    text["plan"]["search"], text["network"], text["train"] = "greedy", {"build": DRAWN[0].partition("=")[2]}, None
    config.write_text(yaml.safe_dump(text), encoding="utf-8")
    names = set()
    for state in (1, 2):
        numpy.random.seed(state)
        names.add(worth_of_run(str(config))[1])
    assert len(names) == 1
