"""The best weights of the layers that read what is left of a group, for any channels that are left.

The equations of each reader are gathered once, on the dense network: what it reads, U, and what it made of it, T. With
some columns of U gone, its best weights for the rest solve a part of the same equations, whatever else is pruned:

    W' = argmin over W of |U_live W + 1 b' - T|^2 + r |W - W0_live|^2

with W0 its weights and r and b' as in `secateur.recovery`. No image is read for it. In return, layers do not make up
for what those before them lost; the network that is deployed is compensated layer by layer, and is better than this.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from secateur.channel_graph.narrowing import cut_layer, removals
from secateur.errors import SecateurWarning
from secateur.evaluation.stage import Edit, Stage
from secateur.protocols import Kept
from secateur.records import ChannelGroup, Member
from secateur.regression import warn_of_few_rows, weight_rows, write_weight
from secateur.regression.live import drop, spread, unknowns_of
from secateur.scoring.readers import bytes_for, consumers, gather, readers_of

MISFIT = "its equations do not fit in memory"


class Found(NamedTuple):
    """A layer as it should be: its weights (G, D, O), 0 where nothing is read, and what is added to its outputs."""

    weight: Tensor
    shift: Tensor


class NestedWeights:
    """The readers of channel groups, each with the weights that suit the channels that stay.

    Args:
        model: the dense network; left as it is.
        groups: its channel groups by name.
        images: batches.
        rows: output positions of each reader that are drawn from all images.
        ridge: r, as a share of the mean of the diagonal of U'U.
        memory: bytes that the equations may take, and as many again the weights that were found; readers that do not
            fit keep their weights.

    Attributes:
        left: layer -> why it keeps its weights.

    Warns:
        SecateurWarning: a reader has fewer rows than unknowns, or does not fit.

    Cost: a forward pass over the images, then D^3 operations for a reader of D inputs and any new set of them.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Mapping[str, ChannelGroup],
        images: Sequence[Tensor],
        *,
        rows: int,
        ridge: float,
        memory: int,
    ) -> None:
        self._model, self._groups, self._ridge = model, groups, ridge
        targets, left = readers_of(model, groups, images[0][:2])
        self.left = dict(left)
        room = memory
        for name in list(targets):
            need = bytes_for(model.get_submodule(name), 0)
            if need > room:
                del targets[name]
                self.left[name] = MISFIT
            else:
                room -= need
        if misfits := [name for name in self.left if self.left[name] == MISFIT]:
            warnings.warn(
                f"{len(misfits)} layers keep their dense weights in every candidate, since their equations do not fit "
                f"into {memory:,} bytes of memory: {', '.join(misfits)}",
                SecateurWarning,
                stacklevel=2,
            )
        self._targets, self._equations = targets, gather(model, targets, images, rows)
        self._reads: dict[str, list[tuple[str, Member]]] = {name: [] for name in targets}
        for group in groups.values():
            for member in consumers(group):
                if member.layer in targets:
                    self._reads[member.layer].append((group.name, member))
        names = {module: name for name, module in model.named_modules()}
        self._norms = {
            name: names[target.norm]
            for name, target in targets.items()
            if target.norm is not None and model.get_submodule(name).bias is None
        }
        self._found: dict[tuple[str, tuple[tuple[int, ...], ...]], Found | None] = {}
        self._held, self._most = 0, memory
        warn_of_few_rows({name: (of.rows, of.UU.shape[1]) for name, of in self._equations.items()})

    def stage(self, kept: Kept) -> Stage:
        """Return the network with the channels `kept`, each reader with the weights that suit them."""
        network = copy.deepcopy(self._model)
        for name in self._targets:
            for target, value in self._edits(name, kept, network, {}):
                target.copy_(value)
        return Stage(network, self._groups, kept)

    def prepare(self, stage: Stage, candidates: Sequence[Kept]) -> list[list[Edit]]:
        """Return what each candidate changes of the network of a stage beside its mask."""
        gone = removals(self._groups, stage.cut)
        return [
            [
                edit
                for name in dict.fromkeys(stage.layers(kept))
                if name in self._targets
                for edit in self._edits(name, kept, stage.network, gone)
            ]
            for kept in candidates
        ]

    def _edits(
        self, name: str, kept: Kept, network: nn.Module, gone: Mapping[tuple[str, bool, int | None], set[int]]
    ) -> list[Edit]:
        """Return the tensors of `network`, the dense one without what has gone, that a reader changes."""
        found = self._solve(name, kept)
        if found is None:
            return []
        layer = copy.deepcopy(self._model.get_submodule(name))
        write_weight(layer, found.weight)
        target = copy.deepcopy(self._targets[name])
        target.shift(layer, found.shift)
        changed = {name: layer}
        if name in self._norms and target.norm is not None:
            changed[self._norms[name]] = target.norm
        edits = []
        for path, module in changed.items():
            small, there = cut_layer(module, path, gone), network.get_submodule(path)
            tensors = dict([*there.named_parameters(recurse=False), *there.named_buffers(recurse=False)])
            values = dict([*small.named_parameters(recurse=False), *small.named_buffers(recurse=False)])
            wanted = ("weight", "bias") if module is layer else ("running_mean",)
            edits += [(tensors[key].detach(), values[key].detach()) for key in wanted if key in tensors]
        return edits

    def _solve(self, name: str, kept: Kept) -> Found | None:
        """Return a reader's best weights; None where it reads all that it did, or blocks of it unequally many."""
        stay = tuple(tuple(kept.get(group, ())) for group, _ in self._reads[name])
        if (name, stay) not in self._found:
            found = self._solved(name, kept)
            size = 0 if found is None else found.weight.nbytes + found.shift.nbytes
            if self._held + size > self._most:  # a search goes on from where it is: what it has left is not asked again
                self._found.clear()
                self._held = 0
            self._found[name, stay] = found
            self._held += size
        return self._found[name, stay]

    def _solved(self, name: str, kept: Kept) -> Found | None:
        module, target = self._model.get_submodule(name), self._targets[name]
        weight = weight_rows(module)
        live = torch.ones(weight.shape[:2], dtype=torch.bool)
        for group, member in self._reads[name]:
            dropped = {*range(len(member.indices))} - {*kept.get(group, range(len(member.indices)))}
            drop(live, module, member, dropped)
        counts = set(live.sum(1).tolist())
        if bool(live.all()) or len(counts) > 1 or counts == {0}:
            return None
        unknowns = unknowns_of(live).to(weight.device)
        weight = weight * live.to(weight)[:, :, None]
        equations = self._equations[name].shifted(-weight).taking(unknowns)  # of what its outputs lack
        found = equations.solve(ridge=self._ridge, intercept=target.can_shift(module))
        weight = weight + spread(found.weight, unknowns, weight)
        shift = found.intercept.flatten()
        return Found(weight, shift - module.bias.detach() if isinstance(module.bias, Tensor) else shift)
