"""The user's own data: whatever an import path returns, checked batch by batch.

The callable returns its splits as a mapping, as an object with attributes, or as a tuple `(train, test)` or
`(train, validation, test)`:

    train        batches to train on; also scored on, unless there is
    calibration  batches of training images without augmentation (optional, beside validation)
    validation   batches to judge candidates on (optional)
    test         held-out batches
    classes      how many classes there are (optional)

Batches are `(inputs, labels)`: (N, C, H, W) floating and (N,) whole numbers. A split is anything that can be iterated
more than once, such as a list or a DataLoader. Without `validation`, the training batches are read once into memory
and a share of their images is set aside; give `validation` where that is too much or where images are augmented.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from secateur.batches import begin_epoch, rebatch
from secateur.errors import DataError, SecateurError
from secateur_cli.failures import described, place
from secateur_cli.inputs.epochs import Batch
from secateur_cli.inputs.images import Pixels
from secateur_cli.settings.config import nearest

SPLITS = ("train", "calibration", "validation", "test")


@dataclass(frozen=True)
class UserBatches:
    """One split of the user's data; each batch is checked when it is read.

    Attributes:
        name: what to call the split in errors.
        source: the user's iterable.
        classes: labels lie in 0..classes - 1; None: any that are not negative.
        limit: at most so many images; None: all.
    """

    name: str
    source: Iterable[Any]
    classes: int | None = None
    limit: int | None = None

    def __iter__(self) -> Iterator[Batch]:
        try:
            for inputs, labels in rebatch(self._read(), None, samples=self.limit):
                yield self._check(inputs, labels)
        except DataError as error:
            raise DataError(f"data split {self.name!r}: {error}") from error

    def _read(self) -> Iterator[Any]:
        try:
            yield from self.source
        except SecateurError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise DataError(f"reading it failed: {described(error)} ({place(error)})") from error

    def set_epoch(self, number: int) -> None:
        """Tell the user's batches or their sampler which epoch comes next, where they want to know."""
        begin_epoch(self.source, number)

    def fresh(self) -> UserBatches:
        """Return the same batches; their order is the user's affair."""
        return self

    def check(self, *, several_classes: bool = False) -> Tensor:
        """Read the first batch and return its inputs; with `several_classes`, read on until a second class is met.

        Raises:
            DataError: there is no batch, it cannot be used, or all labels are the same.
        """
        if isinstance(self.source, Iterator):
            raise DataError(f"data split {self.name!r} can be read only once; return a list or a DataLoader instead")
        first: Tensor | None = None
        one = None
        for inputs, labels in replace(self, limit=None):
            first = inputs if first is None else first
            one = int(labels[0]) if one is None else one
            if not several_classes or bool((labels != one).any()):
                return first
        if first is None:
            raise DataError(f"data split {self.name!r} is empty")
        raise DataError(f"data split {self.name!r} has images of one class only, {one}; at least two are needed")

    def _check(self, inputs: Tensor, labels: Tensor | None) -> Batch:
        if inputs.ndim != 4 or not inputs.is_floating_point():
            kind = str(inputs.dtype).removeprefix("torch.")
            raise DataError(f"inputs must be floating (N, C, H, W); found {kind} {tuple(inputs.shape)}")
        if labels is None:
            raise DataError("it has no labels; batches must be pairs (inputs, labels)")
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            kind = str(labels.dtype).removeprefix("torch.")
            raise DataError(f"labels must be whole numbers (N,); found {kind} {tuple(labels.shape)}")
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
        if low < 0 or (self.classes is not None and high >= self.classes):
            allowed = "0 and up" if self.classes is None else f"0..{self.classes - 1}"
            raise DataError(f"labels must be {allowed}; found {low if low < 0 else high}")
        return inputs.to(torch.float32), labels.to(torch.int64)


def user_splits(returned: Any, path: str, *, limit: int | None = None) -> dict[str, UserBatches]:
    """Return the splits of what `path` returned, by name; `calibration` falls back on `train`.

    Raises:
        DataError: it is none of what this module's docstring lists, a split is missing, empty or cannot be used, the
            held-out images are those to train on, or there is calibration without validation.
    """
    given = _by_name(returned, path)
    classes = given.pop("classes", None)
    if classes is not None and (not isinstance(classes, Integral) or classes < 2):
        raise DataError(f"{path!r}: classes must be a whole number, at least 2; found {classes!r}")
    if "calibration" in given and "validation" not in given:
        raise DataError(
            f"{path!r} returned calibration without validation, for which images of train would be set aside that "
            "calibration may hold; return validation too, or no calibration"
        )
    for name in ("train", "calibration", "validation"):
        if name in given and _images(given[name]) is _images(given["test"]):
            raise DataError(
                f"{path!r}: test and {name} are the same; held-out images are never trained or scored on, nor do they "
                "choose epochs or candidates; where validation is left out, images of train are set aside for that"
            )
    splits = {}
    for name, source in given.items():
        if not isinstance(source, Iterable):
            raise DataError(f"{path!r}: {name} must yield batches (inputs, labels); found {type(source).__name__}")
        splits[name] = UserBatches(name, source, None if classes is None else int(classes), limit)
    for name, split in splits.items():
        split.check(several_classes=name in ("train", "test"))
    return {"calibration": replace(splits["train"], name="calibration")} | splits


def in_memory(batches: UserBatches) -> Pixels:
    """Read a split once and return its images as they are."""
    inputs, labels = zip(*batches, strict=True)
    return Pixels(torch.cat(inputs), torch.cat(labels), levels=1.0)


def _images(source: Any) -> Any:
    """Return the object that holds the images: the dataset of a DataLoader that reads all of it, else the batches."""
    if not isinstance(source, DataLoader) or source.batch_size is None:  # batches of the user's own choice
        return source
    sampler, images = source.sampler, cast(Any, source.dataset)
    whole = isinstance(sampler, (RandomSampler, SequentialSampler)) and sampler.data_source is images
    return images if whole else source


def _by_name(returned: Any, path: str) -> dict[str, Any]:
    known = (*SPLITS, "classes")
    if isinstance(returned, Mapping):
        strange = [name for name in returned if name not in known]
        if strange:
            raise DataError(f"{path!r} returned the unknown split {strange[0]!r}; {nearest(str(strange[0]), known)}")
        given = dict(returned)
    elif hasattr(returned, "train") and hasattr(returned, "test"):
        given = {name: getattr(returned, name) for name in known if hasattr(returned, name)}
    elif isinstance(returned, tuple) and len(returned) in (2, 3):
        given = dict(
            zip(("train", "test") if len(returned) == 2 else ("train", "validation", "test"), returned, strict=True)
        )
    else:
        raise DataError(
            f"{path!r} returned a {type(returned).__name__}; it must return a mapping or an object with train and test "
            "(and validation), or a tuple (train, test) or (train, validation, test)"
        )
    given = {name: split for name, split in given.items() if split is not None}
    missing = [name for name in ("train", "test") if name not in given]
    if missing:
        raise DataError(f"{path!r} returned no {' and no '.join(missing)}; it must return train and test")
    return given
