"""Torch-Pruning's dependency graph, told what its trace does not see, stopped where it goes in circles, and quicker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

HOST: Any = sys.modules[tp.DependencyGraph.__module__]
MOST_VISITS = 16
"""How often a group may come by each dependency, in the mean: once in most networks, 12 times in 20 ever wider maps."""
JOINS = ("cat", "concat", "concatenate")
SPLITS = ("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split")


class HostGraph(tp.DependencyGraph):
    """Torch-Pruning's dependency graph of a network, with four mends.

    - A part of a split is a slice of its own. Torch-Pruning has one node for all parts and takes them in the order in
      which they are used, so that a part used twice is taken for two (C2f blocks: IndexError), and takes each part for
      the whole where a parameter of three axes lies before it (the gates of vision transformers: both halves lose the
      channels of one); a gated linear unit it takes for an operation on single elements.
    - What is sliced or concatenated has the size that it has in the trace, also where it is an image or a buffer.
      Torch-Pruning passes over these, takes a slice for the whole, guesses other sizes from the layers before, and
      fails at sums of numbers and None where it cannot (CSP and dual-path networks: TypeError). Where maps grow by
      concatenation from block to block (ReXNet), each block then doubles its time.
    - A group comes by `MOST_VISITS` times as many dependencies as there are at the most, each with no more indices than
      a layer has, and none of which the channel is lost. In attention Torch-Pruning goes in circles, with other indices
      each time (BoTNet, Swin transformers), and each expansion of five axes it takes for the keys that heads share.
    - A group knows what it holds, and the graph is looked through once for how indices pass concatenations, not for
      each group: both take Torch-Pruning most of its time where much is shuffled or concatenated (ShuffleNet,
      DenseNet). So layers must keep their sizes after `build_dependency`.

    Attributes:
        met: the layers and operations whose outputs belong to the group that was last asked for, as far as it came.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Torch-Pruning's has no types
        self._visits, self._most = 0, 0
        self.met: set[nn.Module] = set()
        self._equal: Mapping[Any, int] = {}
        self._mapped = False

    def build_dependency(self, *args: Any, **options: Any) -> HostGraph:
        """Trace the network, see Torch-Pruning's `build_dependency`."""
        with _PartByPart() as parts:
            super().build_dependency(*args, **options)
        self._equal = parts.equal
        largest = max((max(parameter.shape, default=1) for parameter in self.model.parameters()), default=1)
        all_dependencies = [each for node in self.module2node.values() for each in node.dependencies]
        self._most = MOST_VISITS * len(all_dependencies)
        for dependency in all_dependencies:
            dependency.index_mapping = _Watched(dependency.index_mapping, 2 * largest, partial(self._visit, dependency))
        return self

    def get_pruning_group(self, *args: Any, **options: Any) -> tp.dependency.Group:
        """Return a group, see Torch-Pruning's `get_pruning_group`. Raises RecursionError where it finds no end."""
        self._visits, self.met = 0, set()
        with _looked_through_once(mapped=self._mapped):
            group = super().get_pruning_group(*args, **options)
        self._mapped = True
        return group

    def get_out_channels(self, module_or_node: Any) -> int | None:
        """Return how many channels a layer makes; of a slice, of which Torch-Pruning does not know, those it takes."""
        if getattr(module_or_node, "type", None) == tp.ops.OPTYPE.SLICE:
            cut = module_or_node.grad_fn
            sizes, axis = cut._saved_self_sym_sizes, cut._saved_dim
            if axis == (2 if len(sizes) == 3 else 1):
                return len(range(sizes[axis])[cut._saved_start : cut._saved_end : cut._saved_step])
        found: int | None = super().get_out_channels(module_or_node)  # type: ignore[no-untyped-call]  # as above
        return found

    def equal_parts_in(self, group: Any) -> set[int]:
        """Return into how many equal parts the channels of a group are split on its way."""
        met = {self._equal.get(item.dep.target.grad_fn) for item in group.items}
        return {count for count in met if count}

    def _build_dependency(self, module2node: Mapping[Any, Any]) -> None:
        super()._build_dependency(module2node)  # type: ignore[no-untyped-call]  # Torch-Pruning's has no types
        for node in module2node.values():
            if node.type == tp.ops.OPTYPE.CONCAT:
                node.module.concat_sizes = _sizes(node)

    def _visit(self, dependency: Any) -> None:
        self._visits += 1
        if self.is_out_channel_pruning_fn(dependency.handler):
            self.met.add(dependency.target.module)
        if self._visits > self._most:
            raise RecursionError(f"it comes by {self._most} dependencies and finds no end")


class _Known(tp.dependency.Group):
    """A group that knows by layer and pruning function what it holds, where Torch-Pruning's looks through all of it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Torch-Pruning's has no types
        self._held: dict[tuple[Any, Any], list[Any]] = {}

    def add_dep(self, dep: Any, idxs: Any) -> None:
        self._held.setdefault((dep.target, dep.handler), []).append(idxs)
        super().add_dep(dep, idxs)  # type: ignore[no-untyped-call]  # as above

    def has_pruning_op(self, dep: Any, idxs: Any) -> bool:
        return idxs in self._held.get((dep.target, dep.handler), ())


@contextmanager
def _looked_through_once(*, mapped: bool) -> Iterator[None]:
    """Within the block, Torch-Pruning makes groups that know what they hold, of a graph that may be mapped already."""
    before = HOST.Group, HOST.index_mapping.update_index_mapping
    try:
        HOST.Group = _Known
        if mapped:
            HOST.index_mapping.update_index_mapping = lambda _: None
        yield
    finally:
        HOST.Group, HOST.index_mapping.update_index_mapping = before


class _Watched(list[Any]):
    """How indices of one layer become those of the next; each use is told, and what makes no sense is refused."""

    def __init__(self, mappings: list[Any], most: int, visit: Callable[[], None]) -> None:
        super().__init__(mappings)
        self._most, self._visit = most, visit

    def __iter__(self) -> Iterator[Any]:
        self._visit()
        return (mapping if mapping is None else self._checked(mapping) for mapping in super().__iter__())

    def _checked(self, mapping: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def mapped(indices: Any) -> Any:
            found = mapping(indices)
            if len(found) > self._most:
                raise IndexError(f"it makes {len(found)} indices of {len(indices)}, more than any layer has")
            if found and found[0].root_idx is None:
                raise IndexError("where five axes are expanded it forgets which channels it came from")
            return found

        return mapped


class _PartByPart(TorchFunctionMode):
    """Takes the parts into which channels are split as slices, and what is concatenated as results of the network.

    Attributes:
        equal: step of the trace that makes a part -> how many there are, where all are of one size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.equal: dict[Any, int] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name == "glu":
            left, right = self._apart(args[0], args[0].chunk(2, *args[1:], **(kwargs or {})))
            return left * right.sigmoid()
        if name in JOINS and args:
            args = (tuple(map(_as_result, args[0])), *args[1:])
        made = function(*args, **(kwargs or {}))
        return self._apart(args[0], made) if args and name in SPLITS else made

    def _apart(self, whole: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if whole.dim() < 2:
            return parts
        last = whole.dim() == 3 and _axis(parts[0].grad_fn) == -1  # counted so, it is that of the channels for the host
        axis = 2 if last else 1
        sizes = [part.shape[axis] for part in parts]
        if sum(sizes) != whole.shape[axis]:
            return parts
        if last or whole.dim() != 3:  # of three axes the host takes the last for the channels, where it knows of slices
            parts = tuple(map(partial(whole.narrow, axis), accumulate(sizes[:-1], initial=0), sizes))
        if len({*sizes}) == 1:
            self.equal |= {part.grad_fn: len(parts) for part in parts if part.grad_fn is not None}
        return parts


def _as_result(tensor: Tensor) -> Tensor:
    """Return an image or buffer, which a trace by gradients passes over, as the result of an operation."""
    return tensor if tensor.requires_grad or not tensor.is_floating_point() else tensor.detach().requires_grad_() * 1


def _axis(step: Any) -> int | None:
    """Return the axis along which a step of the trace works, below 0 where it is counted from the end; None if none."""
    axis: int | None = getattr(step, "_saved_dim", None)
    return axis if axis is None or axis < 2**63 else axis - 2**64


def _sizes(node: Any) -> list[int] | None:
    """Return the sizes of what is concatenated at a node; None where a part is a weight of the network's."""
    parts = node.grad_fn.next_functions
    if len(parts) != len(node.inputs):
        return None
    axis = _axis(node.grad_fn)
    return [made._input_metadata[place].shape[axis] for made, place in parts]
