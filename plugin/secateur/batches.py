"""Batches as users have them: anything iterable that yields `(inputs, labels)` or inputs alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.errors import ConfigError, DataError

Batches = Iterable[Any]


def unpack(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return `(inputs, labels)`; labels are None where the batch holds inputs alone, and int64 where they are classes.

    Raises:
        DataError: the batch is neither a tensor nor a pair that starts with one, its inputs hold NaN or infinity, or
            labels are no numbers, or not one for each input.
    """
    if isinstance(batch, Tensor):
        inputs, labels = batch, None
    elif isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor):
        inputs = batch[0]
        labels = _labels(batch[1]) if len(batch) > 1 and batch[1] is not None else None
    else:
        raise DataError(f"a batch must be a tensor of inputs or a pair (inputs, labels); found {_kind(batch)}")
    if not inputs.ndim or (labels is not None and not labels.ndim):
        raise DataError(
            f"a batch must hold inputs (N, ...) and a label for each; found {_kind(batch)}, as data sets give single "
            "images: put a DataLoader around them"
        )
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        raise DataError("a batch of inputs holds NaN or infinite values")
    if labels is not None and len(labels) != len(inputs):
        raise DataError(f"a batch holds {len(inputs)} inputs but {len(labels)} labels")
    return inputs, labels


def opened(batches: Batches) -> Iterator[Any]:
    """Return an iterator over batches.

    Raises:
        DataError: one tensor or array, whose rows would be taken for batches; text, a mapping, or nothing to iterate.

    Example:
        >>> len([*opened([torch.zeros(4, 1)])])
        1
        >>> opened(torch.zeros(4, 1))
        Traceback (most recent call last):
        ...
        secateur.errors.DataError: batches must be a list of batches, a DataLoader or the like; found a Tensor of \
shape (4, 1): put one batch into a list
    """
    if isinstance(batches, (str, bytes, Mapping)) or hasattr(batches, "ndim") or not _can_iterate(batches):
        hint = ": put one batch into a list" if hasattr(batches, "ndim") else ""
        raise DataError(f"batches must be a list of batches, a DataLoader or the like; found a {_kind(batches)}{hint}")
    return iter(batches)


def _can_iterate(batches: Any) -> bool:
    return isinstance(batches, Iterable) or hasattr(batches, "__getitem__")  # a Dataset has the latter alone


def _labels(given: Any) -> Tensor:
    try:
        labels = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"labels must be numbers, one for each input; found {_kind(given)} ({error})") from error
    classes = labels.ndim == 1 and not labels.is_floating_point() and not labels.is_complex()
    return labels.long() if classes else labels


def _kind(found: Any) -> str:
    """Return what something is, for an error: its type, the shape of an array, the kinds of what a pair holds."""
    if isinstance(found, (tuple, list)) and 0 < len(found) <= 3:
        return f"{type(found).__name__} of {', '.join(map(_kind, found))}"
    shape = getattr(found, "shape", None)
    return f"{type(found).__name__} of shape {tuple(shape)}" if isinstance(shape, tuple) else type(found).__name__


def check_repeatable(batches: Batches) -> None:
    """Refuse what can be read only once.

    Raises:
        DataError: a generator or another iterator.

    Example:
        >>> check_repeatable([1, 2])
        >>> check_repeatable(iter([1, 2]))
        Traceback (most recent call last):
        ...
        secateur.errors.DataError: images are read again after each pruning step: give a list or a DataLoader, not a \
generator
    """
    if isinstance(batches, Iterator):
        raise DataError("images are read again after each pruning step: give a list or a DataLoader, not a generator")


def first_inputs(batches: Batches) -> Tensor:
    """Return the inputs of the first batch (N, ...).

    Args:
        batches: any; a generator has lost its first batch afterwards.

    Raises:
        DataError: there is none.

    Example:
        >>> first_inputs([(torch.zeros(4, 3), torch.zeros(4)), (torch.ones(4, 3), torch.ones(4))]).shape
        torch.Size([4, 3])
    """
    return first_batch(batches)[0]


def first_batch(batches: Batches) -> tuple[Tensor, Tensor | None]:
    """Return the inputs of the first batch (N, ...), and its labels or None.

    Args and errors: as `first_inputs`.

    Example:
        >>> first_batch([torch.zeros(4, 3)])[1] is None
        True
    """
    first = next(opened(batches), None)
    if first is None:
        raise DataError("there is no image to trace the network with: the batches are empty")
    return unpack(first)


def rebatch(batches: Batches, size: int | None, *, samples: int | None = None) -> Iterator[Any]:
    """Yield `(inputs, labels)` in batches of exactly `size`, until `samples` inputs have been given.

    With `size=None` batches keep their size, and the last is cut to end at `samples`. A rest that does not fill a
    batch is left out, unless it is all there is; so are empty batches.

    Raises:
        DataError: the inputs differ in shape, or a batch is none (see `unpack`).
    """
    shape: tuple[int, ...] | None = None
    held_inputs: list[Tensor] = []
    held_labels: list[Tensor] = []
    given = held = 0
    for batch in opened(batches):
        inputs, labels = unpack(batch)
        if not len(inputs):
            continue
        if shape is not None and inputs.shape[1:] != shape:
            raise DataError(f"the inputs differ in size: {tuple(shape)} and then {tuple(inputs.shape[1:])}")
        shape = inputs.shape[1:]
        if samples is not None:
            room = samples - given - held
            inputs, labels = inputs[:room], None if labels is None else labels[:room]
        if size is None:
            yield inputs, labels
            given += len(inputs)
        else:
            if held_inputs and (labels is None) != (not held_labels):
                raise DataError("some batches hold labels and others do not: they cannot be put together")
            held_inputs.append(inputs)
            if labels is not None:
                held_labels.append(labels)
            held += len(inputs)
            while held >= size:
                yield _taken(held_inputs, size), _taken(held_labels, size) if held_labels else None
                held -= size
                given += size
        if samples is not None and given + held >= samples:
            break
    if size is not None and held and not given:
        yield torch.cat(held_inputs), torch.cat(held_labels) if held_labels else None


def _taken(held: list[Tensor], size: int) -> Tensor:
    """Take the first `size` rows out of those held, in place."""
    rows: list[Tensor] = []
    while size:
        first = held.pop(0)
        rows.append(first[:size])
        if len(first) > size:
            held.insert(0, first[size:])
        size -= len(rows[-1])
    return torch.cat(rows)


def hold(batches: Batches, *, samples: int, memory: int, least: int = 1) -> tuple[list[Tensor], list[Tensor | None]]:
    """Return the first `samples` inputs and their labels, in the batches that they come in.

    Raises:
        ConfigError: samples < least.
        DataError: there are fewer than `least`, they differ in shape, or the inputs need more than half of `memory`
            bytes.

    Example:
        >>> images, labels = hold([torch.zeros(4, 1), torch.zeros(4, 1)], samples=6, memory=2**20)
        >>> [len(batch) for batch in images], labels
        ([4, 2], [None, None])
    """
    if samples < least:
        raise ConfigError(f"samples must be at least {least}; found {samples}")
    images: list[Tensor] = []
    labels: list[Tensor | None] = []
    for inputs, marks in rebatch(batches, None, samples=samples):
        images.append(inputs)
        labels.append(marks)
        if 2 * sum(batch.nbytes for batch in images) > memory:
            raise DataError(
                f"{sum(map(len, images)):,} images of {tuple(inputs.shape[1:])} need more than "
                f"{memory / 2**21:,.0f} MiB, half of the memory allowed: take fewer samples, or allow more memory"
            )
    if sum(map(len, images)) < least:
        raise DataError("there are no images to read: the batches are empty")
    return images, labels


def begin_epoch(batches: Batches, number: int) -> None:
    """Tell batches, or the sampler of a DataLoader, which epoch comes next, where they have `set_epoch`.

    torch's DistributedSampler draws the order of its images from that number.

    Example:
        >>> class Counting(list):
        ...     def set_epoch(self, epoch):
        ...         print("epoch", epoch)
        >>> begin_epoch(Counting(), 3)
        epoch 3
        >>> begin_epoch([], 3)
    """
    for holder in (batches, getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)):
        tell = getattr(holder, "set_epoch", None)
        if callable(tell):
            tell(number)
