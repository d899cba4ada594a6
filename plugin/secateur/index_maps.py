"""Which positions of a layer each channel owns, written briefly: most maps are four numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.errors import PlanError

Indices = tuple[tuple[int, ...], ...]
MOST = 2**24  # positions of one layer: far beyond any, and few enough to write out


def _affine(start: int, stride: int, count: int, step: int, width: int) -> Indices:
    return tuple(tuple(start + stride * c + step * k for k in range(count)) for c in range(width))


def pack_indices(indices: Indices) -> Any:
    """Write index maps of the form start + stride * channel + step * k as four numbers, others as lists."""
    if not indices[0]:
        return [list(owned) for owned in indices]
    start, count = indices[0][0], len(indices[0])
    step = indices[0][1] - start if count > 1 else 1
    stride = indices[1][0] - start if len(indices) > 1 and indices[1] else 1
    if _affine(start, stride, count, step, len(indices)) != indices:
        return [list(owned) for owned in indices]
    return {"start": start, "stride": stride, "count": count, "step": step}


def whole(value: Any) -> int:
    """Return a whole number as it was read from JSON. Raises PlanError for anything else, such as 1.5 or "1"."""
    if type(value) is not int:
        raise PlanError(f"{value!r} stands where a whole number should")
    return value


def unpack_indices(packed: Any, width: int) -> Indices:
    if isinstance(packed, Mapping):
        start, stride, count, step = (whole(packed[k]) for k in ("start", "stride", "count", "step"))
        if width * count > MOST:
            raise PlanError(f"an index map gives {width} channels {count} positions each; no layer has so many")
        indices = _affine(start, stride, count, step, width)
    else:
        indices = tuple(tuple(whole(p) for p in owned) for owned in packed)
    flat = [p for owned in indices for p in owned]
    if len(indices) != width or not flat or min(flat) < 0 or len(set(flat)) != len(flat):
        raise PlanError(f"an index map must give {width} channels their own positions, none shared or negative")
    return indices
