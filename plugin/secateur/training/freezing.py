"""Filters that training leaves exactly as they are: HRank's ablation of what high-rank filters need.

Lin et al. freeze the filters with the highest ranks while the pruned network is trained on: of ResNet-56, none, 15 to
20% or 20 to 25% of them, which costs 0.04 and 0.16 points [Lin2020]_.

.. [Lin2020] M. Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from secateur.errors import ConfigError, NetworkError, ScoreError
from secateur.records import PruningPlan


def highest_filters(
    scores: Mapping[str, Tensor], share: float, *, plan: PruningPlan | None = None
) -> dict[str, tuple[int, ...]]:
    """Return the `share` of each layer's filters that have the highest scores, ascending; layers with none are absent.

    Rule: of the K filters that a layer keeps, floor(share * K + 1e-9); among equal scores the higher position, since
    the lower one is pruned first.

    Args:
        scores: layer -> (C,) of the dense network, larger = keep.
        share: in [0, 1].
        plan: what was removed since: only kept filters count, and positions are those in the pruned network.

    Raises:
        ConfigError: a share outside [0, 1].
        ScoreError: a layer has fewer scores than the plan says it has filters.

    Example:
        >>> highest_filters({"conv": torch.tensor([3.0, 9.0, 5.0, 1.0])}, 0.5)
        {'conv': (1, 2)}

    Deviations: the paper gives ranges of the share; here it is one number.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of frozen filters must lie in [0, 1]; found {share!r}")
    places = {} if plan is None else _places(plan)
    found: dict[str, tuple[int, ...]] = {}
    for layer, values in scores.items():
        kept, positions = places.get(layer, (range(len(values)), range(len(values))))
        if kept and kept[-1] >= len(values):
            raise ScoreError(f"layer {layer!r} has {len(values)} scores, and the plan keeps its filter {kept[-1]}")
        order = values.cpu()[list(kept)].argsort(stable=True).tolist()
        count = math.floor(share * len(order) + 1e-9)
        if count:
            found[layer] = tuple(sorted(positions[i] for i in order[len(order) - count :]))
    return found


def _places(plan: PruningPlan) -> dict[str, tuple[Sequence[int], Sequence[int]]]:
    """Return the filters that a layer keeps and where they are afterwards, for each whose outputs the plan decides."""
    places: dict[str, tuple[Sequence[int], Sequence[int]]] = {}
    for group in plan.groups:
        for member in group.members:
            if member.role != "consumer" and member.axis is None:
                kept = member.positions(plan[group.name])
                places[member.layer] = (kept, kept if group.masked else range(len(kept)))
    return places


@contextmanager
def frozen(
    model: nn.Module, filters: Mapping[str, Sequence[int]], optimizer: torch.optim.Optimizer
) -> Iterator[nn.Module]:
    """Within the block, steps of `optimizer` leave these filters, weights and biases, bit for bit as they are.

    Their gradient is zero, so that it takes no part in clipping; after each step their rows are put back, which undoes
    weight decay, and what the optimizer remembers of them (momentum) is zero.

    Args:
        model: holds the layers. A weight that is computed by a parametrization is held by what lies under it, if the
            parametrization keeps filters apart and says so (`filter_by_filter`), as that of `fake_quantized` does.
        filters: layer -> positions of its filters (output channels); see `highest_filters`.
        optimizer: any of torch's, over the parameters of `model`.

    Raises:
        NetworkError: no such layer, one that is neither a linear layer nor a convolution (transposed ones are not
            taken), one whose weight or bias is computed from other tensors in another way, or no such filter.

    Cost: a copy of the frozen rows, which each step writes back.

    Example:
        >>> net = nn.Linear(1, 2)
        >>> before, optimizer = net.weight.detach().clone(), torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
        >>> with frozen(nn.Sequential(net), {"0": [1]}, optimizer):
        ...     net(torch.ones(1, 1)).sum().backward()
        ...     optimizer.step()
        >>> torch.eq(net.weight, before).flatten().tolist()
        [False, True]

    Deviations: the paper does not say what happens to the batch norm behind a frozen filter; here it is trained.
    """
    with ExitStack() as stack:
        for name, positions in filters.items():
            layer = _layer(model, name, positions)
            for parameter in _parameters(layer, name):
                if parameter.requires_grad:
                    rows = torch.tensor(list(positions), dtype=torch.int64, device=parameter.device)
                    handle = parameter.register_hook(_silent(rows))  # type: ignore[no-untyped-call]  # torch leaves it untyped
                    stack.callback(handle.remove)
                    put_back = _put_back(parameter, rows, optimizer)
                    stack.callback(optimizer.register_step_post_hook(put_back).remove)
        yield model


def _layer(model: nn.Module, name: str, positions: Sequence[int]) -> _ConvNd | nn.Linear:
    try:
        layer = model.get_submodule(name)
    except AttributeError as error:
        raise NetworkError(f"the network has no layer {name!r} whose filters could be frozen") from error
    if isinstance(layer, _ConvTransposeNd) or not isinstance(layer, (_ConvNd, nn.Linear)):
        raise NetworkError(
            f"the filters of {name!r} ({type(layer).__name__}) cannot be frozen; "
            "allowed: linear layers and convolutions that are not transposed"
        )
    if not all(0 <= position < len(layer.weight) for position in positions):
        raise NetworkError(f"the layer {name!r} has the filters 0..{len(layer.weight) - 1}; asked for {[*positions]}")
    return layer


def _parameters(layer: _ConvNd | nn.Linear, name: str) -> list[nn.Parameter]:
    """Return what has a row for each filter and decides what the filter is."""
    found: list[nn.Parameter] = []
    for part in ("weight", "bias"):
        tensor: Tensor | None = getattr(layer, part)
        if parametrize.is_parametrized(layer, part):
            steps: Any = getattr(layer.parametrizations, part)
            if all(getattr(step, "filter_by_filter", False) for step in steps):
                tensor = steps.original
        if isinstance(tensor, nn.Parameter):
            found.append(tensor)
        elif tensor is not None:
            raise NetworkError(
                f"the filters of {name!r} cannot be frozen, since its {part} is computed from other tensors; make it a "
                "parameter first"
            )
    return found


def _silent(rows: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient.index_fill(0, rows, 0.0)


def _put_back(parameter: nn.Parameter, rows: Tensor, optimizer: torch.optim.Optimizer) -> Callable[..., None]:
    kept = parameter.detach().index_select(0, rows)

    def hook(*_: object) -> None:
        parameter.detach().index_copy_(0, rows, kept)
        for memory in optimizer.state[parameter].values():
            if isinstance(memory, Tensor) and memory.shape == parameter.shape:
                memory.index_fill_(0, rows, 0.0)

    return hook
