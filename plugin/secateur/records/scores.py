"""Score tables: how much each output channel of each layer is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from secateur.errors import ScoreError
from secateur.plain_data import plain

FORMAT = 1


class ScoreTable(Mapping[str, Tensor]):
    """One score per output channel of each layer: layer name -> (C,), float64, larger = keep.

    `settings` says how the scores were made (criterion, tap, images, batch size, ...). They are part of the scores: two
    tables with different settings must not be compared.

    Raises:
        ScoreError: a layer's scores are not a finite vector.

    Example:
        >>> table = ScoreTable({"conv1": torch.tensor([1.0, 3.0])}, settings={"criterion": "hrank"})
        >>> table["conv1"].tolist(), table.settings["criterion"]
        ([1.0, 3.0], 'hrank')
    """

    def __init__(self, scores: Mapping[str, Tensor], *, settings: Mapping[str, Any] | None = None) -> None:
        for layer, values in scores.items():
            if values.ndim != 1 or not bool(torch.isfinite(values).all()):
                raise ScoreError(
                    f"the scores of layer {layer!r} must be a finite vector with one number per channel; "
                    f"they have shape {tuple(values.shape)} and {int((~torch.isfinite(values)).sum())} "
                    "of them are NaN or infinite"
                )
        self._scores = {layer: values.detach().to("cpu", torch.float64, copy=True) for layer, values in scores.items()}
        self._settings = dict(settings or {})

    @property
    def settings(self) -> Mapping[str, Any]:
        """How the scores were made; read only."""
        return MappingProxyType(self._settings)

    def __getitem__(self, layer: str) -> Tensor:
        return self._scores[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; float64 survives the trip exactly."""
        scores = {layer: values.tolist() for layer, values in self._scores.items()}
        return {"format": FORMAT, "settings": plain(self.settings), "scores": scores}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScoreTable:
        """Return the table that `to_json` wrote. Raises ScoreError for anything else."""
        try:
            scores = {str(k): torch.tensor(v, dtype=torch.float64) for k, v in data["scores"].items()}
            return cls(scores, settings=data["settings"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ScoreError(f"not a score table of secateur: {error}") from error


def rounded(scores: Tensor, digits: int) -> Tensor:
    """Return scores in so many significant digits, float64.

    Sums round in their last digits as the threads split them. Scores without these are the same for any number of
    threads, but where one lies as close to the middle between two numbers of so many digits as rounding moves it.

    Example:
        >>> rounded(torch.tensor([1 / 3, 2e-9], dtype=torch.float64), 4).tolist()
        [0.3333, 2e-09]
    """
    found = [float(f"{score:.{digits}g}") for score in scores.flatten().tolist()]
    return torch.tensor(found, dtype=torch.float64).reshape(scores.shape)
