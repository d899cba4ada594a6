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

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.batches import Batches, rebatch
from secateur.channel_graph.surgery import check_fits
from secateur.errors import ConfigError, DataError, PlanError, SecateurWarning
from secateur.modes import device_of
from secateur.records import PruningPlan
from secateur.regression import (
    At,
    Replay,
    Solution,
    Target,
    layout_of,
    reason_against,
    regression,
    rows_of,
    sample_outputs,
    targets_of,
    weight_rows,
    write_weight,
)
from secateur.regression.reading import Sample

Layers = Literal["all", "consumers"]
OnLayer = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LayerFit:
    """What solving for one layer brought.

    Attributes:
        layer: its name.
        rows, unknowns: of its equations; of each block, in a grouped convolution.
        before, after: squared error of its target over the rows, as a share of the target's variance.
    """

    layer: str
    rows: int
    unknowns: int
    before: float
    after: float


@dataclass(frozen=True)
class Compensation:
    """What `compensate` did: the layers solved for, in order, and the consumers left as they are, with the reason."""

    layers: tuple[LayerFit, ...]
    left: Mapping[str, str] = field(default_factory=dict)
    images: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"images": self.images, "layers": [asdict(fit) for fit in self.layers], "left": dict(self.left)}


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
        PlanError: the plan is not that of these networks.
        DataError: no images, too many for the memory, or values that are NaN or infinite (the layer is named). The
            pruned network is then as it was.

    Warns:
        SecateurWarning: a layer has fewer rows than unknowns.

    Cost: a forward pass of the dense network for every quarter of the memory that its values fill, and for each layer
    one of the pruned network up to that layer; n D (D + O) + D^3 operations for a layer of D unknowns and O outputs.

    Example:
        >>> from secateur import ParameterCost, ScoreTable, apply_plan, channel_groups, uniform_plan
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(8, 3, 12, 12)
        >>> groups = channel_groups(net, images)
        >>> scores = ScoreTable({"0": net[0].weight.abs().sum((1, 2, 3))})
        >>> plan = uniform_plan(groups, scores, ParameterCost(net, groups), "70%")
        >>> pruned = apply_plan(net, plan)
        >>> before = (pruned(images) - net(images)).square().mean()
        >>> [fit.layer for fit in compensate(net, pruned, plan, [images]).layers]
        ['2']
        >>> bool((pruned(images) - net(images)).square().mean() < before)
        True

    Deviations: [He2017] solves for the consumers alone, and for weights that may lie anywhere; here the ridge pulls
    towards the weights that were there, so that few images or dead channels can do no harm.
    """
    if samples < 1 or rows < 1:
        raise ConfigError(f"samples and rows must be at least 1; found {samples} and {rows}")
    if not 0 < ridge < float("inf"):
        raise ConfigError(f"ridge is {ridge}; it must be a positive number (without it the weights are not defined)")
    if layers not in get_args(Layers):
        raise ConfigError(f"unknown layers {layers!r}; allowed: {', '.join(get_args(Layers))}")
    check_fits(model, plan)
    outputs = _kept_outputs(model, pruned, plan)
    images = hold_images(batches, samples, memory // 2)
    room = memory - sum(batch.nbytes for batch in images)
    todo, left = _to_solve(pruned, plan, images[0][:2].to(device_of(pruned)), target, layers)
    replay = Replay(pruned, images, memory=room // 4)
    fits: list[LayerFit] = []
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    try:
        for chunk in _chunks(todo, pruned, rows, room // 4):
            wanted = sample_outputs(model, images, {name: todo[name] for name in chunk}, rows=rows)
            for name in chunk:
                if on_layer is not None:
                    on_layer(name, len(fits), len(todo))
                own = _narrowed(wanted.pop(name), outputs.get(name))
                fits.append(_solve_layer(pruned, name, todo[name], images, own, replay, ridge=ridge, memory=room // 2))
    except BaseException:
        pruned.load_state_dict(before)
        raise
    _warn_of_few_rows(fits)
    return Compensation(tuple(fits), left, sum(map(len, images)))


def hold_images(batches: Batches, samples: int, memory: int) -> list[Tensor]:
    """Return the first `samples` inputs, in their batches.

    Raises:
        DataError: there are none, or they need more than `memory` bytes.
    """
    held: list[Tensor] = []
    for inputs, _ in rebatch(batches, None, samples=samples):
        held.append(inputs)
        if sum(batch.nbytes for batch in held) > memory:
            raise DataError(
                f"{sum(map(len, held)):,} images of {tuple(inputs.shape[1:])} need more than "
                f"{memory / 2**20:,.0f} MiB, half of the memory allowed: take fewer samples, or allow more memory"
            )
    if not held:
        raise DataError("there are no images to compensate on: the batches are empty")
    return held


def _solve_layer(
    network: nn.Module,
    layer: str,
    target: Target,
    images: Sequence[Tensor],
    samples: Sequence[Sequence[Sample]],
    replay: Replay,
    *,
    ridge: float,
    memory: int,
) -> LayerFit:
    """Give one layer of `network` the weights that serve best, in place."""
    module = network.get_submodule(layer)
    layout = layout_of(module)
    equations = regression(layout, device=device_of(network), memory=memory)
    for U, E in rows_of(network, layer, target, images, samples, replay=replay):
        equations.add(U, E)
    found = equations.solve(ridge=ridge, intercept=target.can_shift(module))
    if bool(found.before.any()):
        write_weight(module, weight_rows(module) + found.weight)
        target.shift(module, found.intercept.flatten())
    before, after = _shares(found, target, samples, equations.rows)
    return LayerFit(layer, equations.rows, layout.unknowns, before, after)


def _shares(found: Solution, target: Target, samples: Sequence[Sequence[Sample]], rows: int) -> tuple[float, float]:
    """Return the squared error before and after, as shares of the target's variance."""
    values = torch.cat([sample.values.double() for batch in samples for sample in batch])[:rows]
    variation = float((values - values.mean(0)).square().sum())
    gain = target.gain if target.at == "sum" else None
    weights = torch.ones_like(found.before.flatten()) if gain is None else gain.double().square()
    before, after = (float((weights * e.flatten()).sum()) for e in (found.before, found.after))
    return (before / variation, after / variation) if variation else (0.0, 0.0)


def _to_solve(
    pruned: nn.Module, plan: PruningPlan, example: Tensor, at: At, layers: Layers
) -> tuple[dict[str, Target], dict[str, str]]:
    """Return the layers to solve for, in the order in which they run, and the consumers that must stay, and why."""
    consumers = consumers_of(pruned, plan)
    modules = dict(pruned.named_modules())
    left = {name: why for name in consumers if (why := _reason(name, modules))}
    solvable = [name for name, module in modules.items() if not reason_against(module)]
    targets = targets_of(pruned, example, solvable, at=at)
    owners: dict[int, str] = {}
    for name in targets:
        weight = modules[name].weight
        first = owners.setdefault(id(weight), name)
        if first != name:
            left[name] = left[first] = f"{first} and {name} share their weights"
    left |= {
        name: "no forward pass calls it as a layer" for name in consumers if name not in targets and name not in left
    }
    order = list(targets)
    begin = next((place for place, name in enumerate(order) if name in consumers), len(order))
    todo = {n: targets[n] for n in order[begin:] if n not in left and (layers == "all" or n in consumers)}
    return todo, left


def _reason(name: str, modules: Mapping[str, nn.Module]) -> str:
    return reason_against(modules[name]) if name in modules else "a lone parameter is no layer"


def consumers_of(network: nn.Module, plan: PruningPlan) -> list[str]:
    """Return the layers that read channels which the plan removes: consumers, and grouped convolutions on the way."""
    found: dict[str, None] = {}
    for group in plan.groups:
        if not plan.removed(group.name):
            continue
        for member in group.members:
            module = None if member.axis is not None else network.get_submodule(member.layer)
            grouped = isinstance(module, _ConvNd) and module.groups > 1
            if member.role == "consumer" or (member.role == "producer" and grouped):
                found[member.layer] = None
    return list(found)


def _kept_outputs(model: nn.Module, pruned: nn.Module, plan: PruningPlan) -> dict[str, Tensor]:
    """Return for each layer that lost outputs which of them it kept."""
    removed: dict[str, set[int]] = {}
    for group in plan.groups:
        channels = plan.removed(group.name)
        for member in group.producers if channels else ():
            removed.setdefault(member.layer, set()).update(member.positions(channels))
    kept = {}
    for name, gone in removed.items():
        size = _outputs(model.get_submodule(name))
        kept[name] = torch.tensor([place for place in range(size) if place not in gone])
        found = _outputs(pruned.get_submodule(name))
        if found != len(kept[name]):
            raise PlanError(
                f"the plan leaves {len(kept[name])} channels of {name!r}, the pruned network has {found}: "
                "it was not pruned by this plan"
            )
    return kept


def _outputs(module: nn.Module) -> int:
    layout = layout_of(module)
    return layout.blocks * layout.outputs


def _narrowed(samples: Sequence[Sequence[Sample]], outputs: Tensor | None) -> list[list[Sample]]:
    """Return samples of the dense layer with the outputs alone that the pruned layer has."""
    if outputs is None:
        return [list(batch) for batch in samples]
    return [[Sample(s.positions, s.values[:, outputs.to(s.values.device)]) for s in batch] for batch in samples]


def _chunks(targets: Mapping[str, Target], network: nn.Module, rows: int, memory: int) -> Iterator[list[str]]:
    """Yield the layers in order, as many at a time as have their samples fit into `memory` bytes; one at least."""
    chunk: list[str] = []
    size = 0
    for name, target in targets.items():
        need = rows * target.calls * (8 + 4 * _outputs(network.get_submodule(name)))
        if chunk and size + need > memory:
            yield chunk
            chunk, size = [], 0
        chunk.append(name)
        size += need
    if chunk:
        yield chunk


def _warn_of_few_rows(fits: Sequence[LayerFit]) -> None:
    few = [fit for fit in fits if fit.rows < fit.unknowns]
    if few:
        named = ", ".join(f"{fit.layer} ({fit.rows:,} for {fit.unknowns:,})" for fit in few)
        warnings.warn(
            f"fewer rows than unknowns, so that the ridge decides, in {named}: more images would serve better",
            SecateurWarning,
            stacklevel=3,
        )
