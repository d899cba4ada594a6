"""The images that a run was made of are those that it goes on with, whoever reads them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from runs_for_tests import User, contents, write_user
from secateur_cli.inputs.data import Data, load_data
from secateur_cli.settings.config import DataConfig
from secateur_cli.stages.identity import images_of
from secateur_cli.stages.job import Job

CHANGING = """
from pathlib import Path
from secateur_user_data import batches, load

def changing(folder):
    other = {name: batches(32, 9) for name in ("train", "test") if (Path(folder) / name).exists()}
    return load() | other
"""


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A folder whose data changes with the files that lie somewhere else."""
    folder = tmp_path_factory.mktemp("owner")
    (folder / "secateur_user_changing.py").write_text(CHANGING)
    return write_user(folder)


def quick(folder: Path) -> tuple[str, ...]:
    source = ("data.source=secateur_user_changing:changing", f"data.arguments={{folder: {folder}}}")
    return (*source, "train=null", "fine_tune=null", "recover=none")


@pytest.mark.parametrize(("split", "called"), [("test", "held-out"), ("train", "training")])
@pytest.mark.parametrize("name", ["run", "search"])
def test_other_images_are_refused_and_nothing_is_touched(
    owner: User, tmp_path: Path, name: str, split: str, called: str
) -> None:
    output = tmp_path / "out"
    assert owner.command(output, *quick(tmp_path), name=name)[0] == 0
    before = contents(output)
    (tmp_path / split).touch()
    code, _, complained = owner.command(output, *quick(tmp_path), name=name)
    assert code == 2
    assert f"{output} holds a run on other {called} images; choose another with --output, or" in complained
    assert contents(output) == before
    (tmp_path / split).unlink()
    assert owner.command(output, *quick(tmp_path), name=name)[0] == 0


@pytest.mark.parametrize("setting", ["data.validation_share=0.3", "data.arguments={folder: elsewhere}"])
def test_a_training_that_was_stopped_does_not_go_on_with_other_images(
    owner: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    source, output = quick(tmp_path)[:2], tmp_path / "out"
    with monkeypatch.context() as stopped:
        stopped.setattr(Job, "keep", stop)
        assert owner.command(output, *source)[0] == 130
    before = contents(output)
    assert "stages/epochs.safetensors" in before
    code, _, complained = owner.command(output, *source, setting)
    assert code == 2
    assert f"{output} holds another run ({setting.partition('=')[0]}" in complained
    (tmp_path / "train").touch()
    code, _, complained = owner.command(output, *source)
    assert code == 2
    assert f"{output} holds a run on other training images" in complained
    assert contents(output) == before


def test_a_folder_that_does_not_say_of_which_images_it_is_goes_on_with_these(owner: User, tmp_path: Path) -> None:
    output, record = tmp_path / "out", tmp_path / "out" / "run.json"
    assert owner.command(output, *quick(tmp_path), name="search")[0] == 0
    said = json.loads(record.read_text())
    record.write_text(json.dumps({key: value for key, value in said.items() if key != "images"}))
    assert owner.command(output, *quick(tmp_path), name="search")[0] == 0
    assert json.loads(record.read_text())["images"] == said["images"]


class Noisy(Dataset[Any]):
    """Images with noise from all generators that are seeded, and from one that is not if asked for."""

    def __init__(self, *, unseeded: bool = False) -> None:
        self.unseeded = unseeded

    def __len__(self) -> int:
        return 24

    def __getitem__(self, idx: int) -> tuple[torch.Tensor, int]:
        noise = torch.rand(1, 4, 4) + random.random() + float(np.random.rand())
        return noise + (np.random.default_rng().random() if self.unseeded else 0.0), idx % 3


def of_user(monkeypatch: pytest.MonkeyPatch, **kinds: Any) -> Data:
    monkeypatch.setattr("secateur_cli.inputs.data.call", lambda *_, **__: {"classes": 3, **kinds})
    return load_data(DataConfig(source="some:data"), folder=Path(), seed=0)


def test_augmented_batches_in_another_order_are_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True)
    data = of_user(monkeypatch, train=loader, validation=loader, test=DataLoader(Noisy(), batch_size=8))
    found = images_of(data, seed=0)
    assert found.keys() == {"held-out", "training"}
    torch.rand(3)
    assert images_of(data, seed=0) == found
    assert images_of(data, seed=1) != found


def test_batches_that_are_drawn_anew_are_not_told_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    once, anew = DataLoader(Noisy(), batch_size=8), DataLoader(Noisy(unseeded=True), batch_size=8)
    other = DataLoader(Noisy(), batch_size=8)
    own = DataLoader(Noisy(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(0))
    for train in (anew, own):
        data = of_user(monkeypatch, train=train, validation=other, test=once)
        assert images_of(data, seed=0).keys() == {"held-out"}


def test_an_image_and_a_label_are_told_from_others(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)
    for number, pixels in enumerate(grey):
        for split in ("train", "test"):
            place = tmp_path / split / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number}.png")

    def found() -> dict[str, str]:
        config = DataConfig(source="image-folder", train=tmp_path / "train", test=tmp_path / "test", image_size=16)
        return images_of(load_data(config, folder=Path(), seed=0), seed=0)

    first = found()
    assert found() == first
    Image.fromarray(grey[0] ^ 1).save(tmp_path / "test" / "a" / "0.png")
    second = found()
    assert second["training"] == first["training"]
    assert second["held-out"] != first["held-out"]
    (tmp_path / "train" / "a" / "0.png").rename(tmp_path / "train" / "b" / "0.png")
    assert found()["training"] != first["training"]
