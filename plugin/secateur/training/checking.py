"""What is checked before the first step: batches that can be read again, labels that the network can answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
from torch import Tensor, nn

from secateur.batches import Batches, opened, unpack
from secateur.distributed import Across, jointly
from secateur.errors import ConfigError, DataError
from secateur.evaluation import check_labels
from secateur.evaluation.arithmetic import fastest_format
from secateur.modes import device_of, evaluating, reading
from secateur.precision import Precision, check_precision, check_scaling


def check_data(
    model: nn.Module,
    train: Batches,
    validate: Batches | None,
    *,
    precision: Precision = "float32",
    across: Across = None,
) -> tuple[Tensor, Tensor, int]:
    """Return the first inputs, the network's answers to them, and the number of batches of an epoch.

    Raises:
        DataError: batches that can be read only once, no batch, no validation batch, labels that the network cannot
            answer, or with `across` processes that have different numbers of batches.
        ConfigError: a precision that the device does not compute in, or that the weights are not trained in; called
            under torch.inference_mode.

    Example:
        >>> inputs, answers, batches = check_data(nn.Linear(2, 3), [(torch.ones(4, 2), torch.arange(4) % 3)] * 2, None)
        >>> answers.shape, batches
        (torch.Size([4, 3]), 2)
    """
    held: list[tuple[Tensor, Tensor]] = []

    def check() -> int:
        if torch.is_inference_mode_enabled():
            raise ConfigError("training needs gradients, and torch.inference_mode has none: call it outside of that")
        check_precision(device_of(model), precision)
        check_scaling(model, precision)
        inputs, answers, batches = _check_train(model, train)
        held.append((inputs, answers))
        if validate is not None:
            _check_validation(validate, answers)
        return batches

    counts = jointly(check, across, what="training", network=model)
    if len(set(counts)) > 1:
        numbers = ", ".join(map(str, counts))
        raise DataError(f"the processes have {numbers} batches of an epoch; give all of them as many")
    return *held[0], counts[0]


def _check_train(model: nn.Module, train: Batches) -> tuple[Tensor, Tensor, int]:
    if isinstance(train, Iterator):
        raise DataError("training batches are read once an epoch: give a list or a DataLoader, not a generator")
    batches = opened(train)
    first = next(batches, None)
    if first is None:
        raise DataError("there are no images to train on: the batches are empty")
    given, labels = unpack(first)
    inputs = given.clone()  # a network may work in place on what it is given
    with evaluating(model), torch.no_grad(), reading(model, inputs):
        answers = model(inputs.to(device_of(model)))
    check_labels(labels, answers)
    _check_others(train, batches, answers)
    count = _count(train)
    return inputs, answers, 1 + sum(1 for _ in batches) if count is None else count


def _count(train: Batches) -> int | None:
    """Return how many batches there are; None where that is not known before they are read.

    Every DataLoader has a length, but one over an iterable data set fails when it is asked for it.
    """
    try:
        return len(train) if isinstance(train, Sized) else None
    except TypeError:
        return None


def _check_validation(validate: Batches, answers: Tensor) -> None:
    if isinstance(validate, Iterator):
        raise DataError("validation batches are read once an epoch: give a list or a DataLoader, not a generator")
    batches = opened(validate)
    first = next(batches, None)
    if first is None:
        raise DataError(
            "there are no images to validate on: the batches are empty; give some, or validate=None to keep the last "
            "epoch"
        )
    check_labels(unpack(first)[1], answers)
    _check_others(validate, batches, answers)


def _check_others(given: Batches, batches: Iterator[Any], answers: Tensor) -> None:
    """Check the labels of the batches behind the first where these lie in memory."""
    if isinstance(given, Sequence):
        for batch in batches:
            check_labels(unpack(batch)[1], answers)


def fastest_layout(model: nn.Module, inputs: Tensor) -> torch.memory_format | None:
    """Return how images and kernels should lie in memory while training; None for as they do.

    Example:
        >>> fastest_layout(nn.Linear(2, 2), torch.ones(3, 2)) is None
        True
    """
    if not all(p.is_contiguous() for p in model.parameters()):  # the user has seen to it
        return None
    with evaluating(model):
        fastest = fastest_format(model, inputs[:2].to(device_of(model)))
    return None if fastest == torch.contiguous_format else fastest
