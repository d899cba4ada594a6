"""Torch-Pruning's own importances by name: their code, on their groups, with what they pass over in silence refused.

Nothing of theirs is computed here. An importance gets its gradients where it reads any, sees the groups of a copy of
the network as Torch-Pruning's pruners show them, and what it says of each becomes a score table.

Guarded against, in Torch-Pruning 1.6.1: the Taylor importance sorts a layer's channels without the root's
(pruner/importance.py, line 449), so that in groups whose channels come in another order each gets the score of another;
and some importances do not work at all, see `BROKEN`. Not guarded against, since it is theirs to decide: their FPGM
takes the distances between the squares of weights (line 350), not between filters, so that signs do not count.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from secateur.batches import Batches, check_repeatable, rebatch
from secateur.channel_graph.scoring import importance_scores
from secateur.channel_graph.tracing import copy_of, differentiable
from secateur.counts import check_counts
from secateur.errors import ConfigError, DataError, ScoreError
from secateur.modes import device_of, evaluating, own_copy
from secateur.records import ChannelGroup, ScoreTable

HOST_IMPORTANCES: Mapping[str, str] = MappingProxyType(
    {
        "magnitude": "GroupMagnitudeImportance",
        "bn-scale": "BNScaleImportance",
        "fpgm": "FPGMImportance",
        "lamp": "LAMPImportance",
        "random": "RandomImportance",
        "taylor": "GroupTaylorImportance",
    }
)
"""Name -> Torch-Pruning's class."""

BROKEN: Mapping[str, str] = MappingProxyType(
    {
        "hessian": "in Torch-Pruning 1.6 its gradients of all images but the last are lost",
        "obdc": "in Torch-Pruning 1.6 it fails on every convolutional network",
        "activation": "in Torch-Pruning 1.6 it scores by the last batch alone, and layers' inputs for their outputs",
    }
)
READS_GRADIENTS = frozenset({"taylor"})
DRAWS = frozenset({"random"})


def host_importance(name: str, **options: Any) -> Callable[[Any], Tensor | None]:
    """Return Torch-Pruning's importance called `name`, with `options` as its class takes them.

    Raises:
        ConfigError: an unknown name, one that does not work in Torch-Pruning itself (with the reason), or options that
            it does not take.

    Example:
        >>> type(host_importance("magnitude", p=1)).__name__
        'GroupMagnitudeImportance'
    """
    if name in BROKEN:
        raise ConfigError(f"the importance {name!r} of Torch-Pruning cannot be used: {BROKEN[name]}")
    if name not in HOST_IMPORTANCES:
        raise ConfigError(f"Torch-Pruning has no importance {name!r} here; allowed: {', '.join(HOST_IMPORTANCES)}")
    kind = getattr(tp.pruner.importance, HOST_IMPORTANCES[name])
    takes = [*inspect.signature(kind).parameters]
    if strange := sorted(set(options) - set(takes)):
        raise ConfigError(
            f"{HOST_IMPORTANCES[name]} of Torch-Pruning has no option {strange[0]!r}; it takes "
            f"{', '.join(takes) or 'none'}"
        )
    try:
        importance: Callable[[Any], Tensor | None] = kind(**options)
    except AssertionError as error:
        raise ConfigError(f"options do not fit {HOST_IMPORTANCES[name]} of Torch-Pruning: {error}") from error
    return importance


@torch.inference_mode(False)
def host_importance_scores(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    batches: Batches,
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    samples: int = 1280,
    seed: int = 0,
) -> ScoreTable:
    """Return what an importance of Torch-Pruning says of each channel group; larger = keep.

    Formula: the importance's own. Its gradients are those of the mean cross entropy over `samples` images, of the
    network in eval mode: what a user of Torch-Pruning gets from one backward pass before `pruner.step()`.

    Args:
        model: the network; left as it is.
        groups: what `channel_groups` found.
        batches: yields `(inputs, labels)`, each time that it is iterated; two inputs serve to trace the network.
        name: a key of `HOST_IMPORTANCES`.
        options: keyword arguments of the class.
        samples: images that gradients are taken of; read by "taylor" alone.
        seed: of torch's random numbers, which "random" draws from; outside they stay as they were.

    Returns:
        The scores, group -> (width,), with the settings criterion, options, samples (images really read) and skipped:
        group -> the reason why it has none.

    Raises:
        ConfigError: as `host_importance`, or `samples` below 1.
        DataError: there are no images, they can be read only once, or there are no labels where they are needed.
        ScoreError: the importance fails, gives NaN or a wrong number of scores, or would score other channels than
            those that it is asked for.

    Cost: that of `importance_scores`; with gradients a forward and a backward pass over the images.

    Example:
        >>> from secateur.channel_graph import channel_groups
        >>> net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(2, 3, 8, 8)
        >>> table = host_importance_scores(net, channel_groups(net, x), [x], "magnitude", options={"p": 1})
        >>> len(table["0"]), table.settings["criterion"]
        (8, 'torch-pruning:magnitude')
    """
    importance = host_importance(name, **(options or {}))
    check_counts(samples=samples)
    check_repeatable(batches)
    example = next((inputs for inputs, _ in rebatch(batches, None, samples=2)), None)
    if example is None:
        raise DataError("there is no image to trace the network with: the batches are empty")
    read = 0
    copied = differentiable(copy_of(model))
    for parameter in copied.parameters():
        parameter.grad = None
    if name in READS_GRADIENTS:
        read = _leave_gradients(copied, batches, samples)

    @functools.wraps(type(importance), updated=())
    def guarded(group: Any) -> Tensor | None:
        if name in READS_GRADIENTS:
            _refuse_unsorted(group)
        try:
            return importance(group)
        except Exception as error:  # Torch-Pruning's code, on any network
            raise ScoreError(
                f"{type(importance).__name__} of Torch-Pruning fails: {type(error).__name__}: {error}"
            ) from error

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed those of all devices
        scores = importance_scores(copied, (example.to(device_of(model)),), guarded, groups)
    why = {group: "Torch-Pruning's importance has no scores for it" for group in groups if group not in scores}
    why |= {group: "Torch-Pruning has no masked groups" for group in why if groups[group].masked}
    settings = {
        "criterion": f"torch-pruning:{name}",
        "options": dict(options or {}),
        "samples": read,
        "skipped": why,
    }
    return ScoreTable(scores, settings=settings)


def _leave_gradients(network: nn.Module, batches: Batches, samples: int) -> int:
    """Leave on the parameters the gradients of the mean cross entropy; return over how many images."""
    device, read = device_of(network), 0
    with evaluating(network), torch.enable_grad():
        for inputs, labels in rebatch(batches, None, samples=samples):
            if labels is None:
                raise DataError("Torch-Pruning's Taylor importance reads gradients of a loss: the images need labels")
            outputs = network(own_copy(network, inputs))
            try:
                loss = nn.functional.cross_entropy(outputs, labels.to(device, copy=True), reduction="sum")
            except Exception as error:  # labels that are no classes of these outputs
                raise DataError(f"the cross entropy failed: {type(error).__name__}: {error}") from error
            torch.autograd.backward(loss)
            read += len(inputs)
    if read == 0:
        raise DataError("there are no images to take gradients of: the batches give none the second time")
    for parameter in filter(lambda p: p.requires_grad, network.parameters()):
        if parameter.grad is None:  # the loss does not depend on it
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad /= read
    return read


def _refuse_unsorted(group: Any) -> None:
    """Refuse a group in which the Taylor importance would mix up the channels, see the module."""
    for item in group.items:
        if list(item.idxs) != sorted(item.idxs):
            raise ScoreError(
                f"the Taylor importance of Torch-Pruning would give channels of {item.dep.target.name!r} the scores of "
                "others: it sorts them, and not those of the group's root"
            )
