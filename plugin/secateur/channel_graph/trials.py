"""Groups tried on a network before they are believed: their channels removed, against the same channels masked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from secateur.channel_graph.awake import awake
from secateur.channel_graph.outputs import TOLERANCE
from secateur.channel_graph.verify import attends, check_repeats, difference, mixes_channels, runs
from secateur.protocols import Kept
from secateur.records import ChannelGroup

NO_LONGER_RUNS = "the network does not run any more, or its outputs change their shape, once its channels are removed"


class Trials:
    """A network on which groups are tried.

    Args:
        model: the network, which is left as it is.
        inputs: the tuple of its arguments.

    Cost: two forward passes, and a copy where something hides a branch from the outputs, see `awake`.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._model, self._inputs = awake(model, inputs), inputs
        self._repeats = False

    def wrong(self, groups: Sequence[ChannelGroup]) -> dict[str, str]:
        """Return the names of the groups that are to be left alone, and why: their removal is not what masking is.

        Raises:
            NetworkError: what the network does is random, NaN or infinite, see `check_repeats`.

        Cost: two forward passes and a copy for all groups together, and for each only where something is wrong.
        """
        by_name = {group.name: group for group in groups}
        kept = {group.name: _lopsided(group, idx) for idx, group in enumerate(groups)}
        mixed = [name for name in kept if mixes_channels(self._model, by_name[name])]
        clear = [name for name in mixed if not attends(self._model, by_name[name])]

        def apart(tried: Kept, *, unmixed: bool = False) -> float:
            return difference(self._model, by_name, tried, self._inputs, unmixed=unmixed)

        def stops(tried: Kept) -> float:
            return 0.0 if runs(self._model, by_name, tried, self._inputs) else math.inf

        found = self._each({name: kept[name] for name in kept if name not in mixed}, apart)
        found |= self._each({name: kept[name] for name in clear}, partial(apart, unmixed=True))
        found |= self._each({name: kept[name] for name in mixed if name not in found}, stops)
        return {group.name: _said(found[group.name]) for group in groups if group.name in found}

    def _each(self, kept: Kept, difference_of: Callable[[Kept], float]) -> dict[str, float]:
        """Return the differences that are too large, of each group alone; none where all together make none."""
        together = difference_of(kept) if kept else 0.0
        if together <= TOLERANCE:
            return {}
        if not self._repeats:
            check_repeats(self._model, self._inputs)
            self._repeats = True
        if len(kept) == 1:
            return dict.fromkeys(kept, together)
        alone = {name: difference_of({name: channels}) for name, channels in kept.items()}
        return {name: found for name, found in alone.items() if not found <= TOLERANCE}


def _said(difference: float) -> str:
    if difference == math.inf:
        return NO_LONGER_RUNS
    return f"removing its channels is not the same as masking them: the outputs differ by {difference:.0e}"


def _lopsided(group: ChannelGroup, idx: int) -> tuple[int, ...]:
    """Return channels to keep that no shuffle or swap of halves maps onto themselves, nor onto the next group's."""
    first = max(1, group.width // 3) + idx % max(1, group.width // 2)
    return tuple(sorted({*range(first, group.width), *map(max, group.parts)}))
