"""Shortcuts without parameters that change the number of channels, as a module whose channels can be pruned.

The CIFAR ResNets of [He2016]_ bring the residual stream to a wider stage by taking every second pixel and adding zero
channels. Written with a padding, such a shortcut knows only how many zeros go where; once channels of either stage are
gone that is not enough. A `ChannelMap` says it for each channel: copy input channel c, or write zero.

.. [He2016] He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. CVPR 2016, section 4.2, option A.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.errors import NetworkError
from secateur.modes import evaluating, own_copies
from secateur.submodules import put_instead

ZERO = -1


class ChannelMap(nn.Module):
    """Copy or zero: output channel o is input channel `source[o]` at every `stride`-th pixel, or zero.

    Formula: y[n, o, i, j] = x[n, source[o], stride * i, stride * j], and 0 where source[o] is -1.

    Shapes: (N, in_channels, H, W) -> (N, len(source), ceil(H / stride), ceil(W / stride)).

    Args:
        source: for each output channel the input channel, or -1 for zero.
        in_channels: how many input channels there are.
        stride: which pixels are taken.

    Raises:
        NetworkError: a source that is not an input channel or -1.

    Example:
        >>> zero_padded = ChannelMap((-1, 0, 1, -1), in_channels=2, stride=2)
        >>> zero_padded(torch.arange(1.0, 9.0).reshape(1, 2, 2, 2)).flatten().tolist()
        [0.0, 1.0, 5.0, 0.0]
    """

    def __init__(self, source: Sequence[int], *, in_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.source = tuple(source)
        self.in_channels = in_channels
        self.stride = stride
        self.check()

    @classmethod
    def padding(cls, channels: int, width: int, *, stride: int) -> ChannelMap:
        """Return the map that puts half of the new zero channels before the old ones and half behind them.

        Example:
            >>> ChannelMap.padding(2, 4, stride=1).source
            (-1, 0, 1, -1)
        """
        before = (width - channels) // 2
        source = [o - before if 0 <= o - before < channels else ZERO for o in range(width)]
        return cls(source, in_channels=channels, stride=stride)

    def check(self) -> None:
        """Raise NetworkError unless every source is an input channel or -1, and the stride at least 1."""
        wrong = [c for c in self.source if not ZERO <= c < self.in_channels]
        if wrong or self.stride < 1 or not self.source:
            raise NetworkError(
                f"a channel map from {self.in_channels} channels at stride {self.stride} cannot be made of the sources "
                f"{list(self.source[:8])}: allowed are -1 and 0..{self.in_channels - 1}, and a stride of at least 1"
            )

    @property
    def out_channels(self) -> int:
        """How many output channels there are."""
        return len(self.source)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.in_channels:  # else the channel that stands for zero would be a real one
            raise NetworkError(f"a channel map of {self.in_channels} channels was given {x.shape[1]}")
        with_zero = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, 1))
        source = [self.in_channels if c == ZERO else c for c in self.source]
        return with_zero.index_select(1, torch.tensor(source, device=x.device))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


def with_channel_maps(model: nn.Module, example_inputs: Any) -> nn.Module:
    """Return the network with its zero-padded shortcuts as `ChannelMap`s; the network itself if it has none.

    Modules without parameters that are called once, take one tensor and change its number of channels are tried on
    random numbers: those that copy channels and add zero channels are replaced, in a copy of the network that shares
    nothing with it. The copy computes the same, bit for bit. A shortcut that is written into the `forward` of a larger
    module cannot be replaced.

    Args:
        model: a network; left as it is.
        example_inputs: a tensor or a tuple of the network's arguments.

    Cost: one forward pass, and one of each candidate.

    Example:
        >>> class Pad(nn.Module):
        ...     def forward(self, x):
        ...         return functional.pad(x, (0, 0, 0, 0, 1, 1))
        >>> with_channel_maps(nn.Sequential(nn.Conv2d(1, 2, 1), Pad()), torch.zeros(1, 1, 4, 4))[1]
        ChannelMap(2, 4, stride=1)
    """
    given = own_copies(model, example_inputs)
    inputs = given if isinstance(given, (tuple, list)) else (given,)
    shapes = _candidate_shapes(model, inputs)
    maps = {name: found for name, shape in shapes.items() if (found := recognise(model.get_submodule(name), shape))}
    if not maps:
        return model
    changed = copy.deepcopy(model)
    for name, channel_map in maps.items():
        shortcut = changed.get_submodule(name)
        put_instead(changed, shortcut, channel_map.train(shortcut.training))
    return changed


def recognise(module: nn.Module, shape: Sequence[int]) -> ChannelMap | None:
    """Return the channel map that computes what `module` computes on inputs of this shape, or None.

    It is tried on numbers of the type, and on the device, of its buffers.

    Example:
        >>> recognise(nn.ZeroPad3d((0, 0, 0, 0, 2, 0)), (1, 3, 4, 4))
        ChannelMap(3, 5, stride=1)
        >>> recognise(nn.ReLU(), (1, 3, 4, 4)) is None
        True
    """
    random = torch.Generator().manual_seed(0)
    like = next((b for b in module.buffers() if b.is_floating_point()), torch.empty(()))
    first, second = (torch.randn(tuple(shape), generator=random).to(like) for _ in range(2))
    module = copy.deepcopy(module).eval()
    try:
        with torch.no_grad():
            outputs = module(first)
    except (RuntimeError, IndexError, ValueError, TypeError):  # it asks more of its input than a shape
        return None
    stride = -(-first.shape[2] // outputs.shape[2]) if outputs.shape[2] else 1
    pixels = first[0, :, ::stride, ::stride].flatten(1)
    found = outputs[0].flatten(1)
    if pixels.shape[1] != found.shape[1]:
        return None
    same = (found[:, None] == pixels[None]).all(2)
    zero = (found == 0).all(1)
    source = torch.where(zero, ZERO, same.int().argmax(1)).tolist()
    channel_map = ChannelMap(source, in_channels=first.shape[1], stride=stride)
    with torch.no_grad():
        return channel_map if torch.equal(channel_map(second), module(second)) else None


def _candidate_shapes(model: nn.Module, inputs: Sequence[Any]) -> dict[str, torch.Size]:
    """Return the input shapes of the modules without parameters that change the number of channels, and run once."""
    calls: dict[str, list[torch.Size | None]] = {}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            maps = [t for t in (*given, output) if isinstance(t, Tensor) and t.ndim == 4]
            changes = len(given) == 1 and not named and len(maps) == 2 and maps[0].shape[1] != maps[1].shape[1]
            calls.setdefault(name, []).append(maps[0].shape if changes else None)

        return hook

    handles = [
        module.register_forward_hook(watch(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name and not isinstance(module, ChannelMap) and next(module.parameters(), None) is None
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: shapes[0] for name, shapes in calls.items() if len(shapes) == 1 and shapes[0] is not None}
