"""Stream the feature maps of a network into a criterion: one pass over the images, one score for each channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur import criteria
from secateur.batches import Batches, rebatch
from secateur.errors import ConfigError, DataError, NetworkError
from secateur.feature_maps.saturation import saturated_layers, warn_of_saturation
from secateur.feature_maps.tap import Tap, producers, tapped, unwrapped
from secateur.modes import device_of, evaluating, structure_of
from secateur.protocols import Criterion
from secateur.records import ScoreTable


def collect_scores(
    model: nn.Module,
    batches: Batches,
    criterion: str | Criterion[Any] = "hrank",
    *,
    tap: Tap = "act",
    layers: Iterable[str] | None = None,
    samples: int | None = None,
) -> ScoreTable:
    """Return the score of every channel of every layer, from one pass over the images.

    The network runs in eval mode without gradients and is left as it was: training flags of each module, hooks.

    Args:
        model: a network that takes one tensor of inputs (N, ...). Inputs are moved to its device.
        batches: anything iterable that yields inputs or pairs (inputs, labels); regrouped to the criterion's batch
            size.
        criterion: a name in `secateur.criteria.CRITERIA`, or a criterion with its options.
        tap: which tensor is the feature map of a layer, see `secateur.feature_maps.tap.tapped`.
        layers: names of convolutions and linear layers. None: all convolutions that run, and the linear layers too if
            the criterion accepts vectors; then layers that never run (auxiliary classifiers),
            and those whose maps have a side of one pixel and are refused by the criterion (squeeze and excitation),
            are left out and listed with the reason in the table's settings under "skipped".
        samples: how many images to read; None for the criterion's own number. Fewer are read if there are no more.

    Returns:
        The scores, layer -> (C,), with the settings criterion, options, tap, samples (images really read), batch_size
        (None: any split gives the same scores), structure (a hash of the network's parameter shapes), skipped, and
        saturated (layers in which more than a quarter of the channels share one score, of which a SaturationWarning
        tells).

    The criterion sees (N, C, H, W): maps of 1d convolutions as (N, C, L, 1), of 3d ones as (N, C, D, H*W), outputs
    (N, C) of linear layers as (N, C, 1, 1) and (N, ..., C) as (N, C, L, 1), half precision as float32. A layer that is
    called several times in one pass adds each call to its statistic.

    Raises:
        ConfigError: an unknown criterion or tap; `samples` below one.
        DataError: no batch; labels that are missing although the criterion reads them, negative or not integers;
            a feature map that holds NaN or infinite values or changes its number of channels, or that the criterion
            refuses (the layer is named).
        NetworkError: a layer in `layers` does not exist or never runs; no layer is left; a compiled or scripted
            network.

    Cost: the forward pass plus the criterion's work. Memory: the forward pass plus the criterion's states.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
        >>> _ = network[0].weight.data.fill_(0), network[0].bias.data.copy_(torch.tensor([1.0, -1.0]))
        >>> table = collect_scores(network, [torch.zeros(4, 1, 5, 5)], "hrank")
        >>> table["0"].tolist(), table.settings["samples"]
        ([1.0, 0.0], 4)

    Deviation from the code published with HRank, which makes a new pass over other random images for each layer: all
    layers see the same images, in one pass.
    """
    rule = criteria.criterion(criterion) if isinstance(criterion, str) else criterion
    limit = rule.samples if samples is None else samples
    if limit < 1:
        raise ConfigError(f"samples must be at least one; found {limit}")
    network = unwrapped(model)
    wanted = producers(network, layers)
    if layers is None and not rule.accepts_vectors:
        wanted = {name: module for name, module in wanted.items() if not isinstance(module, nn.Linear)}
    if not wanted:
        raise NetworkError(
            "the network has no convolution to score; linear layers are scored by criteria that accept vectors, such "
            "as 'di', or where `layers` names them"
        )
    streams = _Streams(rule, wanted, may_skip=layers is None)
    device = device_of(network)
    images = largest = 0
    with evaluating(network), torch.no_grad(), tapped(network, streams.receive, layers=wanted, tap=tap):
        for inputs, labels in rebatch(batches, rule.batch_size, samples=limit):
            streams.labels = _checked(labels, device) if rule.needs_labels else None
            network(inputs.to(device))
            images, largest = images + len(inputs), max(largest, len(inputs))
    if images == 0:
        raise DataError("there is no image to collect scores from: the batches are empty")
    settings = {
        "criterion": rule.name,
        "options": criteria.options_of(rule),
        "tap": tap,
        "samples": images,
        "batch_size": None if rule.batch_size is None else largest,
        "structure": structure_of(network),
    }
    table = streams.table(settings)
    warn_of_saturation(rule.name, table, table.settings["saturated"])
    return table


class _Streams:
    """The criterion's state for each layer."""

    def __init__(self, rule: Criterion[Any], wanted: dict[str, nn.Module], *, may_skip: bool) -> None:
        self._rule = rule
        self._wanted = wanted
        self._may_skip = may_skip
        self._states: dict[str, Any] = {}
        self._widths: dict[str, int] = {}
        self._skipped: dict[str, str] = {}
        self.labels: Tensor | None = None

    def receive(self, layer: str, feature_map: Tensor) -> None:
        """Add the feature map of one call of a layer."""
        if layer in self._skipped:
            return
        maps = _as_maps(feature_map, channels_last=isinstance(self._wanted[layer], nn.Linear))
        width = self._widths.setdefault(layer, maps.shape[1])
        if maps.shape[1] != width:
            raise DataError(f"the feature map of layer {layer!r} had {width} channels and now has {maps.shape[1]}")
        if self.labels is not None and len(self.labels) != len(maps):
            raise DataError(f"the feature map of layer {layer!r} has {len(maps)} images for {len(self.labels)} labels")
        if not bool(torch.isfinite(maps.sum())) and not bool(torch.isfinite(maps).all()):  # a finite sum proves it
            raise DataError(f"the feature map of layer {layer!r} holds NaN or infinite values")
        try:
            state = self._states[layer] if layer in self._states else self._rule.init(width)
            self._states[layer] = self._rule.update(state, maps, self.labels)
        except DataError as error:
            if not (self._may_skip and layer not in self._states and min(maps.shape[2:]) == 1):
                raise DataError(f"layer {layer!r}: {error}") from error
            self._skipped[layer] = str(error)

    def table(self, settings: dict[str, Any]) -> ScoreTable:
        """Return the scores of all layers that were seen."""
        unseen = [layer for layer in self._wanted if layer not in self._states and layer not in self._skipped]
        if unseen and not self._may_skip:
            raise NetworkError(f"no feature map of {', '.join(map(repr, unseen))} was seen: the network never calls it")
        skipped = self._skipped | dict.fromkeys(unseen, "the network never calls it")
        if not self._states:
            reasons = "; ".join(f"{layer!r}: {reason}" for layer, reason in skipped.items())
            raise NetworkError(f"no layer can be scored by {self._rule.name!r}: {reasons}")
        scores: dict[str, Tensor] = {}
        for layer in self._wanted:
            if layer not in self._states:
                continue
            try:
                scores[layer] = self._rule.compute(self._states[layer])
            except DataError as error:
                raise DataError(f"layer {layer!r}: {error}") from error
        return ScoreTable(scores, settings=settings | {"skipped": skipped, "saturated": saturated_layers(scores)})


def _as_maps(feature_map: Tensor, *, channels_last: bool) -> Tensor:
    """Return any layer's feature map as (N, C, H, W), in float32 if it was half precision."""
    maps = feature_map.movedim(-1, 1) if channels_last else feature_map
    if channels_last:
        maps = maps.flatten(2) if maps.ndim > 2 else maps.unsqueeze(2)
    if maps.ndim == 3:
        maps = maps.unsqueeze(3)
    if maps.ndim > 4:
        maps = maps.flatten(3)
    return maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps


def _checked(labels: Tensor | None, device: torch.device) -> Tensor:
    if labels is None:
        raise DataError("the criterion reads labels, but the batches hold inputs alone; give pairs (inputs, labels)")
    if labels.is_floating_point() or labels.is_complex() or labels.ndim != 1:
        raise DataError(
            f"labels must be class numbers, one an image; found {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if int(labels.min()) < 0:
        raise DataError(f"labels must be class numbers from 0; found {int(labels.min())}")
    return labels.to(device, torch.int64)
