"""What the stage of few bits cannot do is refused before anything is trained or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs_for_tests import User
from secateur.errors import ConfigError
from secateur_cli.stages import preparation

NETWORKS = """
import torch
from torch import nn
from secateur_user_networks import Small

class Tied(Small):
    def __init__(self):
        super().__init__()
        self.third, self.fourth = nn.Linear(16, 16), nn.Linear(16, 16)
        self.fourth.weight = self.third.weight

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.head(self.fourth(torch.relu(self.third(x.mean((2, 3))))))

class Fixed(Small):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)

class Brain(Small):
    def __init__(self):
        super().__init__()
        self.bfloat16()

    def forward(self, x):
        return super().forward(x.bfloat16()).float()

class Half(Small):
    def __init__(self):
        super().__init__()
        self.half()

    def forward(self, x):
        return super().forward(x.half()).float()
"""
UNIFORM = "quantize={order: uniform, bits: 4, epochs: 0}"
WITHOUT = ("train=null", "fine_tune=null", "recover=none")


@pytest.fixture(scope="module")
def writer(user: User) -> User:
    """The user's folder with networks that cannot have few bits."""
    (user.folder / "secateur_unfit_networks.py").write_text(NETWORKS)
    return user


def refused(user: User, output: Path, *settings: str) -> str:
    """Return the complaint of a run that has written nothing."""
    code, _, complained = user.command(output, *settings)
    assert code == 2, complained
    assert not output.exists()
    return " ".join(complained.split())


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        ("Tied", (UNIFORM, "plan.ignore=[third, fourth]"), "the layers 'third' and 'fourth' share one weight"),
        ("Fixed", ("quantize={order: uniform, bits: 4}", *WITHOUT), "cannot be trained; set quantize.epochs: 0"),
        ("Fixed", (UNIFORM, "train=null"), "cannot be trained; set fine_tune: null"),
        ("Brain", (UNIFORM, *WITHOUT), "those of 'first' are torch.bfloat16: use .float()"),
        ("Half", ("fine_tune.precision=float16", "train=null"), "fine_tune.precision: the parameter 'first.weight' is"),
    ],
)
def test_networks(writer: User, tmp_path: Path, network: str, settings: tuple[str, ...], message: str) -> None:
    build = f"network.build=secateur_unfit_networks:{network}"
    assert message in refused(writer, tmp_path / "run", build, *settings)


def test_networks_that_are_not_trained_need_no_gradient(writer: User, tmp_path: Path) -> None:
    build = "network.build=secateur_unfit_networks:Fixed"
    code, _, complained = writer.command(tmp_path / "run", build, UNIFORM, *WITHOUT)
    assert (code, complained) == (0, "")


def test_a_precision_that_the_device_lacks(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: object, precision: str) -> None:
        if precision != "float32":
            raise ConfigError(f"the device {device} does not train in {precision}")

    monkeypatch.setattr(preparation, "check_precision", refuse)
    asked = "quantize={order: uniform, bits: 4, precision: bfloat16}"
    assert "quantize.precision: the device cpu does not train" in refused(user, tmp_path / "run", asked)
    code, _, complained = user.command(tmp_path / "run", asked, "quantize.epochs=0")
    assert (code, complained) == (0, "")
