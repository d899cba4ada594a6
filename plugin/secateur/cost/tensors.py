"""How many elements of one stored tensor stay, as a function of the widths."""

from __future__ import annotations

from torch import Tensor, nn

from secateur.cost.layers import describe_layer
from secateur.cost.terms import CARRIED, Count, Groups, Term, layer_counts, owned_positions


def tensor_term(model: nn.Module, name: str, tensor: Tensor, groups: Groups) -> Term:
    """Return the number of elements that `tensor`, a parameter or a buffer of `model`, keeps.

    Formula: K * I * O / G for the weight of a convolution or linear layer (K * O where depthwise), O for its bias; a
    tensor of a layer that channels pass through (batch norm with its running statistics, PReLU with one slope a
    channel), or that stands alone, shrinks in proportion to the positions that stay, and one of an attention of E
    channels along each side that is a multiple of E: (3E, E) becomes 3 E'^2; every other tensor (a batch norm's count
    of batches) stays whole.

    Args:
        name: as `named_parameters` or `state_dict` call it. Groups know a module that has several names by the first.

    Raises:
        NetworkError: the groups are those of another network.

    Example:
        >>> norm = nn.BatchNorm2d(8)
        >>> tensor_term(norm, "running_mean", norm.running_mean, {}).value({})
        8.0
    """
    path, dot, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    layer = next(first for first, each in model.named_modules() if each is module)
    if (channels := _attended(model, layer, groups)) is not None:
        sides = sum(size % channels.total == 0 for size in tensor.shape)
        return Term(tensor.numel() // channels.total**sides, (channels,) * sides)
    record = describe_layer(layer, module)
    if record is not None and attribute == "bias":
        return Term(1, layer_counts(record, groups)[-1:])
    if record is not None and tensor.ndim > 1:
        return Term(record.kernel, layer_counts(record, groups), record.blocks)
    count = _lone_count(f"{layer}{dot}{attribute}", tensor, groups) or _carried_count(layer, tensor, groups)
    if count is None:
        return Term(tensor.numel())
    return Term(tensor.numel() / count.total, (count,))


def _attended(model: nn.Module, layer: str, groups: Groups) -> Count | None:
    """Return how many channels stay of the attention that a layer is, or is the output projection of."""
    for path in (layer, layer.rpartition(".")[0]):
        attention = model.get_submodule(path)
        if isinstance(attention, nn.MultiheadAttention):
            width = attention.embed_dim
            return Count.of(width, owned_positions(path, groups, roles=CARRIED, total=width))
    return None


def _lone_count(name: str, tensor: Tensor, groups: Groups) -> Count | None:
    axes = {m.axis for g in groups.values() for m in g.members if m.layer == name and m.axis is not None}
    if len(axes) != 1:
        return None
    axis = axes.pop()
    total = tensor.shape[axis]
    return Count.of(total, owned_positions(name, groups, roles=CARRIED, total=total, axis=axis))


def _carried_count(layer: str, tensor: Tensor, groups: Groups) -> Count | None:
    if tensor.ndim == 0 or tensor.shape[0] == 1:  # one slope for all channels stays
        return None
    owned = owned_positions(layer, groups, roles=CARRIED, total=tensor.shape[0])
    return Count.of(tensor.shape[0], owned) if owned else None
