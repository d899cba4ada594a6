"""What the seeds of a comparison change and what they do not, and which dense network they are of."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from runs_for_tests import DATA, User, write_user
from secateur.weights import save_weights
from secateur_cli.comparison.schema import CompareRun
from secateur_cli.comparison.setting import Setting, look
from secateur_cli.inputs.data import Split
from secateur_cli.progress import Progress
from secateur_cli.settings.config import load_config

CONFIG = """
network: {build: secateur_user_networks:Small}
data: {source: secateur_seeds_data:load}
train: {epochs: 1, learning_rate: 0.1}
plan: {round_to: 2}
fine_tune: null
threads: 1
compare: {criteria: [l1], searches: [uniform], seeds: [0, 1], stages: [cut]}
"""
UNSPLIT = """
def unsplit():
    found = load()
    return {"train": found["train"], "test": found["test"], "classes": 3}

def in_order():
    return batches(64, 0), batches(32, 1), batches(48, 2)
"""


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user with a comparison to make, and two more ways to load the data."""
    user = write_user(tmp_path)
    user.config.write_text(CONFIG, encoding="utf-8")
    (tmp_path / "secateur_seeds_data.py").write_text(DATA + UNSPLIT, encoding="utf-8")
    return user


def setting_of(user: User, *changes: str) -> Setting:
    config = load_config(user.config, kind=CompareRun, overrides=changes)
    progress = Progress(Console(file=io.StringIO()))
    return look(config, folder=user.folder, output=user.folder / "out", progress=progress)


def images(split: Split) -> list[Any]:
    return [tuple(image.flatten().tolist()) for inputs, _ in split for image in inputs]


DIGITS = ("network={build: secateur.networks:digits_resnet}", "data={source: digits, limit: 200}")
SHUFFLED = ("data={source: secateur_seeds_data:unsplit}",)


@pytest.mark.parametrize("changes", [DIGITS, SHUFFLED], ids=["digits", "shuffled"])
def test_no_seed_judges_on_images_that_the_dense_network_was_trained_on(user: User, changes: tuple[str, ...]) -> None:
    setting = setting_of(user, *changes)
    trained = set(images(setting.data.calibration))
    read = [images(setting.of_seed(seed).calibration) for seed in (0, 1, 2)]
    for seed, calibration in enumerate(read):
        assert set(images(setting.of_seed(seed).validation)) == set(images(setting.data.validation))
        assert set(calibration) == trained
    assert not trained & set(images(setting.data.validation))
    assert read[0] == images(setting.data.calibration)
    assert read[0] != read[1] != read[2] != read[0]


def test_a_network_that_was_trained_elsewhere_has_another_division_each_seed(user: User) -> None:
    setting = setting_of(user, *DIGITS, "train=null")
    assert set(images(setting.of_seed(0).validation)) != set(images(setting.of_seed(1).validation))


def test_seeds_that_change_nothing_are_refused(user: User, tmp_path: Path) -> None:
    """Batches in a fixed order, with their own validation: three seeds would be one measurement told as three."""
    in_order = "data={source: secateur_seeds_data:in_order}"
    code, _, complained = user.command(tmp_path / "out", in_order, name="compare", columns=400)
    assert code == 2
    assert "compare.seeds: secateur_seeds_data:in_order gives the same images in the same order under" in complained
    assert "the seeds 0 and 1" in complained
    assert not (tmp_path / "out").exists()
    assert setting_of(user, in_order, "compare.seeds=[3]").config.compare.seeds == (3,)


def test_a_dense_network_of_another_training_is_refused(user: User, tmp_path: Path) -> None:
    """Even where the journal that would have told them apart is gone."""
    output = tmp_path / "out"
    assert user.command(output, name="compare")[0] == 0
    for path in output.glob("comparison.*"):
        path.unlink()
    weights = (output / "dense.safetensors").read_bytes()
    code, _, complained = user.command(output, "train.epochs=2", name="compare", columns=400)
    assert code == 2
    assert "dense.safetensors was trained by other settings: settings.train.epochs: 1 before, 2 now" in complained
    assert (output / "dense.safetensors").read_bytes() == weights
    assert user.command(output, name="compare")[0] == 0


def test_another_training_is_refused_before_it_is_done(user: User, tmp_path: Path) -> None:
    """Whoever deletes the dense network gets no other one beside a journal of the first, which would fit neither."""
    output = tmp_path / "out"
    assert user.command(output, name="compare")[0] == 0
    (output / "dense.safetensors").unlink()
    code, _, complained = user.command(output, "train.epochs=2", name="compare", columns=400)
    assert code == 2
    assert "comparison.sqlite is of another search or comparison: settings.train.epochs: 1 before, 2 now" in complained
    assert not (output / "dense.safetensors").exists()
    assert user.command(output, name="compare")[0] == 0


def test_dense_weights_that_do_not_say_where_they_come_from_are_refused(user: User, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    setting = setting_of(user)
    save_weights(setting.model, tmp_path / "out" / "dense.safetensors")
    code, _, complained = user.command(tmp_path / "out", name="compare", columns=400)
    assert code == 2
    assert "dense.safetensors does not say what it was trained by" in complained
