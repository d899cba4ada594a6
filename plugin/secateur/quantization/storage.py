"""Quantized networks on disk: safetensors, the codes packed bit by bit, and no more than is claimed.

For each quantized layer the file holds, in place of its weight,

    NAME.weight.codes.B     uint8, the codes of the filters that have B bits, in the order of the channels, packed
    NAME.weight.scales      float32, (C,)
    NAME.weight.levels      uint8, for each filter the place of its bits among the layer's, packed; absent if all are
                            alike

and every other tensor of the network as it is. What each layer's bits are, how the activations that it reads are
rounded, and by which rule filters were clipped, if not by the published one, stands in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from secateur.errors import CheckpointError, ConfigError
from secateur.files import replacing
from secateur.quantization.filters import as_weight, filters_of
from secateur.quantization.network import Thresholds, quantize_network
from secateur.quantization.packing import pack, packed_bytes, unpack
from secateur.quantization.plan import BitPlan
from secateur.quantization.quantizer import LEAST, MOST, Quantized, ThresholdRule, dequantize
from secateur.quantization.ranges import ActivationRange
from secateur.weights import check_fit, read_safetensors, tensors_of

FORMAT = "secateur-quantized-1"


def save_quantized(model: nn.Module, plan: BitPlan, path: str | Path, thresholds: Thresholds | None = None) -> int:
    """Write the network with rounded weights to a file, and return its size in bytes.

    Args:
        model: unchanged.
        plan, thresholds: see `quantize_network`.
        path: written under a temporary name first.

    Raises: as `quantize_network`.

    Example:
        >>> import tempfile
        >>> from secateur.quantization import uniform_bits
        >>> net = nn.Sequential(nn.Linear(64, 64))
        >>> plan = uniform_bits(net, 2, ends=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = save_quantized(net, plan, Path(folder) / "net.safetensors")
        >>> size == quantized_bytes(net, plan), size < 64 * 64
        (True, True)
    """
    _, codes = quantize_network(model, plan, thresholds)
    data = save(*_contents(model, plan, {name: _packed(each) for name, each in codes.items()}))
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(data)
    return len(data)


def quantized_bytes(model: nn.Module, plan: BitPlan) -> int:
    """Return the size of the file that `save_quantized` writes of `model` by `plan`, to the byte.

    Raises: as `BitPlan.check`.

    Example:
        >>> from secateur.quantization import uniform_bits
        >>> net = nn.Sequential(nn.Linear(64, 64))
        >>> small, large = (quantized_bytes(net, uniform_bits(net, bits, ends=None)) for bits in (4, 8))
        >>> large - small  # half a byte for each of 4096 weights
        2048

    Cost: memory and time of writing zeros of that size.
    """
    plan.check(model)
    parts = {}
    for name, bits in plan.bits.items():
        size, levels = filters_of(model.get_submodule(name))[0].numel(), _levels(bits)
        counts = {f"codes.{b}": packed_bytes(int((bits == b).sum()) * size, b) for b in levels}
        if len(levels) > 1:
            counts["levels"] = packed_bytes(len(bits), _map_bits(levels))
        parts[name] = {part: torch.zeros(count, dtype=torch.uint8) for part, count in counts.items()}
        parts[name]["scales"] = torch.zeros(len(bits))
    return len(save(*_contents(model, plan, parts)))


def load_quantized(model: nn.Module, path: str | Path) -> BitPlan:
    """Fill a network in place with what `save_quantized` wrote, weights in float32, and return the plan.

    Activations stay as they are: `round_inputs(model, plan.activations)` rounds them where the file says so.

    Args:
        model: of the same structure; unchanged after an error.

    Raises:
        CheckpointError: the file cannot be read, is cut short, is of another format or network, or holds scales that
            are below zero or not finite.

    Example:
        >>> import tempfile
        >>> from secateur.quantization import quantize_network, uniform_bits
        >>> net, other = (nn.Sequential(nn.Linear(4, 3)) for _ in range(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "net.safetensors"
        ...     size = save_quantized(net, uniform_bits(net, 5), path)
        ...     plan = load_quantized(other, path)
        >>> torch.equal(other[0].weight, quantize_network(net, plan)[0][0].weight)
        True
    """
    tensors, metadata = read_safetensors(Path(path))
    layers, bits = _layers(metadata, Path(path)), dict[str, Tensor]()
    activations, rule = _activations(metadata, layers, Path(path)), metadata.get("thresholds", "published")
    for name, levels in layers.items():
        try:
            module = model.get_submodule(name)
            weight = filters_of(module)
            quantized = _unpacked(tensors, name, levels, weight.shape)
        except (AttributeError, KeyError, ValueError, IndexError) as error:
            raise CheckpointError(f"{path}: the layer {name!r} does not fit the network: {error}") from error
        bits[name] = quantized.bits
        weight = as_weight(module, dequantize(quantized)).contiguous()
        tensors |= dict.fromkeys(_weights_of(model, name), weight)
    own = tensors_of(model)
    check_fit(tensors, own, {name: list(tensor.shape) for name, tensor in own.items()}, source=str(path))
    try:
        plan = BitPlan(bits, {"file": Path(path).name}, activations, cast(ThresholdRule, rule))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    model.load_state_dict(tensors)
    return plan


def _contents(
    model: nn.Module, plan: BitPlan, parts: Mapping[str, Mapping[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what the file holds: tensors, and metadata."""
    replaced = {own for name in plan.bits for own in _weights_of(model, name)}
    others = {name: tensor for name, tensor in tensors_of(model).items() if name not in replaced}
    tensors = {name: tensor.cpu().clone().contiguous() for name, tensor in others.items()}
    for name, own in parts.items():
        tensors |= {f"{_weight_in(name)}.{part}": tensor for part, tensor in own.items()}
    layers = {name: _levels(bits) for name, bits in plan.bits.items()}
    ranges = {name: [to.bits, to.threshold, to.signed] for name, to in plan.activations.items()}
    about = {"format": FORMAT, "bits": json.dumps(layers)}
    about |= {"activations": json.dumps(ranges)} if ranges else {}
    about |= {} if plan.thresholds == "published" else {"thresholds": plan.thresholds}
    return tensors, about


def _weights_of(model: nn.Module, name: str) -> list[str]:
    """Return the name of a layer's weight, and its other names, where one module stands in several places."""
    module = model.get_submodule(name)
    return [_weight_in(own) for own, other in model.named_modules(remove_duplicate=False) if other is module]


def _weight_in(name: str) -> str:
    """Return the name of a layer's weight; a network that is itself one layer has the empty name."""
    return f"{name}.weight" if name else "weight"


def _levels(bits: Tensor) -> list[int]:
    return sorted(set(bits.tolist()), reverse=True)


def _map_bits(levels: list[int]) -> int:
    return (len(levels) - 1).bit_length()


def _packed(quantized: Quantized) -> dict[str, Tensor]:
    """Return the tensors of one layer."""
    levels = _levels(quantized.bits)
    rows = quantized.codes.cpu().flatten(1)
    parts = {f"codes.{b}": pack(rows[quantized.bits.cpu() == b].flatten(), b) for b in levels}
    if len(levels) > 1:
        places = torch.tensor([levels.index(b) for b in quantized.bits.tolist()])
        parts["levels"] = pack(places, _map_bits(levels))
    return parts | {"scales": quantized.scales.cpu()}


def _unpacked(tensors: dict[str, Tensor], name: str, levels: list[int], shape: torch.Size) -> Quantized:
    """Take the tensors of one layer out of those of the file, and return its codes."""
    C, size = shape[0], shape[1:].numel()

    def take(part: str) -> Tensor:
        return tensors.pop(f"{_weight_in(name)}.{part}")

    places = torch.zeros(C, dtype=torch.int64)
    if len(levels) > 1:
        places = unpack(take("levels"), _map_bits(levels), C, signed=False).long()
    bits = torch.tensor(levels)[places]
    codes = torch.zeros(C, size, dtype=torch.int32)
    for b in levels:
        own = bits == b
        codes[own] = unpack(take(f"codes.{b}"), b, int(own.sum()) * size).view(-1, size)
    scales = take("scales")
    if scales.shape != (C,):
        raise ValueError(f"it has {tuple(scales.shape)} scales for {C} filters")
    if scales.dtype != torch.float32 or not bool(((scales >= 0) & torch.isfinite(scales)).all()):
        raise ValueError("its scales must be finite numbers in float32, none below zero")
    return Quantized(codes.view(shape), scales, bits)


def _layers(metadata: Mapping[str, str], path: Path) -> dict[str, list[int]]:
    """Return layer -> its bits, falling."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no quantized network of the format {FORMAT}")
    try:
        layers = {str(name): [int(b) for b in levels] for name, levels in json.loads(metadata["bits"]).items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its bits cannot be read: {error}") from error
    for name, levels in layers.items():
        if not levels or levels != sorted(set(levels), reverse=True) or not LEAST <= levels[-1] <= levels[0] <= MOST:
            raise CheckpointError(f"{path}: {levels} are no bits of {name!r}; they must fall, in {LEAST}..{MOST}")
    return layers


def _activations(metadata: Mapping[str, str], layers: Mapping[str, object], path: Path) -> dict[str, ActivationRange]:
    """Return how activations are rounded; empty where the file says nothing of them."""
    try:
        found = {}
        for name, (bits, threshold, signed) in json.loads(metadata.get("activations", "{}")).items():
            found[name] = ActivationRange(int(bits), float(threshold), bool(signed))
            if name not in layers:
                raise ValueError(f"{name!r} has no bits")
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its ranges of activations cannot be read: {error}") from error
    return found
