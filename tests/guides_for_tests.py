"""The pages that are read before the code: where they are, the blocks in them, and what their readers have at hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

import exports_for_tests  # noqa: F401  # which makes exports quick
from secateur.networks import digits_resnet

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / "examples" / "guides").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDES]
README = PAGES[0].read_text(encoding="utf-8")
MEASUREMENTS = (ROOT / "examples/guides/measurements.md").read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the blocks of code of a page in their order: (language, code)."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    """Return a section of the page of measurements."""
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", MEASUREMENTS, re.MULTILINE | re.DOTALL)
    return str(found)


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a text without their headings: rows of cells, stars removed."""
    found = re.findall(r"^\|[-|]+\|\n((?:\|.*\n?)+)", text, re.MULTILINE)
    return [
        [[cell.strip() for cell in row.replace("*", "").strip("|").split("|")] for row in table.splitlines()]
        for table in found
    ]


def reader() -> dict[str, Any]:
    """Return what every reader has: a trained network, images, and batches of them."""
    loader = [(torch.rand(32, 1, 8, 8), torch.arange(32) % 10) for _ in range(2)]
    return {"model": digits_resnet().eval(), "loader": loader, "images": loader[0][0]}


def size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
