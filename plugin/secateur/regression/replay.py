"""Run the beginning of a network once, however often the layers behind it are read.

Layers are solved for one after another, and each needs the network run up to it. What ended before the layer begins
will give what it gave the last time, so the outputs of the outermost modules that ended are kept and given again. Of
those, outputs that are read inside of such modules alone are not needed either: a tensor of the same shape that takes
no memory stands for them. The rest of the network's code runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from secateur.regression.timeline import Timeline


class Replay:
    """The outputs of a network's beginning, kept from one run over some batches to the next.

    Args:
        network: what ended before the layer that is asked for must not change between two runs; the weights of that
            layer and of later ones may.
        images: the batches.
        memory: bytes that the outputs may take; what does not fit is computed again.

    A network whose modules keep tensors between calls, other than parameters and buffers, is always run whole: it may
    hand values on in ways that cannot be seen.

    Cost: a run on two images; then, for each layer asked for, what lies between it and the one asked for before.

    Example:
        >>> import torch
        >>> network, images = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval(), [torch.ones(1, 2)]
        >>> replay = Replay(network, images, memory=2**20)
        >>> with torch.inference_mode():
        ...     for _ in range(2):
        ...         with replay.before("2") as at:
        ...             at(0)
        ...             _ = network(images[0])
        >>> replay.held
        ['1']
    """

    def __init__(self, network: nn.Module, images: Sequence[Tensor], *, memory: int) -> None:
        self._modules = dict(network.named_modules())
        self._timeline = Timeline.of(network, images[0][:2])
        self._places = len(images)
        self._memory = memory
        self._kept: dict[str, dict[int, Tensor]] = {}
        self._shapes: dict[str, dict[int, Tensor]] = {}
        self._too_large: set[str] = set()

    @property
    def held(self) -> list[str]:
        """The modules whose outputs are kept."""
        return [name for name, outputs in self._kept.items() if outputs]

    @contextmanager
    def before(self, layer: str) -> Iterator[Callable[[int], None]]:
        """In the block, what ended before `layer` is given again.

        Before each run call the yielded function with the batch's number.
        """
        ended = self._timeline.ended_before(layer)
        given, skipped = self._timeline.needed(
            ended, kept=self._complete(self._kept), seen=self._complete(self._shapes)
        )
        fresh = self._timeline.outermost(
            [name for name in ended if name not in self._too_large], behind=given | skipped
        )
        later, _ = self._timeline.needed(ended, kept=given | fresh, seen=set(ended))
        place = -1

        def at(number: int) -> None:
            nonlocal place
            self._forget(place, but=later)
            place = number

        def shape_of(name: str) -> Callable[[Callable[[], Any]], Any]:
            return lambda _: self._shapes[name][place]

        def output_of(name: str) -> Callable[[Callable[[], Any]], Any]:
            return lambda compute: self._output(name, place, compute, keep=name in later)

        with ExitStack() as stack:
            for name in skipped:
                stack.enter_context(instead(self._modules[name], shape_of(name)))
            for name in given | fresh | set(self.held):
                stack.enter_context(instead(self._modules[name], output_of(name)))
            yield at
        self._forget(place, but=later)

    def _output(self, name: str, place: int, compute: Callable[[], Any], *, keep: bool) -> Any:
        """Return the output kept for a batch, or compute it, and keep it or its shape.

        Copies are given and kept, since what follows may work in place.
        """
        if place in self._kept.get(name, {}):
            return self._kept[name][place].clone()
        output = compute()
        if not isinstance(output, Tensor):
            self._too_large.add(name)
            return output
        self._shapes.setdefault(name, {})[place] = output.new_zeros(()).expand(output.shape)
        if keep and name not in self._too_large:
            held = sum(tensor.nbytes for outputs in self._kept.values() for tensor in outputs.values())
            if held + output.nbytes > self._memory:
                self._too_large.add(name)
                self._kept.pop(name, None)
            else:
                self._kept.setdefault(name, {})[place] = output.clone()
        return output

    def _forget(self, place: int, *, but: set[str]) -> None:
        """Drop a batch's outputs that later runs will not need, unless what would replace them was refused."""
        if but & self._too_large:
            return
        for name, outputs in self._kept.items():
            if name not in but:
                outputs.pop(place, None)

    def _complete(self, outputs: dict[str, dict[int, Tensor]]) -> set[str]:
        return {name for name, by_place in outputs.items() if len(by_place) == self._places}


@contextmanager
def instead(module: nn.Module, forward: Callable[[Callable[[], Any]], Any]) -> Iterator[None]:
    """In the block, calls of `module` return `forward(compute)`, where `compute()` is what they would have returned."""
    original = module.forward
    own = "forward" in vars(module)

    def replaced(*args: Any, **kwargs: Any) -> Any:
        return forward(lambda: original(*args, **kwargs))

    module.forward = replaced
    try:
        yield
    finally:
        if own:
            module.forward = original
        else:
            del module.forward
