"""Where the error of a layer is measured, and what its outputs pass until there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.addresses import address
from secateur.errors import ConfigError
from secateur.feature_maps.norms import norms_reading
from secateur.feature_maps.operations import Kind, kind_of
from secateur.modes import evaluating, own_copy, reading
from secateur.regression.replay import instead

At = Literal["sum", "layer"]
DEAD = 1e-6  # a gain so far below a layer's largest is none
LEFT_OUT = "no forward pass calls it as a layer, or a forward hook changes what it gives"
_CARRIERS = (Kind.BATCH_NORM, Kind.COPY, Kind.VIEW, Kind.PERMUTATION, Kind.DROPOUT)


@dataclass(frozen=True)
class Target:
    """Where the error of one layer is measured.

    Attributes:
        at: "layer", on its own output y; or "sum", on z = gain * y + rest, behind batch norm and residual sum.
        norm: the batch norm that reads y, and nothing else does; None where there is no such norm.
        calls: how often the layer runs in one forward pass.
    """

    at: At
    norm: _BatchNorm | None
    calls: int = 1

    @property
    def gain(self) -> Tensor | None:
        """(C,), float64: how much z moves with y."""
        if self.norm is None or self.norm.running_var is None:
            return None
        scale = torch.rsqrt(self.norm.running_var.double() + self.norm.eps)
        return scale.detach() if self.norm.weight is None else (self.norm.weight * scale).detach()

    def error(self, z: Tensor, wanted: Tensor) -> Tensor:
        """Return how much y must change, (n, C), float64, for z (n, C) to become what is wanted.

        Formula: (wanted - z) / gain, and 0 where the gain is 0: such a channel cannot change anything.
        """
        missing = wanted.double() - z.double()
        gain = self.gain if self.at == "sum" else None
        if gain is None:
            return missing
        live = gain.abs() > DEAD * gain.abs().max()
        return torch.where(live, missing / gain, 0.0)

    def can_shift(self, layer: nn.Module) -> bool:
        """Return whether a constant can be added to y: to the bias, or to what the batch norm takes away."""
        return layer.bias is not None or (self.norm is not None and self.norm.running_mean is not None)

    def shift(self, layer: nn.Module, by: Tensor) -> None:
        """Add a constant (C,) to y, in place; see `can_shift`."""
        with torch.no_grad():
            if isinstance(layer.bias, Tensor):
                layer.bias.add_(by)
            elif self.norm is not None and self.norm.running_mean is not None:
                self.norm.running_mean.sub_(by)


def targets_of(network: nn.Module, example: Tensor, layers: Iterable[str], *, at: At = "sum") -> dict[str, Target]:
    """Return where the error of each layer that runs is measured, in the order in which the layers run.

    Args:
        network: runs on `example`; left as it was.
        example: a small batch.
        layers: names of convolutions and linear layers; left out are those that never run, and those whose output a
            forward hook changes: what the network reads is no longer the product that could be solved for.
        at: "sum", or "layer" for each layer's own output. A layer that runs several times is measured on its own.

    Raises:
        ConfigError: unknown `at`.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
        >>> targets = targets_of(network, torch.zeros(1, 1, 2, 2), ["0", "3"])
        >>> targets["0"].norm is network[1], targets["3"].norm
        (True, None)
    """
    if at not in get_args(At):
        raise ConfigError(f"unknown target {at!r}; allowed: {', '.join(get_args(At))}")
    wanted = {name: network.get_submodule(name) for name in layers}
    calls, norms, passed = _readers(network, example, wanted)
    return {
        name: Target(
            at=at if count == 1 and passed[name] == (norms[name] is not None) else "layer",
            norm=norms[name] if count == 1 else None,
            calls=count,
        )
        for name, count in calls.items()
    }


def _readers(
    network: nn.Module, example: Tensor, layers: Mapping[str, nn.Module]
) -> tuple[dict[str, int], dict[str, _BatchNorm | None], dict[str, int]]:
    """Return how often each layer runs, in order, the batch norm that is its own, and how many its output passes.

    Layers whose output a forward hook replaces, or changes in place, are not counted.

    A batch norm is a layer's own if it reads the layer's very output, nothing else reads that, and it reads nothing
    else; and if it has statistics, so that it is affine.
    """
    calls: dict[str, int] = {}
    made: dict[str, tuple[Tensor, int]] = {}
    changed: set[str] = set()
    runs: Counter[nn.Module] = Counter()
    reads = _Reads()

    def make(name: str) -> Callable[[Callable[[], Tensor]], Tensor]:
        def forward(compute: Callable[[], Tensor]) -> Tensor:
            output = compute()
            made[name] = output, output._version
            return output

        return forward

    def leave(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            own, version = made.pop(name)
            if output is not own or output._version != version:
                changed.add(name)
            calls[name] = calls.get(name, 0) + 1
            reads.watch(name, output)

        return hook

    with ExitStack() as stack:
        for name, module in layers.items():
            stack.enter_context(instead(module, make(name)))
            stack.callback(module.register_forward_hook(leave(name)).remove)
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                stack.callback(module.register_forward_pre_hook(lambda norm, _: runs.update([norm])).remove)
        found = stack.enter_context(norms_reading(network, layers))
        stack.enter_context(evaluating(network))
        stack.enter_context(torch.no_grad())
        stack.enter_context(reads)
        with reading(network, example):
            network(own_copy(network, example))

    def own(name: str) -> _BatchNorm | None:
        norm = found[name][0] if found[name] else None
        alone = norm is not None and reads.count[name] == 1 == runs[norm]
        return norm if alone and norm is not None and norm.running_var is not None else None

    return {n: count for n, count in calls.items() if n not in changed}, {n: own(n) for n in calls}, reads.norms


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves the base untyped
    """Count how many operations read each watched tensor, and how many batch norms what was in it passes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.count: dict[str, int] = {}
        self.norms: dict[str, int] = {}
        self._watched: dict[int, str] = {}
        self._behind: dict[int, str] = {}
        self._held: list[Tensor] = []  # so that no address is used twice

    def watch(self, name: str, tensor: Tensor) -> None:
        self.count[name] = self.norms[name] = 0
        self._watched[address(tensor)] = self._behind[address(tensor)] = name
        self._held.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = kind_of(func)
        for argument in torch.utils._pytree.tree_leaves((args, kwargs)):
            name = self._watched.get(address(argument)) if isinstance(argument, Tensor) else None
            if name is not None and kind is not Kind.LOOK:
                self.count[name] += 1
        result = func(*args, **(kwargs or {}))
        name = self._behind.get(address(args[0])) if args else None
        if name is not None and kind in _CARRIERS:
            self.norms[name] += kind is Kind.BATCH_NORM
            output = result[0] if isinstance(result, (tuple, list)) else result
            self._behind[address(output)] = name
            self._held.append(output)
        elif name is not None and func._schema.is_mutable:
            del self._behind[address(args[0])]
        return result
