"""Labelled images and how they become tensors: decoded once where they are small, on access where they are large.

Both kinds, `Pixels` and `Photographs`, are immutable and offer the same: `labels`, `subset` and `read`, which returns
the images at some positions scaled to [0, 1], augmented under a generator if one is given.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from secateur.errors import DataError, MissingDependencyError

SMALL = 64
"""Up to this side in pixels images are decoded once and kept; it is 12 KiB for an image."""
PADDING = 4
SIXTEEN_BITS = ("PNG", "PPM")
"""Formats whose grey numbers have 16 bits at most, also where Pillow holds them in 32."""
BITS = 258
"""The tag of a TIFF that says of how many bits its numbers are: Pillow holds 12 in 16."""


def require(module: str) -> Any:
    """Import and return a module of the extra `vision`, or raise MissingDependencyError with what installs it."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # torchvision of another release than torch: RuntimeError
        raise MissingDependencyError(
            f'{module} cannot be imported ({error}): pip install "secateur[vision]"'
        ) from error


@dataclass(frozen=True)
class Pixels:
    """Images kept as one tensor.

    Attributes:
        pixels: (N, C, H, W), uint8 or floating.
        labels: (N,), int64.
        levels: the value that stands for 1.
    """

    pixels: Tensor
    labels: Tensor
    levels: float = 255.0

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, idx: Tensor) -> Pixels:
        """Return the images at positions `idx`, in that order."""
        return Pixels(self.pixels[idx], self.labels[idx], self.levels)

    def kept(self) -> Pixels:
        """Return these: they are decoded already."""
        return self

    def read(self, idx: Tensor, *, augment: Generator | None = None) -> Tensor:
        """Return images (n, C, H, W), float32 in [0, 1]; with a generator, shifted and mirrored at random."""
        chosen = self.pixels[idx]
        if augment is not None:
            chosen = crop_and_flip(chosen, augment)
        return chosen.to(torch.float32) / self.levels


@dataclass(frozen=True)
class Photographs:
    """Encoded images, decoded on each access.

    Attributes:
        sources: a file or its bytes, for each image.
        names: what to call it in errors.
        labels: (N,), int64.
        size: the side, in pixels, of the square that is read from it.
    """

    sources: Sequence[Path | bytes]
    names: Sequence[str]
    labels: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, idx: Tensor) -> Photographs:
        """Return the images at positions `idx`, in that order."""
        at = idx.tolist()
        return Photographs([self.sources[i] for i in at], [self.names[i] for i in at], self.labels[idx], self.size)

    def read(self, idx: Tensor, *, augment: Generator | None = None) -> Tensor:
        """Return images (n, 3, size, size), float32 in [0, 1].

        Without a generator: resized so that the shorter side has size * 256 / 224 pixels, the centre cut out; images
        of exactly the size are taken as they are. With one: a random part, resized, and mirrored half of the time.

        Raises:
            DataError: a file cannot be decoded, or holds numbers whose black and white are not known.
        """
        if augment is None:
            return self.decode(idx).to(torch.float32) / 255.0
        transforms, functional = require("torchvision.transforms"), require("torchvision.transforms.functional")
        crop, at = transforms.RandomResizedCrop(self.size), idx.tolist()
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's generator of the processor
            torch.default_generator.manual_seed(int(torch.randint(2**62, (1,), generator=augment)))
            drawn = [(crop.get_params(self._shape(i), crop.scale, crop.ratio), bool(torch.rand(1) < 0.5)) for i in at]

        def changed(position: int, how: tuple[tuple[int, int, int, int], bool]) -> Tensor:
            box, mirrored = how
            image = functional.resized_crop(self._open(position), *box, [self.size, self.size])
            return _to_tensor(functional.hflip(image) if mirrored else image)

        return torch.stack(_in_threads(changed, at, drawn)).to(torch.float32) / 255.0

    def decode(self, idx: Tensor) -> Tensor:
        """Return images (n, 3, size, size) without augmentation, uint8."""
        transforms = require("torchvision.transforms")
        fit = transforms.Compose([transforms.Resize(self.size * 256 // 224), transforms.CenterCrop(self.size)])

        def fitted(position: int) -> Tensor:
            image = self._open(position)
            return _to_tensor(image if image.size == (self.size, self.size) else fit(image))

        return torch.stack(_in_threads(fitted, idx.tolist()))

    def kept(self) -> Pixels | Photographs:
        """Return the images decoded for good if they are small (32x32: 3 KiB each), else these."""
        if self.size > SMALL:
            return self
        return Pixels(self.decode(torch.arange(len(self))), self.labels)

    def _shape(self, position: int) -> Tensor:
        """Return an empty tensor (0, H, W) of the image's size, which is read without decoding it."""
        with self._readable(position) as image:
            return torch.empty(0, image.height, image.width)

    def _open(self, position: int) -> Any:
        with self._readable(position) as image:
            return _in_colour(image)

    @contextmanager
    def _readable(self, position: int) -> Iterator[Any]:
        source, pillow = self.sources[position], require("PIL.Image")
        try:
            with pillow.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                yield image
        except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
            raise DataError(f"image {self.names[position]} cannot be decoded: {error}") from error


Images = Pixels | Photographs


def crop_and_flip(pixels: Tensor, generator: Generator, *, padding: int = PADDING) -> Tensor:
    """Shift each image by up to `padding` pixels in both directions, black beyond the edge, and mirror half of them.

    Shapes: (N, C, H, W) -> (N, C, H, W), any dtype. Cost: one gather of the batch, no loop over images.

    Example:
        >>> one = torch.ones(2, 1, 4, 4)
        >>> crop_and_flip(one, Generator().manual_seed(0)).shape
        torch.Size([2, 1, 4, 4])
    """
    N, _, H, W = pixels.shape
    top, left = torch.randint(2 * padding + 1, (2, N, 1), generator=generator)
    mirrored = torch.rand(N, 1, generator=generator) < 0.5
    rows = top + torch.arange(H)
    columns = left + torch.where(mirrored, torch.arange(W).flip(0), torch.arange(W))
    padded = pad(pixels, (padding,) * 4).permute(0, 2, 3, 1)
    picked = padded[torch.arange(N)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def _in_threads(work: Callable[..., Tensor], *arguments: Iterable[Any]) -> list[Tensor]:
    """Return `work` of each of the arguments, in order, by as many threads as torch has: decoding lets others run."""
    threads = torch.get_num_threads()
    if threads == 1:
        return list(map(work, *arguments))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, *arguments))


def _in_colour(image: Any) -> Any:
    """Return an image as RGB of 8 bits: grey of 12 or 16 bits is scaled, where Pillow would cut it off at 255.

    Raises:
        ValueError: its numbers are floating or of 32 bits, and so have no white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS):
        bits = image.tag_v2.get(BITS, (16,))[0] if image.format == "TIFF" else 16
        scale = 255 / (2**bits - 1)
        image = image.convert("I").point(lambda level: level * scale + 0.5).convert("L")
    elif image.mode in ("I", "F"):
        raise ValueError(
            f"its mode is {image.mode} ({'floating' if image.mode == 'F' else '32-bit'} numbers, of which no value is "
            "known to be white); allowed are 8 bits a channel, and grey of 12 or 16 bits"
        )
    return image.convert("RGB")


def _to_tensor(image: Any) -> Tensor:
    tensor: Tensor = require("torchvision.transforms.functional").pil_to_tensor(image)
    return tensor
