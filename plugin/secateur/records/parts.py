"""Parts of a channel group: channels of which one must stay, so that no layer loses all that it has of the group.

All channels of a group are such a part. Behind a concatenation there are others: layers that only some of the group's
channels pass through.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from secateur.index_maps import Indices


def smallest_parts(width: int, owned: Iterable[Indices]) -> tuple[frozenset[int], ...]:
    """Return the sets of channels of which one must stay, without those that hold another of them.

    Args:
        width: of the group.
        owned: the index map of each layer that becomes smaller when channels go.

    Example:
        >>> first, both = ((0,), (1,), ()), ((0,), (1,), (2,))
        >>> smallest_parts(3, [both]), smallest_parts(3, [first, both])
        ((frozenset({0, 1, 2}),), (frozenset({0, 1}),))
    """
    partial = [
        frozenset(c for c, positions in enumerate(indices) if positions) for indices in owned if not all(indices)
    ]
    found = dict.fromkeys([frozenset(range(width)), *filter(None, partial)])
    return tuple(part for part in found if not any(other < part for other in found))


def spare(going: Sequence[int], parts: Iterable[Collection[int]]) -> list[int]:
    """Return channels in the order in which they go, once of each part the one that would go last goes after all.

    Nothing moves where the last to go of a part is the last of all, as with the part of all channels.

    Example:
        >>> spare([0, 1, 2, 3], [{0, 1}, {2, 3}]), spare([0, 1, 2, 3], [{0, 1, 2, 3}])
        ([0, 2, 1, 3], [0, 1, 2, 3])
    """
    place = {channel: rank for rank, channel in enumerate(going)}
    spared = {max(part, key=place.__getitem__) for part in parts}
    return sorted(going, key=lambda channel: channel in spared)
