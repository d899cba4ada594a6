"""When the modules of a network begin and end, and when their outputs are read: one forward pass, written down."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.feature_maps.trail import address
from secateur.modes import device_of, evaluating


@dataclass(frozen=True)
class Timeline:
    """When modules first began, the spans of those that ran exactly once, and when the outputs of these were read.

    Time counts the beginnings and ends of modules and the operations between them.

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
        with ExitStack() as stack:
            for name, module in network.named_modules():
                if name:
                    stack.callback(module.register_forward_pre_hook(lambda *_, name=name: clock.begin(name)).remove)
                    stack.callback(module.register_forward_hook(lambda *a, name=name: clock.end(name, a[2])).remove)
            stack.enter_context(evaluating(network))
            stack.enter_context(torch.no_grad())
            stack.enter_context(clock)
            network(example.to(device_of(network)))
        if any(_keeps_tensors(module) for module in network.modules()):
            return cls()
        spans = {name: (calls[0], clock.ends[name][0]) for name, calls in clock.begins.items() if len(calls) == 1}
        return cls(
            {name: calls[0] for name, calls in clock.begins.items()},
            spans,
            {name: clock.reads.get(name, []) for name in spans},
        )

    def ended_before(self, layer: str) -> list[str]:
        """Return the modules that ran once and ended before `layer` began, the last first."""
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


class _Clock(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves the base untyped
    """Writes down when modules begin and end and when their outputs are read; no held address recurs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.now = 0
        self.begins: dict[str, list[int]] = {}
        self.ends: dict[str, list[int]] = {}
        self.reads: dict[str, list[int]] = {}
        self._makers: dict[int, list[str]] = {}
        self._held: list[Any] = []

    def begin(self, name: str) -> None:
        self.now += 1
        self.begins.setdefault(name, []).append(self.now)

    def end(self, name: str, output: Any) -> None:
        self.now += 1
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
