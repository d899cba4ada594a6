"""Accuracy back without gradients or labels: every layer behind a removed channel, solved for anew.

A layer of the pruned network reads less than it did, and reads it from layers that have changed. Its weights are the
answer to another question. The right ones have a closed form: over some images, with the rows U that the layer reads in
the pruned network and the values z that its outputs had in the dense one,

    W' = argmin over W of |U W + 1 b' - z|^2 + r |W - W0|^2,       r = ridge * mean(diag(U'U)),

W0 the weights that it has, U and z centred by the intercept b where the layer has a bias or a batch norm of its own
takes a constant away. Layers are solved in the order in which they run, so each one mends what those before it left.

z is read behind the batch norm and behind the residual sum (target="sum"): the layer's share is then what the sum still
lacks, and errors of the shortcut are mended where they add up. With target="layer", z is the layer's own output.

The idea of giving what remains the best weights for the old outputs is the optimal brain surgeon's [Hassibi1993], for
channels with the reconstruction of [He2017]; both keep to single layers of the dense network.

References:
    [Hassibi1993] B. Hassibi and D. Stork, Second Order Derivatives for Network Pruning: Optimal Brain Surgeon,
        NIPS 1993.
    [He2017] Y. He, X. Zhang and J. Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import nn

from secateur.batches import Batches, hold
from secateur.channel_graph.surgery import check_fits, zero_masked
from secateur.counts import check_counts
from secateur.criteria.adapting import check_ridge
from secateur.errors import ConfigError
from secateur.modes import check_changeable, device_of, unwrapped
from secateur.records import PruningPlan
from secateur.recovery.affected import Layers, kept_outputs, layers_to_solve
from secateur.recovery.fits import Compensation, LayerFit, fit_of
from secateur.recovery.walk import OnLayer, walk
from secateur.regression import At, warn_of_few_rows


def compensate(
    model: nn.Module,
    pruned: nn.Module,
    plan: PruningPlan,
    batches: Batches,
    *,
    samples: int = 1000,
    rows: int = 80_000,
    ridge: float = 1e-2,
    target: At = "sum",
    layers: Layers = "all",
    memory: int = 2**31,
    on_layer: OnLayer | None = None,
) -> Compensation:
    """Give each layer of `pruned` behind a removed channel the weights that come closest to the dense one's answers.

    Formula and target: see the module. The squared error of a layer's target never grows on the rows that were read,
    and a layer whose target has no error is not touched, so a plan that removes nothing changes nothing.

    Args:
        model: the dense network.
        pruned: what `apply_plan(model, plan)` returned; changed in place: weights, biases and the running means of
            batch norms. Do not recalibrate its batch norm afterwards: least squares takes part of the variance away on
            purpose, and new statistics would blow the rest up.
        plan: the plan that it was pruned by.
        batches: yields inputs (N, ...), with or without labels, which are not read; training images, not those held
            out. Read once; the inputs are held in memory.
        samples: how many images to use at most.
        rows: output positions of each layer that are read, drawn at random from all images.
        ridge: r, as a share of the mean of the diagonal of U'U.
        target: "sum", behind batch norm and residual sum; or "layer", the layer's own output.
        layers: "all" layers from the first that reads a removed channel on; or the "consumers" of such channels alone,
            in about half the time in a residual network.
        memory: bytes for the held images, the dense network's values and the equations together, beside the forward
            pass. A layer whose equations need more, such as the first linear layer of VGG, is solved from as many rows
            as fit.
        on_layer: called with a layer's name, how many are solved and how many there are, before each layer.

    Returns:
        For each layer the error before and after, and the consumers that stayed as they were, with the reason.

    Raises:
        ConfigError: an argument is out of range.
        NetworkError: a network is compiled or scripted, or the pruned one was made in inference mode.
        PlanError: the plan is not that of these networks.
        DataError: no images, too many for the memory, or values that are NaN or infinite (the layer is named). The
            pruned network is then as it was.

    Warns:
        SecateurWarning: a layer has fewer rows than unknowns.

    Cost: a forward pass of the dense network for every quarter of the memory that its values fill, and for each layer
    one of the pruned network up to that layer; n D (D + O) + D^3 operations for a layer of D unknowns and O outputs.

    Example:
        >>> import torch
        >>> from secateur import ParameterCost, ScoreTable, apply_plan, channel_groups, uniform_plan
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(8, 3, 12, 12)
        >>> groups = channel_groups(net, images)
        >>> scores = ScoreTable({"0": net[0].weight.abs().sum((1, 2, 3))})
        >>> plan = uniform_plan(groups, scores, ParameterCost(net, groups), "70%", round_to=1)
        >>> pruned = apply_plan(net, plan)
        >>> before = (pruned(images) - net(images)).square().mean()
        >>> [fit.layer for fit in compensate(net, pruned, plan, [images]).layers]
        ['2']
        >>> bool((pruned(images) - net(images)).square().mean() < before)
        True

    Deviations: [He2017] solves for the consumers alone, and for weights that may lie anywhere; here the ridge pulls
    towards the weights that were there, so that few images or dead channels can do no harm.
    """
    check_settings(samples, rows, ridge)
    if layers not in get_args(Layers):
        raise ConfigError(f"unknown layers {layers!r}; allowed: {', '.join(get_args(Layers))}")
    model, pruned = unwrapped(model), unwrapped(pruned)
    check_fits(model, plan)
    check_changeable(pruned)
    outputs = kept_outputs(model, pruned, plan)
    images, _ = hold(batches, samples=samples, memory=memory)
    room = memory - sum(batch.nbytes for batch in images)
    todo, left = layers_to_solve(pruned, plan, images[0][:2].to(device_of(pruned)), target, layers)
    fits: list[LayerFit] = []
    before = [(tensor, tensor.detach().clone()) for tensor in (*pruned.parameters(), *pruned.buffers())]
    try:
        for step in walk(model, pruned, todo, images, rows=rows, memory=room, outputs=outputs, on_layer=on_layer):
            module = pruned.get_submodule(step.layer)
            found = step.solve(module, ridge=ridge)
            if bool(found.before.any()):
                step.put(module, found.weight, found.intercept)
                zero_masked(pruned, plan)
            fits.append(fit_of(step, found))
    except BaseException:
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
        raise
    warn_of_few_rows({fit.layer: (fit.rows, fit.unknowns) for fit in fits})
    return Compensation(tuple(fits), left, sum(map(len, images)))


def check_settings(samples: int, rows: int, ridge: float) -> None:
    """Raise ConfigError for a number that is out of range."""
    check_counts(samples=samples, rows=rows)
    check_ridge(ridge)
