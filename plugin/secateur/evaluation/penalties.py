"""How far the outputs of a network are from what they should be, image by image: never below zero.

Since no image can make up for another, what a network has lost after some of the images is the least that it will have
lost after all of them. That is what lets a race stop a candidate before its last image.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from secateur.errors import ConfigError, DataError
from secateur.evaluation.accuracy import check_labels

Measure = Literal["accuracy", "loss", "fidelity"]
DECIMALS = 6


class Penalties(NamedTuple):
    """What some images cost, (N,), and how safe they are, (N,), both float64: a less safe image is lost earlier."""

    values: Tensor
    safety: Tensor


def check_measure(measure: str) -> None:
    """Raise ConfigError for an unknown measure."""
    if measure not in get_args(Measure):
        raise ConfigError(f"unknown measure {measure!r}; allowed: {', '.join(get_args(Measure))}")


def wanted_outputs(measure: Measure, dense: Tensor, labels: Tensor | None) -> Tensor:
    """Return what is held against the outputs: labels (N,), or the dense network's log probabilities (N, K).

    Raises:
        DataError: labels that are missing or do not fit, where the measure reads them; outputs that are not (N, K).
    """
    if measure != "fidelity":
        return check_labels(labels, dense)
    check_labels(torch.zeros(len(dense), dtype=torch.int64), dense)
    return dense.double().log_softmax(1)


def penalties(measure: Measure, outputs: Tensor, wanted: Tensor) -> Penalties:
    """Return what each image costs.

    Formula, for outputs z, label y and the probabilities p of the dense network, q of this one:

        accuracy   1 if argmax_k z_k != y, else 0; among equal outputs the first class counts
        loss       -log q_y
        fidelity   sum_k p_k log(p_k / q_k) over p_k > 0, which needs no labels

    Outputs that are infinite leave no probabilities: loss and fidelity are NaN then.

    Args:
        outputs: (N, K).
        wanted: see `wanted_outputs`.

    Raises:
        DataError: an output is NaN.

    Example:
        >>> found = penalties("accuracy", torch.tensor([[1.0, 3.0], [2.0, 1.0]]), torch.tensor([1, 1]))
        >>> found.values.tolist(), found.safety.tolist()
        ([0.0, 1.0], [2.0, -1.0])
    """
    if bool(outputs.isnan().any()):
        raise DataError("the network returned NaN")
    if measure == "accuracy":
        return Penalties((outputs.argmax(1) != wanted).double(), margins(outputs, wanted))
    logs = outputs.double().log_softmax(1)
    if measure == "loss":
        values = functional.nll_loss(logs, wanted, reduction="none")
    else:
        shares = wanted.exp()
        values = (shares * (wanted - logs)).masked_fill(shares == 0, 0.0).sum(1)
    values = values.clamp(min=0.0)
    return Penalties(values, -values)


def expected_penalties(measure: Measure, safety: Tensor) -> Tensor:
    """Return what images should cost that are so safe, (N,).

    Example:
        >>> safety = torch.tensor([0.5, -2.0])
        >>> expected_penalties("accuracy", safety).tolist(), expected_penalties("loss", safety).tolist()
        ([0.0, 1.0], [0.0, 2.0])
    """
    return (safety < 0).double() if measure == "accuracy" else (-safety).clamp(min=0.0).double()


def margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return by how much the label's output exceeds the largest of the others, (N,).

    Example:
        >>> margins(torch.tensor([[1.0, 3.0, 2.5]]), torch.tensor([1])).tolist()
        [0.5]
    """
    own = outputs.gather(1, labels[:, None])[:, 0]
    return (own - outputs.scatter(1, labels[:, None], -torch.inf).amax(1)).double()


def worth_of(measure: Measure, lost: float, images: int) -> float:
    """Return the worth of a network that loses so much over so many images: the share of hits, or minus the mean.

    Means are told to a millionth. Below that lies rounding, by which the same candidate, judged among others, differs.

    Example:
        >>> worth_of("accuracy", 25.0, 100), worth_of("loss", 25.0, 100)
        (0.75, -0.25)
    """
    return (images - lost) / images if measure == "accuracy" else round(-lost / images, DECIMALS)
