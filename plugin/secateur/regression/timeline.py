"""When the modules of a network begin and end, and when their outputs are read: one forward pass, written down."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.addresses import address
from secateur.modes import evaluating, own_copy


@dataclass(frozen=True)
class Timeline:
    """When modules first began, the spans of those that ran exactly once, and when the outputs of these were read.

    Time counts the beginnings and ends of modules and the operations between them. A module has no span if it changes
    what it is given, such as an activation in place, or gives it on, such as dropout, or has forward hooks, which may
    do anything with what it gives: more hangs on it than a copy of its output could tell.

    Example:
        >>> network = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU()), nn.ReLU())
        >>> timeline = Timeline.of(network, torch.ones(1, 1))
        >>> timeline.ended_before("2")
        ['1', '1.0', '0']
        >>> timeline.needed(["1", "1.0", "0"], kept={"1", "0"}, seen={"0"})
        ({'1'}, {'0'})
    """

    begins: dict[str, int] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    reads: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, network: nn.Module, example: Tensor) -> Timeline:
        """Return the timeline of a run on a small batch; empty where modules keep tensors from it."""
        clock = _Clock()
        hooked = {name for name, module in network.named_modules() if module._forward_hooks}
        with ExitStack() as stack:
            for name, module in network.named_modules():
                if name:
                    begin, end = functools.partial(clock.begin, name), functools.partial(clock.end, name)
                    stack.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
                    stack.callback(module.register_forward_hook(end, with_kwargs=True).remove)
            stack.enter_context(evaluating(network))
            stack.enter_context(torch.inference_mode(mode=False))  # in which tensors have no versions
            stack.enter_context(torch.no_grad())
            stack.enter_context(clock)
            network(own_copy(network, example))
        if any(_keeps_tensors(module) for module in network.modules()):
            return cls()
        plain = clock.begins.keys() - clock.sharing - hooked
        once = [name for name, calls in clock.begins.items() if len(calls) == 1 and name in plain]
        spans = {name: (clock.begins[name][0], clock.ends[name][0]) for name in once}
        return cls(
            {name: calls[0] for name, calls in clock.begins.items()},
            spans,
            {name: clock.reads.get(name, []) for name in spans},
        )

    def ended_before(self, layer: str) -> list[str]:
        """Return the modules with a span that ended before `layer` began, the last first."""
        begin = self.begins.get(layer, 0)
        past = [name for name, span in self.spans.items() if span[1] < begin]
        return sorted(past, key=lambda name: -self.spans[name][1])

    def needed(
        self, ended: Iterable[str], *, kept: Collection[str], seen: Collection[str]
    ) -> tuple[set[str], set[str]]:
        """Return which of the `kept` outputs must be given again, and which of those `seen` need not be known at all.

        An output is not needed if it is read inside of such modules alone.
        """
        given: set[str] = set()
        skipped: set[str] = set()
        for name in ended:
            covered = [self.spans[other] for other in given | skipped]
            if _inside(self.spans[name][0], covered):
                continue
            if name in seen and all(_inside(time, covered) for time in self.reads[name]):
                skipped.add(name)
            elif name in kept:
                given.add(name)
        return given, skipped

    def outermost(self, names: Iterable[str], *, behind: Collection[str]) -> set[str]:
        """Return the modules that lie in no other of them, and neither are nor lie in those of `behind`."""
        found: set[str] = set()
        for name in names:  # the last to end first, so those around a module come before it
            if not _inside(self.spans[name][0], [self.spans[other] for other in {*found, *behind} - {name}]):
                found.add(name)
        return found - set(behind)


def _inside(time: int, spans: Iterable[tuple[int, int]]) -> bool:
    return any(begin <= time <= end for begin, end in spans)


def _keeps_tensors(module: nn.Module) -> bool:
    """Return whether a module holds tensors that are neither parameters nor buffers, in its own attributes."""
    hidden = ("_parameters", "_buffers", "_modules")
    return any(
        isinstance(leaf, Tensor)
        for key, value in vars(module).items()
        if key not in hidden
        for leaf in tree_leaves(value)
    )


def _versions(given: Any) -> list[int]:
    """Return how often each of the tensors among arguments was changed in place."""
    return [leaf._version for leaf in tree_leaves(given) if isinstance(leaf, Tensor) and not leaf.is_inference()]


def _storages(given: Any) -> set[int]:
    """Return where the memory begins that tensors among arguments lie in."""
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(given) if address(leaf)}


class _Clock(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves the base untyped
    """Writes down when modules begin and end and when their outputs are read; no held address recurs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.now = 0
        self.begins: dict[str, list[int]] = {}
        self.ends: dict[str, list[int]] = {}
        self.reads: dict[str, list[int]] = {}
        self.sharing: set[str] = set()
        self._given: list[list[int]] = []  # versions of what the modules that run were given, the innermost last
        self._makers: dict[int, list[str]] = {}
        self._held: list[Any] = []

    def begin(self, name: str, _module: nn.Module, *given: Any) -> None:
        self.now += 1
        self.begins.setdefault(name, []).append(self.now)
        self._given.append(_versions(given))

    def end(self, name: str, _module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.now += 1
        given, gives = _storages((args, kwargs)), _storages(output)
        if self._given.pop() != _versions((args, kwargs)) or given & gives:
            self.sharing.add(name)
        self.ends.setdefault(name, []).append(self.now)
        self._held.append(output)
        for tensor in tree_leaves(output):
            if address(tensor):
                self._makers.setdefault(address(tensor), []).append(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.now += 1
        for tensor in tree_leaves((args, kwargs)):
            for name in self._makers.get(address(tensor), ()):
                self.reads.setdefault(name, []).append(self.now)
        return func(*args, **(kwargs or {}))
