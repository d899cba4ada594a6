"""Hand over each layer's feature map while the network runs: one forward pass, all layers, nothing kept.

Forward hooks say which layer made a tensor; a dispatch mode sees every operation below modules and functions, and moves
the layer's `Trail` along until an operation ends it. The feature map is handed over before that operation runs, because
it may overwrite the map in place.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.addresses import address
from secateur.errors import ConfigError, NetworkError
from secateur.feature_maps.kinship import Kinship
from secateur.feature_maps.operations import Kind, kind_of
from secateur.feature_maps.trail import Trail, is_held_elsewhere, tensors_among
from secateur.modes import unwrapped

Tap = Literal["act", "bn", "conv", "sum"]
Receive = Callable[[str, Tensor], None]

_KEPT = frozenset({Kind.COPY, Kind.VIEW, Kind.PERMUTATION, Kind.LIFT, Kind.LOOK, Kind.GLOBAL_POOL})
_NORMS = frozenset({Kind.NORM, Kind.BATCH_NORM})
_FOLLOWED: dict[Tap, frozenset[Kind]] = {
    "act": frozenset(Kind),
    "bn": _KEPT | _NORMS,
    "sum": _KEPT - {Kind.GLOBAL_POOL} | {Kind.BATCH_NORM, Kind.DROPOUT, Kind.SUM},  # a pool may join the sum by a gate
    "conv": frozenset({Kind.LOOK}),
}
_SETTLED_BY: dict[Tap, frozenset[Kind]] = {
    "act": frozenset({Kind.ACTIVATION, Kind.CHOICE}),
    "bn": _NORMS,
    "sum": frozenset({Kind.SUM}),
    "conv": frozenset(),
}


@contextmanager
def tapped(
    model: nn.Module, receive: Receive, *, layers: Iterable[str] | None = None, tap: Tap = "act"
) -> Iterator[nn.Module]:
    """Call `receive(layer, feature_map)` for each call of each layer in every forward pass inside the block.

    Taps, for a layer with the output x:

    - "act": what the layer's readers see: after normalisation and activation and, for layers before a residual sum or a
      concatenation, after these (`secateur.feature_maps.trail` states the rules).
    - "bn": after the layer's own normalisation, before any sum or activation; x itself where none follows directly.
    - "conv": x itself.
    - "sum": after the residual sum that x, or x behind its batch norm, is added in, before any activation; where there
      is no such sum, after the batch norm; x itself where neither follows directly. A sum of x with itself, or of a
      multiple of x, is none.

    Args:
        model: the network, which is left as it was; of `DataParallel` and `DistributedDataParallel` the network inside.
        receive: gets the layer's name and its feature map: (N, C, H, W) from a 2d convolution, (N, C, L) and
            (N, C, D, H, W) from 1d and 3d, (N, ..., C) from a linear layer. The tensor is valid during the call only,
            since the network may overwrite it in place later: keep numbers or a clone, never the tensor. It may be a
            view that is not contiguous. A layer that runs twice in one pass is handed over twice.
        layers: names as in `model.named_modules()`; None for every convolution and linear layer.
        tap: see above.

    Yields:
        The network to call: `model` without its wrapper.

    Raises:
        ConfigError: an unknown tap.
        NetworkError: the network is compiled or scripted, so that its operations cannot be seen; a name in `layers`
            does not exist or is neither a convolution nor a linear layer.

    Cost: a few microseconds an operation. Memory: the maps on which the network itself is working; one that nothing
        has carried on is handed over when the network lets it go, at the next layer's call.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Conv2d(2, 4, 3))
        >>> seen = {}
        >>> with tapped(network.eval(), lambda layer, maps: seen.update({layer: tuple(maps.shape)})):
        ...     _ = network(torch.zeros(5, 1, 8, 8))
        >>> seen
        {'0': (5, 2, 6, 6), '3': (5, 4, 4, 4)}

    Deviations from the published code of [Lin2020]_, which hooks modules chosen by hand for each network: the same
    tensors are found on any network, all in one pass.

    .. [Lin2020] M. Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020.
    """
    if tap not in get_args(Tap):
        raise ConfigError(f"unknown tap {tap!r}; allowed: {', '.join(get_args(Tap))}")
    with _following(model, receive, layers, followed=_FOLLOWED[tap], settles=_SETTLED_BY[tap]) as network:
        yield network


@contextmanager
def summed(model: nn.Module, receive: Receive, *, layers: Iterable[str] | None = None) -> Iterator[nn.Module]:
    """Do as `tapped` with the tap "sum", but find the sum behind any normalisation, not behind batch norm alone.

    The map then says where a layer's output is summed, and no longer how much the sum moves with it.

    Example:
        >>> import torch
        >>> class Block(nn.Sequential):
        ...     def forward(self, x):
        ...         return x + super().forward(x)
        >>> block, seen = Block(nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2)).eval(), []
        >>> with summed(block, lambda layer, maps: seen.append(maps.clone())):
        ...     output = block(torch.ones(1, 2, 3, 3))
        >>> torch.equal(seen[0], output)
        True
    """
    with _following(model, receive, layers, followed=_FOLLOWED["sum"] | _NORMS, settles=_SETTLED_BY["sum"]) as network:
        yield network


@contextmanager
def _following(
    model: nn.Module,
    receive: Receive,
    layers: Iterable[str] | None,
    *,
    followed: frozenset[Kind],
    settles: frozenset[Kind],
) -> Iterator[nn.Module]:
    network = unwrapped(model)
    follower = _Follower(receive, followed=followed, settles=settles)
    with ExitStack() as stack:
        for name, module in producers(network, layers).items():
            stack.callback(module.register_forward_hook(_hook(name, follower)).remove)
        stack.callback(network.register_forward_pre_hook(lambda *_: follower.forget()).remove)
        stack.callback(network.register_forward_hook(lambda *_: follower.finish()).remove)
        stack.enter_context(follower)
        yield network
        follower.finish()


def producers(model: nn.Module, layers: Iterable[str] | None = None) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers of a network by name, in its own order.

    Raises:
        NetworkError: a name in `layers` does not exist or belongs to another kind of module.

    Example:
        >>> list(producers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))))
        ['0', '3']
    """
    kinds: tuple[type[nn.Module], ...] = (_ConvNd, nn.Linear)
    found = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    if layers is None:
        return found
    if isinstance(layers, str):
        raise NetworkError(f"layers must be a list of names; found the single name {layers!r}")
    asked = list(layers)
    for name in asked:
        if name not in found:
            raise NetworkError(_unknown(name, model, found))
    return {name: found[name] for name in found if name in asked}


def _unknown(name: str, model: nn.Module, found: Mapping[str, nn.Module]) -> str:
    modules = dict(model.named_modules())
    if name in modules:
        kind = type(modules[name]).__name__
        return f"layer {name!r} is a {kind}; only convolutions and linear layers have feature maps"
    near = difflib.get_close_matches(name, found, n=3)
    return f"the network has no layer {name!r}" + (f"; did you mean {', '.join(map(repr, near))}?" if near else "")


def _hook(name: str, follower: _Follower) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise NetworkError(f"layer {name!r} returns {type(output).__name__}, not a tensor")
        spatial = len(module.kernel_size) if isinstance(module, _ConvNd) else 0
        axis = output.ndim - spatial - 1
        follower.sweep()
        shape, order = output.shape, tuple(range(output.ndim))
        follower.start(Trail(name, output.detach(), address(output), shape, axis, order, start=0, width=shape[axis]))

    return hook


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves the base untyped
    """Moves the trails along; only operations that read a tensor on a trail, or kin of it, are looked at."""

    def __init__(self, receive: Receive, *, followed: frozenset[Kind], settles: frozenset[Kind]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._receive = receive
        self._followed = followed
        self._settles = settles
        self._kinship = Kinship()
        self._trails: dict[int, list[Trail]] = {}  # by address; a trail keeps its tensor, so no address is used twice

    def start(self, trail: Trail) -> None:
        if trail.place:
            self._trails.setdefault(trail.place, []).append(trail)
        else:
            self._hand_over(trail)

    def sweep(self) -> None:
        """Hand over the maps that the network itself has let go: nothing will read them again."""
        for place, shared in [*self._trails.items()]:
            if not is_held_elsewhere(shared[0].tensor, holders=sum(trail.holds for trail in shared)):
                del self._trails[place]
                for trail in shared:
                    self._hand_over(trail)

    def forget(self) -> None:
        """Drop what a forward pass that failed has left."""
        self._trails.clear()
        self._kinship.forget()

    def finish(self) -> None:
        """Hand over what nothing has read: the network's outputs."""
        trails, self._trails = self._trails, {}
        self._kinship.forget()
        for shared in trails.values():
            for trail in shared:
                self._hand_over(trail)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, kind = kwargs or {}, kind_of(func)
        if kind is Kind.LOOK:  # which every tap follows, and which leaves all where it is
            return func(*args, **kwargs)
        read = [*tensors_among((*args, *kwargs.values()) if kwargs else args)]
        met: list[Trail] = []
        for tensor in read if self._trails else ():
            if shared := self._trails.pop(address(tensor), None):
                self._kinship.reads(kind, tensor, shared)
                met += shared
        family = self._kinship.family(kind, read)
        if family.joined:
            met += self._left_behind(family.joined)
        onward: list[tuple[Kind, Trail, bool]] = []
        for trail in met:
            kin = trail.origin in family.joined
            if kind is not None and self._follows(kind, args, kwargs) and trail.passes(kind, args, kin=kin):
                onward.append((kind, trail, kin))
            else:
                self._hand_over(trail)
        result = func(*args, **kwargs)
        output = result[0] if isinstance(result, (tuple, list)) else result
        self._kinship.made(family, read, output)
        for followed, trail, kin in onward:
            ends = kin and family.bent and Kind.ACTIVATION in self._settles
            self.start(trail.moved(followed, args, output, kin=kin, settled=ends or followed in self._settles))
        return result

    def _follows(self, kind: Kind, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        if kind is Kind.SUM and kind in self._settles:
            plain = kwargs.get("alpha", 1) == 1
            return plain and address(args[0]) != address(args[1])
        return kind in self._followed

    def _left_behind(self, origins: frozenset[object]) -> list[Trail]:
        """Remove and return the trails of which an operation joins kin alone, and not their tensors."""
        found: list[Trail] = []
        for place, shared in [*self._trails.items()]:
            if all(trail.origin in origins for trail in shared):
                found += self._trails.pop(place)
        return found

    def _hand_over(self, trail: Trail) -> None:
        self._receive(trail.layer, trail.feature_map())
