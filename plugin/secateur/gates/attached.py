"""Gates in a network: what reads a group's channels reads them times the group's code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.distributed import Across
from secateur.errors import NetworkError, PlanError
from secateur.gates.gate import ChannelGate, pool_size
from secateur.gates.recipe import GateRecipe
from secateur.hooks import first_input, with_first_input
from secateur.modes import device_of, evaluating, own_copy
from secateur.records import ChannelGroup, Member


@dataclass(frozen=True)
class Place:
    """Where a gate stands: the layers that read the group's channels, in the order in which they run.

    Attributes:
        reader: the layer whose inputs the code is made of.
        maps: the shape (N, C, H, W) of those inputs, channel by channel.
        consumers: every layer whose inputs are multiplied.
    """

    reader: Member
    maps: torch.Size
    consumers: tuple[Member, ...]


def places(network: nn.Module, groups: Mapping[str, ChannelGroup], example: Tensor) -> dict[str, Place]:
    """Return where the gate of each group stands, from one forward pass.

    Raises:
        NetworkError: no layer that reads a group's channels runs, the first to run reads more positions of some
            channels than of others, or a linear layer reads them from tokens (N, T, D).
        PlanError: a group whose channels are only masked.
    """
    seen: dict[str, torch.Size] = {}

    def note(layer: str, inputs: Tensor) -> None:
        seen.setdefault(layer, inputs.shape)

    with ExitStack() as stack, evaluating(network), torch.no_grad():
        for group in groups.values():
            if group.masked:
                raise PlanError(f"the channels of {group.name!r} are only masked, never removed: it takes no gate")
            for layer in dict.fromkeys(m.layer for m in group.members if m.role == "consumer"):
                hook = network.get_submodule(layer).register_forward_pre_hook(
                    lambda _, args, kwargs, layer=layer: note(layer, first_input(args, kwargs)), with_kwargs=True
                )
                stack.callback(hook.remove)
        network(own_copy(network, example))
    order, found = list(seen), {}
    for name, group in groups.items():
        consumers = [m for m in group.members if m.role == "consumer" and m.layer in seen]
        consumers.sort(key=lambda m: order.index(m.layer))
        if reason := _reason_against(network, consumers, seen):
            raise NetworkError(f"the channels of {name!r} take no gate: {reason}")
        reader = consumers[0]
        maps = channels_of(torch.empty(seen[reader.layer], device="meta"), reader).shape
        found[name] = Place(reader, maps, tuple(consumers))
    return found


def check_gates(network: nn.Module, groups: Mapping[str, ChannelGroup], example: Tensor, *, most: int) -> None:
    """Find out whether each group takes a gate, without making any.

    Raises:
        NetworkError, PlanError: as `places`, or a gate would have more than `most` weights.
    """
    for place in places(network, groups, example).values():
        pool_size(place.maps, most=most)


def _reason_against(network: nn.Module, consumers: Sequence[Member], seen: Mapping[str, torch.Size]) -> str:
    """Return why no code can be made of what layers read, in the order in which they run; empty where one can."""
    if not consumers:
        return "no layer reads them"
    if len({len(own) for own in consumers[0].indices}) > 1:
        return f"{consumers[0].layer}, which reads them first, does not read them one like the other"
    linear = [m.layer for m in consumers if isinstance(network.get_submodule(m.layer), nn.Linear)]
    return next((f"{layer} reads tokens" for layer in linear if len(seen[layer]) != 2), "")


def channels_of(inputs: Tensor, reader: Member) -> Tensor:
    """Return a layer's inputs by channel of the group, (N, C, k * H, W), k positions a channel.

    Inputs of a convolution are (N, D, H, W); those of a linear layer, (N, D), become (N, C, k, 1).
    """
    positions = torch.tensor(reader.indices, device=inputs.device)
    maps = inputs.reshape(*inputs.shape, *[1] * (4 - inputs.ndim)).index_select(1, positions.flatten())
    return maps.reshape(len(maps), len(positions), -1, maps.shape[-1])


class Attached:
    """The gates of a network while it runs with them.

    Args:
        network: left as it is; hooks are there within `attached` only.
        groups: those that get a gate.
        example: inputs of one batch.
        recipe: how gates are made.

    Attributes:
        network: what they stand in.
        gates: group -> its gate.
        codes: group -> the code of the last forward pass, made where its reader is first called.
    """

    def __init__(
        self, network: nn.Module, groups: Mapping[str, ChannelGroup], example: Tensor, recipe: GateRecipe
    ) -> None:
        random = torch.Generator().manual_seed(recipe.seed)
        self.network, self._places = network, places(network, groups, example)
        self.gates = {
            name: ChannelGate(
                place.maps,
                most=recipe.most,
                gain=recipe.gain,
                batch_average=recipe.batch_average,
                generator=random,
            ).to(device_of(network))
            for name, place in self._places.items()
        }
        self.codes: dict[str, Tensor] = {}
        self._share, self._across = 1.0, cast(Across, None)

    @contextmanager
    def sharing(self, share: float, across: Across) -> Iterator[None]:
        """Within the block, codes are made of the images of all processes, of which this one has `share`."""
        self._share, self._across = share, across
        try:
            yield
        finally:
            self._share, self._across = 1.0, None

    @contextmanager
    def attached(self, names: Sequence[str]) -> Iterator[None]:
        """Within the block the network runs with the gates of some groups."""
        with ExitStack() as stack:
            stack.callback(self.network.register_forward_pre_hook(lambda *_: self.codes.clear()).remove)
            for name in names:
                for member in self._places[name].consumers:
                    module = self.network.get_submodule(member.layer)
                    hook = module.register_forward_pre_hook(self._hook(name, member), with_kwargs=True)
                    stack.callback(hook.remove)
            yield

    def _hook(self, name: str, member: Member) -> Any:
        place, gate = self._places[name], self.gates[name]
        owners = torch.full((1 + max(p for own in member.indices for p in own),), -1)
        for channel, own in enumerate(member.indices):
            owners[list(own)] = channel

        def multiply(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            first = first_input(args, kwargs)
            if name not in self.codes:
                if member is not place.reader:
                    raise NetworkError(f"{member.layer!r} runs before {place.reader.layer!r}, which it did not before")
                self.codes[name] = gate(channels_of(first, member), share=self._share, across=self._across)
            return with_first_input(args, kwargs, first * factors(self.codes[name], owners, first))

        return multiply


def factors(code: Tensor, owners: Tensor, inputs: Tensor) -> Tensor:
    """Return what inputs (N, D, ...) are multiplied by: the code of the channel that owns a position, or one."""
    D = inputs.shape[1]
    owners = torch.cat([owners, owners.new_full((D - len(owners),), -1)]).to(code.device)
    padded = torch.cat([code, code.new_ones(*code.shape[:-1], 1)], -1)  # owner -1: nobody's position
    found = padded[..., owners].to(inputs.dtype)
    return found.reshape(*(found.shape if code.ndim == 2 else (1, D)), *[1] * (inputs.ndim - 2))
