"""What one forward pass says about each convolution, linear layer and batch norm: kernel, positions, channels.

The pass changes nothing: evaluation mode and gradients are restored, hooks removed, also when it fails.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.errors import NetworkError, SecateurWarning
from secateur.modes import asking_for_gradients, evaluating, own_copies

Kind = Literal["convolution", "transposed", "linear"]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Places = Callable[[Tensor, Tensor], int]


@dataclass(frozen=True)
class LayerRecord:
    """The geometry of one layer and how often its kernel is applied.

    Attributes:
        name: the module's name.
        kind: "convolution", "transposed" or "linear".
        kernel: elements of the kernel for one pair of channels; 1 for a linear layer.
        positions: how often the kernel is applied for one input, over all calls: places of the output (of the input,
            where transposed).
        inputs, outputs, groups: channels of the dense layer.
    """

    name: str
    kind: Kind
    kernel: int
    inputs: int
    outputs: int
    groups: int = 1
    positions: float = 0.0

    @property
    def depthwise(self) -> bool:
        """Whether each input channel has a group of its own, so that groups fall with the channels."""
        return self.groups == self.inputs and self.groups > 1

    @property
    def blocks(self) -> int:
        """Into how many parts the layer's weight falls that do not go with the channels: 1 where depthwise."""
        return 1 if self.depthwise else self.groups

    @property
    def macs(self) -> float:
        """MACs of the dense layer for one input: positions * kernel * inputs * outputs / groups."""
        return self.positions * self.kernel * self.inputs * self.outputs / self.groups


def describe_layer(name: str, module: nn.Module) -> LayerRecord | None:
    """Return the geometry of a convolution or linear layer, not yet run; None for other modules.

    Example:
        >>> describe_layer("stem", nn.Conv2d(3, 8, kernel_size=3)).kernel
        9
    """
    if isinstance(module, nn.Linear):
        return LayerRecord(name, "linear", 1, module.in_features, module.out_features)
    if isinstance(module, CONVOLUTIONS + TRANSPOSED):
        kind: Kind = "transposed" if isinstance(module, TRANSPOSED) else "convolution"
        kernel = math.prod(module.kernel_size)
        return LayerRecord(name, kind, kernel, module.in_channels, module.out_channels, module.groups)
    return None


def record_layers(model: nn.Module, example_inputs: Any) -> dict[str, LayerRecord]:
    """Return a record for each convolution and linear module that runs, by name, from one forward pass.

    Args:
        model: the network; unchanged afterwards.
        example_inputs: a tensor (N, ...), a tuple of positional or a mapping of keyword arguments, copied to where the
            network lies. Positions are counted for one input: divided by the N of the first tensor.

    Raises:
        NetworkError: the network does not run on the example inputs.

    Warns:
        SecateurWarning: part of the network's MACs lies outside its convolution and linear modules (attention,
            recurrent layers, functional convolutions), so that no record holds it.

    Cost: one forward pass.

    Example:
        >>> records = record_layers(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.zeros(2, 3, 10, 10))
        >>> records["0"].positions, records["0"].macs
        (64.0, 13824.0)
    """
    described = {name: record for name, module in model.named_modules() if (record := describe_layer(name, module))}

    def places(name: str) -> Places:
        record = described[name]
        return lambda x, y: x.numel() // record.inputs if record.kind == "transposed" else y.numel() // record.outputs

    positions, total = _watched_pass(model, example_inputs, {name: places(name) for name in described})
    records = {name: replace(described[name], positions=count) for name, count in positions.items() if count}
    _warn_of_the_rest(total, sum(r.macs for r in records.values()))
    if recurrent := [name for name, module in model.named_modules() if isinstance(module, nn.RNNBase)]:
        warnings.warn(  # torch's count may know nothing of them
            f"the MACs of recurrent layers ({', '.join(recurrent)}) are not part of the cost",
            SecateurWarning,
            stacklevel=2,
        )
    return records


def record_norms(model: nn.Module, example_inputs: Any) -> dict[str, tuple[int, float]]:
    """Return the channels of each batch norm that runs and its positions for one input, by name, from one forward pass.

    Args, Raises: as `record_layers`.

    Cost: one forward pass.

    Example:
        >>> record_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), torch.zeros(2, 3, 10, 10))
        {'1': (8, 64.0)}
    """
    channels = {name: module.num_features for name, module in model.named_modules() if isinstance(module, BATCH_NORMS)}

    def places(name: str) -> Places:
        return lambda _, y: y.numel() // channels[name]

    positions, _ = _watched_pass(model, example_inputs, {name: places(name) for name in channels})
    return {name: (channels[name], count) for name, count in positions.items() if count}


def _watched_pass(
    model: nn.Module, example_inputs: Any, watched: Mapping[str, Places]
) -> tuple[dict[str, float], float]:
    """Return what `watched` says of each module's input and output, summed over its calls, and the network's MACs.

    Both for one input: divided by the N of the first tensor.
    """
    args, kwargs = own_copies(model, _arguments(example_inputs))
    tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim > 0]
    if not tensors or len(tensors[0]) == 0:
        raise NetworkError(
            "the example inputs must hold a tensor whose first dimension counts the inputs, at least one"
        )
    places = dict.fromkeys(watched, 0)

    def count(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
            places[name] += watched[name](inputs[0] if inputs else named["input"], output)

        return hook

    handles = []
    try:
        for name in watched:
            handles.append(model.get_submodule(name).register_forward_hook(count(name), with_kwargs=True))
        counter = FlopCounterMode(display=False)  # it fails at a module that is given a view of what asks for gradients
        with torch.no_grad(), evaluating(model), asking_for_gradients(model, False), _attention_in_parts(), counter:
            model(*args, **kwargs)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
        raise NetworkError(f"the network does not run on example inputs of shape {shapes}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    N = len(tensors[0])
    return {name: count / N for name, count in places.items()}, counter.get_total_flops() / 2 / N


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """In the block, attention is computed in operations that torch counts, and not in one of which it knows nothing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _warn_of_the_rest(total: float, recorded: float) -> None:
    if not math.isclose(total, recorded, rel_tol=1e-9):
        warnings.warn(
            f"{recorded:,.0f} MACs lie in convolution and linear modules, but torch counts {total:,.0f} in the whole "
            "network; the rest (attention, functional convolutions) is not part of the cost",
            SecateurWarning,
            stacklevel=3,
        )


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}
