"""A convolution or linear layer as one matrix product: the rows that it reads, and its weight as the matrix.

At output position p the layer computes y_p = U_p W + b, where U_p is the row of inputs under its kernel. A layer of G
blocks (groups of a convolution) is G such products side by side: U (G, n, D), W (G, D, O), for n positions, D unknowns
and O outputs of each block. A linear layer is a convolution whose kernel sees everything: D = in_features, G = 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.index_maps import Indices

_FORWARDS = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward, nn.Linear.forward)


class Layout(NamedTuple):
    """The sizes of a layer's matrix: G `blocks` of D `unknowns` and O `outputs`.

    Example:
        >>> Layout(blocks=1, unknowns=9, outputs=4).unknowns
        9
    """

    blocks: int
    unknowns: int
    outputs: int


def reason_against(module: nn.Module) -> str:
    """Return why `module` is no matrix product that could be solved for, or the empty string.

    Example:
        >>> reason_against(nn.Linear(2, 2)), reason_against(nn.ReLU())
        ('', 'a ReLU is neither a convolution nor a linear layer')
    """
    if isinstance(module, _ConvTransposeNd):
        return "the inputs that one output of a transposed convolution reads depend on where it lies"
    if isinstance(module, (_ConvNd, nn.Linear)):
        if type(module).forward not in _FORWARDS:
            return (
                f"a {type(module).__name__} has a forward of its own: it may not be the product of inputs and weights"
            )
        return "" if "weight" in module._parameters else "its weights are computed from others at each call"
    return f"a {type(module).__name__} is neither a convolution nor a linear layer"


def layout_of(module: nn.Module) -> Layout:
    """Return the sizes of the matrix of a layer, `module`.

    Example:
        >>> layout_of(nn.Conv2d(8, 4, 3, groups=2)), layout_of(nn.Linear(5, 3))
        (Layout(blocks=2, unknowns=36, outputs=2), Layout(blocks=1, unknowns=5, outputs=3))
    """
    weight = _weight(module)
    blocks = module.groups if isinstance(module, _ConvNd) else 1
    return Layout(blocks, weight.shape[1:].numel(), len(weight) // blocks)


def weight_rows(module: nn.Module) -> Tensor:
    """Return the weight of a layer, `module`, as a matrix (G, D, O), float64: a copy.

    Column d of a block belongs to its input channel d // K, for a kernel of K positions.

    Example:
        >>> weight_rows(nn.Conv1d(2, 6, 5)).shape
        torch.Size([1, 10, 6])
    """
    blocks, unknowns, outputs = layout_of(module)
    return _weight(module).detach().double().reshape(blocks, outputs, unknowns).mT.clone()


def write_weight(module: nn.Module, weight: Tensor) -> None:
    """Put a matrix `weight` (G, D, O) into a layer, `module`, in place.

    Example:
        >>> layer = nn.Conv2d(4, 4, 3, groups=2)
        >>> write_weight(layer, 2 * weight_rows(layer))
    """
    own = _weight(module)
    with torch.no_grad():
        own.copy_(weight.mT.reshape(own.shape))


def columns_of(module: nn.Module, inputs: Indices) -> list[Indices]:
    """Return for each block of a layer which columns of its rows belong to each channel of a group.

    Args:
        module: the layer.
        inputs: for each channel the inputs of the layer that it owns; see `secateur.records.Member.indices`.

    Example:
        >>> columns_of(nn.Conv1d(4, 4, 2, groups=2), ((0, 2), (1, 3)))
        [((0, 1), (2, 3)), ((0, 1), (2, 3))]
    """
    blocks, unknowns, _ = layout_of(module)
    kernel = _weight(module).shape[2:].numel()
    each = unknowns // kernel
    return [
        tuple(
            tuple((p - first) * kernel + k for p in owned if first <= p < first + each for k in range(kernel))
            for owned in inputs
        )
        for first in range(0, blocks * each, each)
    ]


def positions_of(module: nn.Module, output: Tensor) -> int:
    """Return at how many positions a layer made `output`: images times pixels."""
    return output.numel() // (output.shape[1] if isinstance(module, _ConvNd) else output.shape[-1])


def draw_positions(size: int, share: int, generator: torch.Generator) -> Tensor:
    """Return which of `size` positions are read: all, or `share` of them drawn at random where there are more.

    Example:
        >>> draw_positions(3, 5, torch.Generator())
        tensor([0, 1, 2])
    """
    return torch.arange(size) if size <= share else torch.randint(size, (share,), generator=generator)


def output_rows(module: nn.Module, output: Tensor, positions: Tensor) -> Tensor:
    """Return a layer's output (N, C, H, W) or (N, ..., C) at some of its positions: (n, C).

    Args:
        positions: (n,), image by image and, within one, pixel by pixel.

    Example:
        >>> output_rows(nn.Conv2d(1, 2, 1), torch.arange(8.0).reshape(1, 2, 2, 2), torch.tensor([3]))
        tensor([[3., 7.]])
    """
    if isinstance(module, _ConvNd):
        output = output.movedim(1, -1)
    return output[torch.unravel_index(positions, output.shape[:-1])]


def input_rows(module: nn.Module, inputs: Tensor, output_shape: torch.Size, positions: Tensor) -> Tensor:
    """Return the rows U (G, n, D) that a layer reads at some positions of its output.

    Example:
        >>> layer, inputs = nn.Conv1d(1, 1, 3, padding=1), torch.tensor([[[1.0, 2.0]]])
        >>> input_rows(layer, inputs, torch.Size([1, 1, 2]), torch.tensor([0]))
        tensor([[[0., 1., 2.]]])
    """
    if not isinstance(module, _ConvNd):
        rows = inputs.reshape(-1, inputs.shape[-1])[positions]
        return rows[None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functional.pad(inputs, module._reversed_padding_repeated_twice, mode=mode).movedim(1, -1)
    image, *where = torch.unravel_index(positions, (output_shape[0], *output_shape[2:]))
    dimensions = len(where)
    index = [image.view(-1, *[1] * dimensions)]
    for axis, (place, stride, dilation, size) in enumerate(
        zip(where, module.stride, module.dilation, module.kernel_size, strict=True)
    ):
        seen = place[:, None] * stride + dilation * torch.arange(size, device=place.device)
        index.append(seen.view(-1, *[size if other == axis else 1 for other in range(dimensions)]))
    rows = padded[tuple(index)].movedim(-1, 1)  # (n, C, k, k)
    return rows.reshape(len(rows), module.groups, -1).transpose(0, 1)


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"a {type(module).__name__} has no weight")
    return weight
