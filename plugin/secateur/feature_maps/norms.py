"""Which batch norm reads the very output of a layer."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.hooks import first_input


@contextmanager
def norms_reading(network: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[Mapping[str, list[_BatchNorm]]]:
    """Yield lists, one for each layer, to which forward passes in the block add the batch norms that read its output.

    A batch norm behind an activation, an addition or a concatenation, in place or not, is not among them. One that runs
    twice on the same output is there twice.

    Args:
        network: what will run.
        layers: those of its modules that are asked about, by any name.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(2))
        >>> with norms_reading(network, {"0": network[0]}) as found:
        ...     _ = network(Tensor([[[[0.0, 1.0]]]]))
        >>> found
        {'0': []}
    """
    found: dict[str, list[_BatchNorm]] = {name: [] for name in layers}
    outputs: dict[str, tuple[weakref.ref[Tensor], int]] = {}

    def leave(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            outputs[name] = weakref.ref(output), output._version  # the version tells of changes in place

        return hook

    def enter(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = first_input(args, kwargs)
        for name, (output, version) in outputs.items():
            tensor = output()
            same = tensor is not None and tensor is inputs and tensor._version == version
            if same and isinstance(norm, _BatchNorm):
                found[name].append(norm)

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))  # in which tensors have no versions
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(leave(name)).remove)
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        yield found
