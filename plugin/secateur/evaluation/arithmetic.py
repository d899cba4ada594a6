"""The same outputs with less work: batch norm folded into convolutions, and channels last in memory."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from secateur.modes import own_copy
from secateur.regression import targets_of
from secateur.regression.layer_rows import reason_against
from secateur.submodules import put_instead

Pair = tuple[str, str]


def foldable(network: nn.Module, example: Tensor, *, but: Collection[str] = ()) -> list[Pair]:
    """Return the convolutions that only a batch norm reads, each with it, by name; `but` names layers to leave.

    Left are pairs that do more than a product and an affine map: a forward of their own (weight standardisation, a
    batch norm that also activates), weights that are computed at each call, or hooks.

    Cost: a forward pass of the example.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)).eval()
        >>> foldable(network, torch.zeros(1, 1, 2, 2))
        [('0', '1')]
    """
    convolutions = [name for name, m in network.named_modules() if isinstance(m, _ConvNd) and _is_plain(m)]
    names = {module: name for name, module in network.named_modules()}
    targets = targets_of(network, example, convolutions, at="layer")
    norms = {name: target.norm for name, target in targets.items() if target.norm is not None}
    pairs = [(name, names[norm]) for name, norm in norms.items() if _is_plain(norm)]
    return [pair for pair in pairs if not {*pair} & {*but}]


def _is_plain(module: _ConvNd | _BatchNorm) -> bool:
    """Return whether a layer computes what its kind computes, from its own parameters, and nothing watches it."""
    watched = bool(module._forward_hooks or module._forward_pre_hooks)
    if isinstance(module, _BatchNorm):
        return type(module).forward is _BatchNorm.forward and not watched
    return not reason_against(module) and not watched


def fold(network: nn.Module, pairs: Iterable[Pair]) -> None:
    """Take batch norms into their convolutions, in place; an identity is left where each was.

    Formula: W' = gain W and b' = gain (b - mean) + beta, gain = gamma / sqrt(var + eps), for each output channel.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).eval()
        >>> images = torch.ones(1, 1, 2, 2)
        >>> before = network(images)
        >>> fold(network, [("0", "1")])
        >>> torch.allclose(network(images), before), network[1]
        (True, Identity())
    """
    for name, path in pairs:
        layer, norm = network.get_submodule(name), network.get_submodule(path)
        if not isinstance(layer, _ConvNd) or not isinstance(norm, _BatchNorm):
            raise TypeError(f"{name!r} and {path!r} are no convolution and its batch norm")
        mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        layer.weight, layer.bias = fuse_conv_bn_weights(
            layer.weight, layer.bias, mean, var, norm.eps, norm.weight, norm.bias
        )
        put_instead(network, norm, nn.Identity())


def fastest_format(network: nn.Module, images: Tensor) -> torch.memory_format:
    """Return channels last for images (N, C, H, W) on a processor, if the network takes them so.

    Convolutions of few channels are then up to half again as fast. The outputs differ by rounding.

    Cost: a forward pass of the images.

    Example:
        >>> fastest_format(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)), fastest_format(nn.ReLU(), torch.zeros(1, 2))
        (torch.channels_last, torch.contiguous_format)
    """
    if images.ndim != 4 or images.device.type != "cpu":
        return torch.contiguous_format
    try:
        with torch.inference_mode():
            copied = copy.deepcopy(network).to(memory_format=torch.channels_last)
            copied(own_copy(copied, images).contiguous(memory_format=torch.channels_last))
    except RuntimeError:  # such as a view that this layout does not allow
        return torch.contiguous_format
    return torch.channels_last
