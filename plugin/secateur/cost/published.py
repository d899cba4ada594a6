"""The papers' own accounting: what their tables call FLOPs.

Figures counted differently cannot be compared: the same ResNet-56 has 125.49 M by one count, 126.55 M by another and
250.97 M by a third. Each count here is a cost model like any other,
a function of the widths that every search takes as its budget. Which tables each reproduces:

* `flops2_cost`: [Luo2020]_ (ResNet-50 8.18 G, VGG-16 30.94 G).
* `hrank_cost`, `hrank_parameters`: every row of [Lin2020]_ whose rates are published, except that of VGG-16-BN.
* `thop_cost`: the dense networks of [Lin2022]_ (ResNet-56 126.56 M, ResNet-110 254.99 M, VGG-16 314.04 M, GoogLeNet
  1529.43 M, ResNet-50 4113.56 M).
* `secateur.cost.MacsCost`, which is what the shrunken network really computes: [Hou2020]_, and the dense networks of
  [Lin2020]_ (ResNet-56 125.49 M, ResNet-110 252.89 M, ResNet-50 4.09 G).

.. [Hou2020] Z. Hou, S.-Y. Kung. A Feature-map Discriminant Perspective for Pruning Deep Neural Networks.
   arXiv:2005.13796, 2020.
.. [Lin2020] M. Lin et al. HRank: Filter Pruning using High-Rank Feature Map. CVPR 2020.
.. [Lin2022] M. Lin et al. Pruning networks with cross-layer ranking and k-reciprocal nearest filters.
   arXiv:2202.07190, 2022.
.. [Luo2020] J.-H. Luo, J. Wu. AutoPruner: An end-to-end trainable filter pruning method for efficient deep model
   inference. Pattern Recognition 107, 2020.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from secateur.cost.layers import LayerRecord, describe_layer, record_layers, record_norms
from secateur.cost.terms import (
    CARRIED,
    WRITTEN,
    Count,
    Groups,
    Term,
    TermCost,
    check_layers,
    layer_counts,
    mac_terms,
    owned_positions,
)
from secateur.errors import ConfigError
from secateur.records import ChannelGroup, Member


def flops2_cost(model: nn.Module, example_inputs: Any, groups: Groups) -> TermCost:
    """Return two operations for each MAC of the shrunken network, a multiplication and an addition.

    Args:
        model, example_inputs, groups: as in `secateur.cost.MacsCost`.

    Raises, Cost: as `secateur.cost.MacsCost`.

    Example:
        >>> import torch
        >>> flops2_cost(nn.Linear(3, 2), torch.zeros(1, 3), {})({})
        12.0
    """
    check_layers(groups, model)
    terms = mac_terms(record_layers(model, example_inputs), groups)
    return TermCost("flops2", "operations", groups, [term.times(2) for term in terms])


def thop_cost(model: nn.Module, example_inputs: Any, groups: Groups) -> TermCost:
    """Return what the tool thop counted in 2020 in the shrunken network: MACs, biases and batch norm.

    Formula, for P positions, I inputs, O outputs, G groups and a kernel of K elements:

        convolution  P * O * (K * I / G + [bias])        linear  P * O * (2 * I - 1)        batch norm  2 * P * O

    Args:
        model, example_inputs, groups: as in `secateur.cost.MacsCost`.

    Raises: as `secateur.cost.MacsCost`.

    Deviations: a pool that is a module, of a window of K pixels, counts (K + 1) * O in thop, and nothing here, since
    no channel group says whose channels a pool passes on: 4,160 of 126,555,446 operations in ResNet-56. thop finds
    nothing in functional calls. Its later versions count otherwise.

    Cost: two forward passes; then time proportional to the number of layers for each call.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        >>> thop_cost(model, torch.zeros(1, 3, 10, 10), {})({})
        4800.0
    """
    check_layers(groups, model)
    layers = record_layers(model, example_inputs)
    terms = mac_terms(layers, groups)
    for record in layers.values():
        counts = layer_counts(record, groups)
        if record.kind == "linear":
            terms += [Term(record.positions, counts), Term(-record.positions, counts[-1:])]
        elif _has_bias(model, record):
            terms.append(Term(record.positions, counts[-1:]))
    for name, (channels, positions) in record_norms(model, example_inputs).items():
        owned = owned_positions(name, groups, roles=CARRIED, total=channels)
        terms.append(Term(2 * positions, (Count.of(channels, owned),)))
    return TermCost("thop", "operations", groups, terms)


def hrank_cost(
    model: nn.Module, example_inputs: Any, groups: Groups | None = None, *, narrowed: Collection[str] = ()
) -> TermCost:
    """Return the MACs of the layers' kept outputs, each computed from all of the dense layer's inputs.

    Formula: P * K * I / G * O for a convolution, P * (I + [bias]) * O for a linear layer, with O its kept and I its
    dense channels: what is removed shortens the layer that made it, not the layers that read it. Channels that a
    group only masks, so that they stay as zeros, count as gone. At the rates published for VGG-16-BN 116.63 M are
    counted and 43.23 M are left in the network; at those for ResNet-56, whose stream is only masked, 62.72 M are
    counted and 65.07 M are left.

    Args:
        model: the dense network; one forward pass is run and nothing is changed.
        example_inputs: a tensor (N, ...), a tuple of positional or a mapping of keyword arguments.
        groups: the channel groups by name; None lets each convolution and linear layer keep its own number of outputs,
            by its name, as [Lin2020]_ does: layers that a shortcut sums together need not agree.
        narrowed: names of layers that do lose inputs. [Lin2020]_ makes an exception of DenseNet's transitions.

    Raises:
        ConfigError: a name in `narrowed` is no convolution or linear layer that runs.
        NetworkError, PlanError: as `secateur.cost.MacsCost`.

    Cost: one forward pass; then time proportional to the number of layers for each call.

    Deviations: the published figure for the dense VGG-16-BN, 313.73 M, counts its two linear layers twice; 313.46 M
    counts them once.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
        >>> cost = hrank_cost(model, torch.zeros(1, 3, 10, 10))
        >>> cost({}), cost({"0": 1})
        (5600.0, 3500.0)
    """
    layers = record_layers(model, example_inputs)
    terms, own = _output_terms(model, layers, groups, narrowed, biases=False)
    return TermCost("hrank", "MACs", own, terms)


def hrank_parameters(model: nn.Module, groups: Groups | None = None, *, narrowed: Collection[str] = ()) -> TermCost:
    """Return the parameters of convolutions and linear layers by the rule of `hrank_cost`; batch norm counts nothing.

    Formula: (K * I / G + [bias]) * O, with O the kept and I the dense channels.

    Args:
        model, groups, narrowed: as in `hrank_cost`.

    Raises: as `hrank_cost`.

    Example:
        >>> cost = hrank_parameters(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)))
        >>> cost({}), cost({"0": 1})
        (68.0, 40.0)
    """
    described = {name: describe_layer(name, module) for name, module in model.named_modules()}
    once = {name: replace(record, positions=1.0) for name, record in described.items() if record is not None}
    terms, own = _output_terms(model, once, groups, narrowed, biases=True)
    return TermCost("hrank_parameters", "parameters", own, terms)


def _output_terms(
    model: nn.Module,
    layers: Mapping[str, LayerRecord],
    groups: Groups | None,
    narrowed: Collection[str],
    *,
    biases: bool,
) -> tuple[list[Term], Groups]:
    """Return what the kept outputs cost in the layers, and the groups that it is a function of.

    Each layer's weight counts as often as it is applied; biases of convolutions only where asked for.
    """
    own = _apart(layers) if groups is None else groups
    check_layers(own, model)
    if unknown := [name for name in narrowed if name not in layers]:
        raise ConfigError(f"{', '.join(unknown)}: no such convolution or linear layer; there are {', '.join(layers)}")
    terms = []
    for name, record in layers.items():
        *inputs, outputs = layer_counts(record, own, produced=WRITTEN)
        applied = record.positions * record.kernel
        if name in narrowed or record.depthwise:
            terms.append(Term(applied, (*inputs, outputs), record.blocks))
        else:
            terms.append(Term(applied * record.inputs, (outputs,), record.blocks))
        if (biases or record.kind == "linear") and _has_bias(model, record):
            terms.append(Term(record.positions, (outputs,)))
    return terms, own


def _has_bias(model: nn.Module, record: LayerRecord) -> bool:
    return model.get_submodule(record.name).bias is not None


def _apart(layers: Mapping[str, LayerRecord]) -> Groups:
    """Return a group for the outputs of each layer, which nothing else shares."""
    outputs = {name: tuple((c,) for c in range(record.outputs)) for name, record in layers.items()}
    return {name: ChannelGroup(name, len(own), (Member(name, "producer", own),)) for name, own in outputs.items()}
