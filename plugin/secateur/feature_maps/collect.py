"""Stream the feature maps of a network into a criterion: one pass over the images, one score for each channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur import criteria
from secateur.batches import Batches, rebatch
from secateur.counts import check_counts
from secateur.distributed import Across, Share, jointly, part_of, sum_of
from secateur.errors import DataError, NetworkError
from secateur.feature_maps.saturation import saturated_layers, warn_of_saturation
from secateur.feature_maps.streams import Streams, mergeable
from secateur.feature_maps.tap import Tap, producers, tapped
from secateur.fingerprints import structure_of
from secateur.modes import device_of, evaluating, own_copy, reading, unwrapped
from secateur.protocols import Criterion
from secateur.records import ScoreTable, rounded
from secateur.tf32 import without_tf32

DIGITS = 12  # of a score: in so many it agrees, in whichever order the threads add it up


def collect_scores(
    model: nn.Module,
    batches: Batches,
    criterion: str | Criterion[Any] = "hrank",
    *,
    tap: Tap = "act",
    layers: Iterable[str] | None = None,
    samples: int | None = None,
    across: Across = None,
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
            those whose maps have a side of one pixel and are refused by the criterion (squeeze and excitation), and
            those that make several maps of an input, of which labels do not tell (attention in windows), are left out
            and listed with the reason in the table's settings under "skipped".
        samples: how many images to read; None for the criterion's own number. Fewer are read if there are no more.
        across: a process group of torch.distributed: each process gives the batches of its own share, of any size or
            none, reads at most its equal part of `samples`, and all get the same scores, those of one process that
            reads all of these batches: exactly for hrank, else up to rounding in float64. A criterion that is defined
            on batches of one size makes them within each share, and leaves out the rest of each. None: this process
            alone, which `torch.distributed.group.WORLD` means too before `init_process_group`.

    Returns:
        The scores, layer -> (C,), in twelve significant digits, so that they do not depend on how many threads add them
        up (where a criterion multiplies in float32, as DI's precision "mixed" does with maps of 2^18 numbers and more,
        that holds to some six digits); with the settings criterion, options, tap, samples (images really read),
        batch_size (None: any split gives the same scores), structure (a hash of the network's parameter shapes),
        skipped, and saturated (layers in which more than a quarter of the channels share one score, of which a
        SaturationWarning tells).

    The criterion sees (N, C, H, W): maps of 1d convolutions as (N, C, L, 1), of 3d ones as (N, C, D, H*W), outputs
    (N, C) of linear layers as (N, C, 1, 1) and (N, ..., C) as (N, C, L, 1), half precision as float32. A layer that is
    called several times in one pass adds each call to its statistic.

    Raises:
        ConfigError: an unknown criterion or tap, or an object that is none; `samples` below one; with `across`, a
            criterion whose states do not add up (it has no `merge`, see `secateur.protocols.Mergeable`), or no process
            group.
        DataError: no batch; labels that are missing although the criterion reads them, negative or not integers;
            a feature map that holds NaN or infinite values or changes its number of channels, or that the criterion
            refuses (the layer is named).
        NetworkError: a layer in `layers` does not exist or never runs; no layer is left; a compiled or scripted
            network.
        ScoreError: a criterion that does not give one score a channel.
        ProcessError: another process failed, ended, or has other weights or settings; see `secateur.distributed`.

    Cost: the forward pass plus the criterion's work; `across` processes also a hash of the weights, and one exchange a
    layer. Memory: the forward pass plus the criterion's states; `across` processes also all of theirs for one layer.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
        >>> _ = network[0].weight.data.fill_(0), network[0].bias.data.copy_(torch.tensor([1.0, -1.0]))
        >>> table = collect_scores(network, [torch.zeros(4, 1, 5, 5)], "hrank")
        >>> table["0"].tolist(), table.settings["samples"]
        ([1.0, 0.0], 4)

    Deviation from the code published with HRank, which makes a new pass over other random images for each layer: all
    layers see the same images, in one pass.
    """
    rule = criteria.as_criterion(criterion)
    limit = rule.samples if samples is None else samples
    named = layers if layers is None or isinstance(layers, str) else list(layers)
    if across is not None:
        mergeable(rule)
    streams = Streams(rule, may_skip=named is None)
    settings: dict[str, Any] = {"criterion": rule.name, "options": criteria.options_of(rule), "tap": tap}
    what = f"scores by {rule.name!r}"
    shares = jointly(
        lambda: _read(model, batches, streams, layers=named, tap=tap, samples=limit, across=across),
        across,
        what=what,
        network=model,
        settings=settings | {"samples": limit, "layers": named},
    )
    images, largest = sum_of(shares, fixed=rule.batch_size is not None)
    if across is not None:
        streams.join(across, what=what)
    settings |= {
        "samples": images,
        "batch_size": None if rule.batch_size is None else largest,
        "structure": structure_of(unwrapped(model)),
    }
    found, skipped = jointly(streams.scores, across, what=what)[0]
    scores = {layer: rounded(values, DIGITS) for layer, values in found.items()}
    table = ScoreTable(scores, settings=settings | {"skipped": skipped, "saturated": saturated_layers(scores)})
    warn_of_saturation(rule.name, tap, table, table.settings["saturated"])
    return table


def _read(
    model: nn.Module,
    batches: Batches,
    streams: Streams,
    *,
    layers: Iterable[str] | None,
    tap: Tap,
    samples: int,
    across: Across,
) -> Share:
    """Let this process's part of `samples` images pass through the network into the streams."""
    check_counts(samples=samples)
    rule, network = streams.rule, unwrapped(model)
    streams.layers = producers(network, layers)
    if layers is None and not rule.accepts_vectors:
        streams.layers = {name: module for name, module in streams.layers.items() if not isinstance(module, nn.Linear)}
    if not streams.layers:
        raise NetworkError(
            "the network has no convolution to score; linear layers are scored by criteria that accept vectors, such "
            "as 'di', or where `layers` names them"
        )
    device, share = device_of(network), Share()
    part = part_of(samples, across, batch_size=rule.batch_size)
    own = rebatch(batches, rule.batch_size, samples=part) if part else ()
    taps = tapped(network, streams.receive, layers=streams.layers, tap=tap)
    with evaluating(network), torch.no_grad(), without_tf32(), taps:  # or ranks would be those of rounding errors
        for inputs, labels in own:
            streams.labels = _checked(labels, device) if rule.needs_labels else None
            with reading(network, inputs):
                network(own_copy(network, inputs))
            share = share.with_batch(inputs)
    return share


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
