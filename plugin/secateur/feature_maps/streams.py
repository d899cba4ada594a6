"""A criterion's state for each layer of a network: filled by feature maps, added up over processes, read as scores."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.distributed import Across, jointly
from secateur.errors import ConfigError, DataError, NetworkError, ScoreError
from secateur.protocols import Criterion, Mergeable


class Streams:
    """What a criterion knows of each layer.

    Attributes:
        rule: the criterion.
        layers: those to score, by name; none to begin with.
        labels: of the batch that passes through the network; None where the criterion reads none.

    Example:
        >>> from secateur.criteria import HRank
        >>> streams = Streams(HRank(), may_skip=True)
        >>> streams.layers = {"conv": nn.Conv2d(1, 2, 1)}
        >>> streams.receive("conv", torch.stack([torch.eye(4), torch.ones(4, 4)])[None])
        >>> streams.scores()
        ({'conv': tensor([4., 1.], dtype=torch.float64)}, {})
    """

    def __init__(self, rule: Criterion[Any], *, may_skip: bool) -> None:
        self.rule = rule
        self.layers: Mapping[str, nn.Module] = {}
        self.labels: Tensor | None = None
        self._may_skip = may_skip
        self._states: dict[str, Any] = {}
        self._widths: dict[str, int] = {}
        self._skipped: dict[str, str] = {}

    def receive(self, layer: str, feature_map: Tensor) -> None:
        """Add the feature map of one call of a layer."""
        if layer in self._skipped:
            return
        maps = _as_maps(feature_map, channels_last=isinstance(self.layers[layer], nn.Linear))
        width = self._widths.setdefault(layer, maps.shape[1])
        if maps.shape[1] != width:
            raise DataError(f"the feature map of layer {layer!r} had {width} channels and now has {maps.shape[1]}")
        if self.labels is not None and len(self.labels) != len(maps):
            apart = f"it makes {len(maps)} feature maps for {len(self.labels)} labels: the network takes inputs apart"
            if not self._may_skip:
                raise DataError(f"layer {layer!r}: {apart}; score it by a criterion that reads no labels")
            self._skip(layer, apart)
            return
        if not bool(torch.isfinite(maps.sum())) and not bool(torch.isfinite(maps).all()):  # a finite sum proves it
            raise DataError(f"the feature map of layer {layer!r} holds NaN or infinite values")
        try:
            state = self._states[layer] if layer in self._states else self.rule.init(width)
            self._states[layer] = self.rule.update(state, maps, self.labels)
        except DataError as error:
            if not (self._may_skip and min(maps.shape[2:]) == 1):
                raise DataError(f"layer {layer!r}: {error}") from error
            self._skip(layer, str(error))

    def _skip(self, layer: str, reason: str) -> None:
        self._skipped[layer] = reason
        self._states.pop(layer, None)  # of other maps of the same layer

    def join(self, across: Across, *, what: str) -> None:
        """Add up the states that all processes have for each layer, by rank; `what` is being found, for errors."""
        merge = mergeable(self.rule).merge
        for layer in self.layers:
            own = [self._states[layer]] if layer in self._states else []
            reason = self._skipped.get(layer)
            parts = jointly(functools.partial(_pair, own, reason), across, what=f"{what} of layer {layer!r}")
            states = [state for found, _ in parts for state in found]
            reasons = [reason for _, reason in parts if reason is not None]
            if reasons:
                self._skipped[layer] = reasons[0]
                self._states.pop(layer, None)
            elif states:
                with _naming(layer):
                    self._states[layer] = functools.reduce(merge, states)

    def scores(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the scores of all layers that were seen, and why there are none of the others.

        Raises:
            NetworkError: a layer that must not be skipped, or all of them, were not seen.
            DataError: what the criterion refuses; the layer is named.
            ScoreError: a criterion that does not give one score a channel.
        """
        unseen = [layer for layer in self.layers if layer not in self._states and layer not in self._skipped]
        if unseen and not self._may_skip:
            raise NetworkError(f"no feature map of {', '.join(map(repr, unseen))} was seen: the network never calls it")
        skipped = self._skipped | dict.fromkeys(unseen, "the network never calls it")
        if not self._states:
            reasons = "; ".join(f"{layer!r}: {reason}" for layer, reason in skipped.items())
            raise NetworkError(f"no layer can be scored by {self.rule.name!r}: {reasons}")
        scores: dict[str, Tensor] = {}
        for layer in self.layers:
            if layer in self._states:
                with _naming(layer):
                    scores[layer] = self._checked(self.rule.compute(self._states[layer]), layer)
        return scores, skipped

    def _checked(self, scores: Any, layer: str) -> Tensor:
        """Refuse what a criterion of others may give, and ours do not."""
        channels = self._widths.get(layer)
        if isinstance(scores, Tensor) and scores.ndim == 1 and channels in (None, len(scores)):
            return scores
        found = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ScoreError(
            f"the criterion {self.rule.name!r} must give layer {layer!r} one score a channel, a tensor of shape "
            f"({channels or 'C'},); it gives {found}"
        )


def mergeable(rule: Criterion[Any]) -> Mergeable[Any]:
    """Return a criterion if its states add up.

    Raises:
        ConfigError: it has no `merge`.

    Example:
        >>> from secateur.criteria import HRank
        >>> mergeable(HRank(samples=10)).samples
        10
    """
    if not isinstance(rule, Mergeable):
        raise ConfigError(
            f"the criterion {rule.name!r} has no merge(state, other), so that the states of several processes cannot "
            "be added up: give it one (see secateur.protocols.Mergeable), or score on one process, without `across`"
        )
    return rule


@contextmanager
def _naming(layer: str) -> Iterator[None]:
    """Within the block, a DataError names the layer."""
    try:
        yield
    except DataError as error:
        raise DataError(f"layer {layer!r}: {error}") from error


def _pair(states: list[Any], reason: str | None) -> tuple[list[Any], str | None]:
    return states, reason


def _as_maps(feature_map: Tensor, *, channels_last: bool) -> Tensor:
    """Return any layer's feature map as (N, C, H, W), in float32 if it was half precision."""
    maps = feature_map.movedim(-1, 1).unsqueeze(-1).flatten(2) if channels_last else feature_map
    maps = maps.unsqueeze(-1).flatten(3)
    return maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
