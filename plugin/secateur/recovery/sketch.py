"""FilterSketch: what is left of a layer is no selection of its filters, but a sketch of all of them.

The filters of a layer whose channels go are rows of a matrix, and so are its inputs. `frequent_directions` puts fewer
rows in their place, which keep what the old ones have in common; the network is then trained, as it means nothing yet.

.. [Lin2020b] M. Lin, L. Cao, S. Li, Q. Ye, Y. Tian, J. Liu, Q. Tian, R. Ji. Filter Sketch for Network Pruning.
   IEEE TNNLS 2021 (arXiv 2001.08514), and its published code.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.channel_graph import apply_plan
from secateur.criteria.sketching import frequent_directions
from secateur.errors import ScoreError
from secateur.records import Member, PruningPlan


@dataclass(frozen=True)
class Sketched:
    """A network of sketches.

    Attributes:
        model: pruned, to be trained.
        taken: layer -> the share of its rows that the sketches of its inputs and outputs were made of, each.
        norms: the batch norms that were set back to their beginning.
        left: layer -> why it has a selection of its weights and no sketch.
    """

    model: nn.Module
    taken: Mapping[str, tuple[float, ...]]
    norms: tuple[str, ...]
    left: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, without the network."""
        return {
            "taken": {layer: list(shares) for layer, shares in self.taken.items()},
            "norms": list(self.norms),
            "left": dict(self.left),
        }


def sketch_filters(model: nn.Module, plan: PruningPlan, *, normalise: bool = False) -> Sketched:
    """Return the network at the widths of a plan, its weights sketched from those of all channels [Lin2020b]_.

    Rule: of each group that loses channels, the layers that read it get a sketch of their weights with one row for each
    channel read, and then the layers that make it one with a row for each channel made, see `frequent_directions`. All
    batch norms on the way begin anew; biases are those of the kept channels.

    Args:
        model: the dense network; unchanged.
        plan: only its widths count, not which channels it keeps.
        normalise: divide each weight by its norm before it is sketched; one of zeros stays.

    Raises:
        PlanError: a plan of another network.
        ScoreError: weights that are not finite, with their layer.

    Cost: singular value decompositions, seconds for a ResNet-50; no data.

    Example:
        >>> from secateur.channel_graph import channel_groups
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> groups = channel_groups(net, torch.randn(2, 3, 8, 8))
        >>> plan = PruningPlan(tuple(groups.values()), {"0": (1, 2)}, "macs", 1.0, 0.5, 0.5)
        >>> done = sketch_filters(net, plan)
        >>> done.model[3].weight.shape, done.norms
        (torch.Size([4, 2, 3, 3]), ('1',))

    Deviations from the published code: any layer that reads or makes the channels is sketched, also where a shortcut
    joins several, each by itself; layers with groups of channels keep a selection. In what order a layer is sketched
    whose inputs and outputs both shrink is ours.
    """
    network = copy.deepcopy(model)
    taken: dict[str, list[float]] = {}
    left, norms = dict[str, str](), list[str]()
    losing = [group for group in plan.groups if plan.removed(group.name) and not group.masked]
    with torch.no_grad():
        for role in ("consumer", "producer"):
            for group, member in [(g, m) for g in losing for m in g.members if m.role == role and m.axis is None]:
                module = network.get_submodule(member.layer)
                weight = _matrix_of(module)
                if weight is None:
                    left[member.layer] = f"{type(module).__name__}, whose weights are no matrix of all channels"
                    continue
                if not bool(torch.isfinite(weight).all()):
                    raise ScoreError(f"the weights of {member.layer!r} hold NaN or infinity, and have no sketch")
                if normalise and bool(weight.any()):
                    weight /= weight.norm()
                axis = 1 if role == "consumer" else 0
                share = _sketch(weight.transpose(0, axis), member, plan[group.name])
                taken.setdefault(member.layer, []).append(share)
        pruned = apply_plan(network, plan)
        for member in (m for group in losing for m in group.members if m.role == "carrier" and m.axis is None):
            module = pruned.get_submodule(member.layer)
            if isinstance(module, _BatchNorm) and member.layer not in norms:
                module.reset_parameters()
                norms.append(member.layer)
    return Sketched(pruned, {layer: tuple(shares) for layer, shares in taken.items()}, tuple(norms), left)


def _matrix_of(module: nn.Module) -> Tensor | None:
    """Return the weight (outputs, inputs, ...) of a layer that makes every output from all inputs."""
    dense = isinstance(module, nn.Linear) or (
        isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd) and module.groups == 1
    )
    weight = module.weight if dense else None
    return weight.detach() if isinstance(weight, Tensor) else None


def _sketch(weight: Tensor, member: Member, kept: tuple[int, ...]) -> float:
    """Put a sketch of the channels' rows where those of the kept ones are, in place, and zeros elsewhere.

    Returns the share of the rows that it was made of.
    """
    places = [list(positions) for positions in member.indices]
    if any(len(own) != len(places[0]) for own in places) or not places[0]:
        return 0.0  # channels that own different parts of a layer cannot stand for one another
    rows = torch.stack([weight[own].flatten() for own in places])
    sketch, count = frequent_directions(rows, len(kept))
    shape = weight[places[0]].shape
    for own in places:
        weight[own] = 0.0
    for row, channel in zip(sketch.to(weight), kept, strict=True):
        weight[places[channel]] = row.reshape(shape)
    return count / len(rows)
