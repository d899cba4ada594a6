"""What a measurement says of the machine it was taken on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from secateur_onnx import machine

Put = Callable[..., None]


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Return how to put graphics cards into the driver's list, which torch sees nothing of."""
    monkeypatch.setattr(machine, "GRAPHICS_CARDS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def put(*described: str) -> None:
        for number, text in enumerate(described):
            folder = tmp_path / f"0000:{number:02}:00.0"
            folder.mkdir()
            (folder / "information").write_text(text)

    return put


def test_a_card_that_torch_does_not_see_is_named_by_the_driver(cards: Put) -> None:
    cards(
        "Model: \t\t NVIDIA H100\nIRQ:   \t\t 16\n",
        "Model: \t\t NVIDIA A10\n",
        "Model: \t\t NVIDIA H100\n",
        "IRQ: 16\n",
    )
    assert machine.describe_machine(provider="cuda").device == "NVIDIA A10, NVIDIA H100"
    assert machine.describe_machine(provider="cpu").device is None


def test_no_card_no_name(cards: Put) -> None:
    assert machine.describe_machine(provider="cuda").device is None


def test_what_torch_sees_comes_first(cards: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    cards("Model: \t\t NVIDIA A10\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"card {number}")
    assert machine.describe_machine(provider="cuda").device == "card 0"


def test_the_processor_is_named() -> None:
    described = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", described.read_text(), re.MULTILINE) if described.exists() else []
    assert machine.cpu_name() in names or (not names and machine.cpu_name())
