"""Photographs as they are decoded: sizes and augmentation as torchvision has them, grey of more than 8 bits."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from images_for_tests import encoded
from secateur.errors import DataError
from secateur_cli.inputs.images import Photographs


def test_photographs_are_resized_as_for_imagenet(tmp_path: Path) -> None:
    from torchvision import transforms

    wide = encoded((180, 120), (0, 0, 0), noise=1)
    photographs = Photographs([wide], ["wide.png"], torch.tensor([0]), 70)
    rule = transforms.Compose([transforms.Resize(80), transforms.CenterCrop(70), transforms.ToTensor()])
    assert torch.equal(photographs.read(torch.tensor([0]))[0], rule(Image.open(io.BytesIO(wide)).convert("RGB")))
    assert photographs.kept() is photographs


def saved(pixels: np.ndarray[Any, Any], kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


RAMP = np.arange(2**16, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize(
    ("source", "mode"),
    [
        (saved(RAMP, "PNG"), "I;16"),
        (saved(RAMP, "TIFF"), "I;16"),
        (saved(RAMP.astype(">u2"), "TIFF"), "I;16B"),
        (saved(RAMP, "PPM"), "I"),
    ],
)
def test_grey_of_16_bits_is_scaled(source: bytes, mode: str) -> None:
    assert Image.open(io.BytesIO(source)).mode == mode
    photographs = Photographs([source], ["ramp"], torch.zeros(1), 256)
    expected = torch.tensor([round(level / 257) for level in range(2**16)]).reshape(256, 256)
    assert torch.equal(photographs.decode(torch.tensor([0]))[0].long(), expected.expand(3, 256, 256))
    augmented = photographs.read(torch.tensor([0]), augment=Generator().manual_seed(0))
    assert 0.2 < float(augmented.mean()) < 0.8


def test_grey_of_12_bits_is_scaled() -> None:
    pixels = int("".join(f"{level:012b}" for level in range(2**12)), 2).to_bytes(6144, "big")
    tags = [(256, 64), (257, 64), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 64), (279, 6144)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    source = struct.pack("<2sHI", b"II", 42, 8 + 6144) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)
    found = Photographs([source], ["ramp"], torch.zeros(1), 64).decode(torch.tensor([0]))[0].long()
    expected = torch.tensor([round(level * 255 / 4095) for level in range(2**12)]).reshape(64, 64)
    assert torch.equal(found, expected.expand(3, 64, 64))


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_numbers_without_a_white_are_refused(kind: Any, mode: str) -> None:
    source = saved(np.full((16, 16), 70_000, dtype=kind), "TIFF")
    photographs = Photographs([source], ["cat/0.tiff"], torch.zeros(1), 16)
    message = rf"image cat/0\.tiff cannot be decoded: its mode is {mode} .*; allowed are 8 bits a channel, and grey of "
    with pytest.raises(DataError, match=message):
        photographs.read(torch.tensor([0]))
    with pytest.raises(DataError, match=message):
        photographs.read(torch.tensor([0]), augment=Generator())


def test_augmentation_leaves_the_generators_of_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout there would draw the same numbers after each batch."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    photographs = Photographs([encoded((20, 20), (0, 0, 0))], ["0.png"], torch.zeros(1), 16)
    before = torch.get_rng_state()
    photographs.read(torch.tensor([0]), augment=Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert seeded == []
    torch.manual_seed(0)
    assert seeded == [0]  # which would have told


@pytest.mark.parametrize("threads", [1, 3])
def test_photographs_are_augmented_as_torchvision_does_it_whatever_the_threads(threads: int) -> None:
    from torchvision import transforms

    sources = [encoded((150 + 9 * k, 120), (0, 0, 0), noise=k) for k in range(6)]
    photographs = Photographs(sources, [f"{k}.png" for k in range(6)], torch.zeros(6), 70)
    rule = transforms.Compose(
        [transforms.RandomResizedCrop(70), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    )
    torch.manual_seed(int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(5))))
    expected = [rule(Image.open(io.BytesIO(source)).convert("RGB")) for source in sources]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = photographs.read(torch.arange(6), augment=torch.Generator().manual_seed(5))
        broken = replace(photographs, sources=[*sources[:5], b"no image"])
        with pytest.raises(DataError, match=r"image 5\.png cannot be decoded"):
            broken.read(torch.arange(6), augment=torch.Generator())
        with pytest.raises(DataError, match=r"image 5\.png cannot be decoded"):
            broken.decode(torch.arange(6))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, torch.stack(expected) / 255.0)
