"""Runs of one network that differ from some layer on: what they have in common is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.modes import evaluating, own_copy
from secateur.regression.replay import instead
from secateur.regression.timeline import Timeline


@dataclass
class Beginning:
    """What modules gave on one batch: the outputs that later runs read, and the shapes of those that they do not."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    shapes: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def joined(parts: Sequence[Beginning]) -> Beginning:
        """Return what was given on several batches as if they had been one."""
        return Beginning(
            {name: torch.cat([part.outputs[name] for part in parts]) for name in parts[0].outputs},
            parts[0].shapes,
        )


class Forks:
    """Where runs of a network can leave a common one, and what they need to know of it there.

    Of what ended before a layer begins, only the outputs that are read later on are kept; modules whose outputs are
    read inside of others that ended are not needed at all. Modules without a span in the network's timeline
    (`secateur.regression.timeline`), such as those with hooks, always run.

    Args:
        network: with the module names of all networks that will be run: itself, or what surgery leaves of it.
        example: a small batch. What does not grow with it, image by image, is not kept.

    Attributes:
        repeated: the modules that run more than once, or have no span for another reason.

    Cost: three runs on the example, one of them with an image more.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
        >>> forks, images = Forks(network, torch.ones(1, 2)), torch.ones(3, 2)
        >>> with torch.no_grad(), forks.keeping(network, ["2"]) as begun:
        ...     whole = network(images)
        >>> list(begun.outputs)
        ['1']
        >>> with torch.no_grad(), forks.resuming(network, "2", begun):
        ...     print(torch.equal(network(torch.zeros(3, 2)), whole))
        True
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self._timeline = Timeline.of(network, example)
        self.repeated = frozenset(self._timeline.begins.keys() - self._timeline.spans.keys())
        self._reused: set[str] = set()  # what follows works in place on these
        self._needs: dict[str, tuple[set[str], set[str]]] = {}
        few = self._look(network, example)
        more = self._look(network, torch.cat([example, example[:1]]))
        self._sizes = {name: size for name, size in few.items() if name in more}

    def _look(self, network: nn.Module, images: Tensor) -> dict[str, int]:
        """Return how many bytes an image takes in each output that is as long as the batch."""
        sizes: dict[str, int] = {}
        seen: dict[str, tuple[Tensor, int]] = {}

        def look(name: str, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim and len(output) == len(images):
                sizes[name] = output.nbytes // len(images)
                seen[name] = (output, output._version)

        with _listening(network, self._timeline.spans, look), evaluating(network), torch.no_grad():
            network(own_copy(network, images))
        self._reused |= {name for name, (output, version) in seen.items() if output._version != version}
        return sizes

    def first(self, layers: Iterable[str]) -> str:
        """Return which of some layers begins first; the empty string, for the whole network, if one never runs."""
        begins = [(self._timeline.begins.get(layer, 0), layer) for layer in layers]
        time, layer = min(begins, default=(0, ""))
        return layer if time else ""

    def bytes_for(self, layers: Iterable[str]) -> int:
        """Return how many bytes an image takes while runs wait to leave at these layers, in the dense network."""
        return sum(self._sizes[name] for name in set().union(*(self._needed(layer)[0] for layer in layers)))

    @contextmanager
    def keeping(self, network: nn.Module, layers: Iterable[str]) -> Iterator[Beginning]:
        """In the block, a run of `network` writes down what the runs that leave at these layers need."""
        begun = Beginning()
        needed = [self._needed(layer) for layer in layers]
        given: set[str] = set().union(*(outputs for outputs, _ in needed))
        skipped: set[str] = set().union(*(shapes for _, shapes in needed))

        def keep(name: str, output: Tensor) -> None:
            if name in given:
                begun.outputs[name] = output.clone() if name in self._reused else output
            begun.shapes[name] = output.new_zeros(()).expand(output.shape)

        with _listening(network, given | skipped, keep):
            yield begun

    @contextmanager
    def resuming(
        self, network: nn.Module, layer: str, begun: Beginning, images: Tensor | None = None
    ) -> Iterator[None]:
        """In the block, a run of `network` gives what ended before `layer`, and computes the rest.

        Args:
            network: the one that was begun, changed from `layer` on.
            layer: one of those that `begun` was made for.
            begun: what was given on a batch.
            images: which of that batch are run, (n,); None for all.
        """
        given, skipped = self._needed(layer)

        def output_of(name: str) -> Tensor:
            output = begun.outputs[name]
            if images is not None:
                return output[images]
            return output.clone() if name in self._reused else output

        def shape_of(name: str) -> Tensor:
            shape = begun.shapes[name]
            return shape if images is None else shape[:1].expand(len(images), *shape.shape[1:])

        with ExitStack() as stack:
            for names, value in ((given, output_of), (skipped, shape_of)):
                for name in names:
                    module = network.get_submodule(name)
                    stack.enter_context(instead(module, _constant(value, name)))
            yield

    def _needed(self, layer: str) -> tuple[set[str], set[str]]:
        if layer not in self._needs:
            ended = [name for name in self._timeline.ended_before(layer) if name in self._sizes]
            self._needs[layer] = self._timeline.needed(ended, kept=ended, seen=ended)
        return self._needs[layer]


@contextmanager
def _listening(network: nn.Module, names: Iterable[str], hear: Callable[[str, Any], None]) -> Iterator[None]:
    """In the block, `hear(name, output)` is told what modules give."""
    with ExitStack() as stack:
        for name in names:
            hook = network.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: hear(name, output)
            )
            stack.callback(hook.remove)
        yield


def _constant(value: Callable[[str], Tensor], name: str) -> Callable[[Callable[[], Any]], Tensor]:
    return lambda _compute: value(name)
