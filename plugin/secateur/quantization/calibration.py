"""How far the inputs of the layers reach, found on images: the ranges of activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from secateur.batches import Batches, rebatch
from secateur.counts import check_counts
from secateur.errors import DataError
from secateur.hooks import first_input
from secateur.modes import device_of, evaluating, own_copy, reading
from secateur.quantization.network import quantize_network
from secateur.quantization.plan import BitPlan
from secateur.quantization.quantizer import BINS, BY_MAXIMUM, check_bits, least_divergence
from secateur.quantization.ranges import ActivationRange

SAMPLES = 256


def calibrated(model: nn.Module, plan: BitPlan, batches: Batches, *, bits: int = 8, samples: int = SAMPLES) -> BitPlan:
    """Return the plan with a range for what each of its layers reads, found on images.

    Formula: with x all inputs of a layer over the images, in the network with rounded weights: t = max |x| from 5 bits
    on; below, the threshold of least divergence of the histogram of |x| without its zeros, as for weights
    (`secateur.quantization.kl_thresholds`), with 2^b levels, or 2^(b - 1) where some x is below zero. The rule
    of the plan is for weights alone.

    Args:
        model: unchanged.
        plan: bits of the weights.
        batches: `(inputs, labels)` or inputs alone, (N, C, H, W); labels are not read.
        bits: of every activation, 2..16.
        samples: images to read, all held in memory.

    Raises:
        ConfigError: bits outside 2..16, samples below 1, or the plan is of another network.
        NetworkError: as `BitPlan.check`; or the network takes other than one input, or another type of number.
        DataError: no images, or a layer reads what is not finite.

    Cost: one forward pass of the images, below 5 bits two.

    Example:
        >>> from secateur.quantization import uniform_bits
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> plan = calibrated(net, uniform_bits(net, 8), [torch.tensor([[1.0, -3.0]])])
        >>> plan.activations["0"]
        ActivationRange(bits=8, threshold=3.0, signed=True)

    Deviations: all layers have as many bits. Layers that read nothing but zeros, or were not run, keep float32, and so
    do transposed convolutions in groups, whose weights an ONNX file keeps in float32.
    """
    check_bits(torch.tensor([bits]))
    check_counts(samples=samples)
    rounded, _ = quantize_network(model, replace(plan, activations={}))
    device = device_of(rounded)
    images = [inputs.to(device) for inputs, _ in rebatch(batches, None, samples=samples)]
    if not images:
        raise DataError("there are no images to find the ranges of activations on")
    modules = {name: rounded.get_submodule(name) for name in plan.bits}
    names = [name for name, m in modules.items() if not (isinstance(m, _ConvTransposeNd) and m.groups > 1)]
    ends: dict[str, Tensor] = {}

    def widen(name: str, inputs: Tensor) -> None:
        if not bool(torch.isfinite(inputs).all()):
            raise DataError(f"the layer {name!r} reads NaN or infinite values, which have no range")
        low, high = ends.get(name, inputs.new_zeros(2)).unbind()
        ends[name] = torch.stack([torch.minimum(low, inputs.min()), torch.maximum(high, inputs.max())])

    _watched(rounded, names, images, widen)
    largest = {name: ends[name].abs().amax() for name in names if name in ends and bool(ends[name].any())}
    thresholds, signed = dict(largest), {name: bool(ends[name][0] < 0) for name in largest}
    if bits < BY_MAXIMUM:
        counts = {name: torch.zeros(BINS, dtype=torch.float64, device=device) for name in largest}

        def count(name: str, inputs: Tensor) -> None:
            sizes = inputs[inputs != 0].abs().float()
            place = (sizes / largest[name] * BINS).long().clamp(max=BINS - 1)
            counts[name] += torch.bincount(place, minlength=BINS)

        _watched(rounded, list(largest), images, count)
        for name, own in counts.items():
            levels = 2 ** (bits - 1) if signed[name] else 2**bits
            thresholds[name] = least_divergence(own[None], largest[name][None], levels)[0]
    found = {name: ActivationRange(bits, float(t), signed[name]) for name, t in thresholds.items()}
    return replace(plan, activations=found)


def _watched(model: nn.Module, names: list[str], images: list[Tensor], watch: Callable[[str, Tensor], None]) -> None:
    """Run the network, and show what each of the layers reads."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda _, args, kwargs: watch(name, first_input(args, kwargs))

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True) for name in names]
    try:
        with evaluating(model), torch.no_grad():
            for batch in images:
                with reading(model, batch):
                    model(own_copy(model, batch))
    finally:
        for handle in handles:
            handle.remove()
