"""The section of the configuration that gives the filters of the pruned network fewer bits."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from secateur.precision import Precision
from secateur.quantization import ThresholdRule
from secateur.quantization.quantizer import LEAST, MOST
from secateur_cli.settings.training_schema import FineTuneConfig, Positive, Share
from secateur_cli.settings.values import Count, Section, as_tuple

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20}
SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(" + "|".join(UNITS) + r")\s*")

Bits = Annotated[int, Field(strict=True, ge=LEAST, le=MOST)]
BitOrder = Literal["di", "reversed", "random", "uniform"]


def _size(value: Any) -> Any:
    if value is None or (isinstance(value, str) and (found := SIZE.fullmatch(value)) and float(found[1]) > 0):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return f"{value}B"
    raise ValueError(f"{value!r}: must be a size such as 6.0MB or 300kB, or bytes; units: {', '.join(UNITS)}")


class QuantizeConfig(Section):
    """How many bits the filters of the pruned network keep: a size, or levels of bits and their shares."""

    size: Annotated[str | None, BeforeValidator(_size)] = Field(
        default=None, description="what the packed file may take, everything in it counted, such as 6.0MB"
    )
    bits: Annotated[tuple[Bits, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=(8, 4), description="bits of the levels, falling, each 2 to 16; for order uniform one number"
    )
    shares: tuple[Share, ...] | None = Field(
        default=None, description="share of the filters of each layer in each level; null: solved from the size"
    )
    order: BitOrder = Field(
        default="di",
        description="which filters keep more bits: di, those of high DI; reversed, of low; random; uniform: all alike",
    )
    ends: Bits | None = Field(default=8, description="bits of the first and the last layer; null: as all others")
    thresholds: ThresholdRule = Field(
        default="published",
        description="where filters are clipped: published, at the largest weight from 5 bits on, at that of least "
        "divergence below; largest, at the largest weight; least_squares, at that of least squared error",
    )
    epochs: Annotated[int, Field(strict=True, ge=0)] = Field(
        default=1, description="passes over the training images with gradients straight through the rounding; 0: none"
    )
    learning_rate: Positive = Field(default=0.01, description="the largest step of that training, at the start")
    precision: Precision = Field(default="float32", description="of that training, see fine_tune")
    activations: Bits | None = Field(
        default=None, description="bits of what the layers read, in ranges found on images; null: float32"
    )
    samples: Count = Field(default=256, description="training images to find these ranges on")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.order == "uniform":
            self._check_uniform()
            return self
        if not all(high > low for high, low in itertools.pairwise(self.bits)):
            raise ValueError(f"bits: {list(self.bits)}: must fall from level to level, such as [8, 4]")
        if (self.size is None) == (self.shares is None):
            raise ValueError("give either a size, such as 6.0MB, or shares, such as [0.5, 0.5], and not both")
        if self.shares is not None and (len(self.shares) != len(self.bits) or abs(sum(self.shares) - 1) > 1e-6):
            raise ValueError(
                f"shares: {list(self.shares)}: must be one for each of the {len(self.bits)} levels and add up to 1"
            )
        return self

    def _check_uniform(self) -> None:
        if self.shares is not None:
            raise ValueError("shares: all filters have as many bits where the order is uniform; leave them out")
        if ("bits" in self.model_fields_set) == (self.size is not None):
            raise ValueError("order uniform: give either bits, a single number, or a size")
        if self.size is None and len(self.bits) != 1:
            raise ValueError(f"bits: {list(self.bits)}: must be a single number where the order is uniform")

    @property
    def size_bytes(self) -> float | None:
        """The size in bytes, if one is given."""
        found = None if self.size is None else SIZE.fullmatch(self.size)
        return None if found is None else float(found[1]) * UNITS[found[2]]

    def smoke(self, images: int) -> QuantizeConfig:
        """Return a copy that takes seconds: at most one epoch, and so many images."""
        return self.model_copy(update={"epochs": min(self.epochs, 1), "samples": min(self.samples, images)})

    @property
    def training(self) -> FineTuneConfig | None:
        """How to train through the rounding; None where that is left out."""
        if not self.epochs:
            return None
        return FineTuneConfig(epochs=self.epochs, learning_rate=self.learning_rate, precision=self.precision)
