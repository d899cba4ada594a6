"""Train a network in place: after surgery to win back accuracy, or from scratch.

.. [Sutskever2013] Sutskever, Martens, Dahl, Hinton: On the importance of initialization and momentum in deep learning.
   ICML 2013 (Nesterov's momentum).
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.batches import Batches, unpack
from secateur.errors import ConfigError, DataError, NetworkError
from secateur.evaluation import accuracy, check_labels
from secateur.evaluation.arithmetic import fastest_format
from secateur.modes import device_of, evaluating, laid_out
from secateur.training.recipe import Recipe


@dataclass(frozen=True)
class Epoch:
    """One pass over the training batches.

    Attributes:
        number: counted from 1.
        loss: mean training loss over the images of the epoch, in nats.
        accuracy: on the validation batches, in [0, 1]; None without them.
        seconds: wall time, validation included.
    """

    number: int
    loss: float
    accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class History:
    """What a training run did: its recipe, its epochs, and the number of the one whose state the network now has."""

    recipe: Recipe
    epochs: tuple[Epoch, ...]
    chosen: int


def fine_tune(
    model: nn.Module,
    train: Batches,
    validate: Batches | None = None,
    *,
    recipe: Recipe | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    **changes: Any,
) -> History:
    """Train `model` in place by stochastic gradient descent on the cross entropy; return what happened.

    Formula, for the gradient g of the loss with weight decay added: v <- momentum * v + g, then
    w <- w - rate(step) * (g + momentum * v) [Sutskever2013]_, with `Recipe.rate` for the learning rate.

    Args:
        model: gives logits (N, classes). Parameters that need no gradient stay as they are; so do the modes of the
            modules and the state of the random numbers outside.
        train: yields `(inputs, labels)` anew each time it is iterated (a list, a DataLoader; no generator). A batch of
            one image is left out: batch norm cannot train on it.
        validate: batches to choose the best epoch by (the later one of equals), whose state the network then has.
            They are part of training: the accuracy to report comes from others. Without them the last epoch stays.
        recipe: the numbers of the training, see `Recipe`.
        changes: single numbers in place of the recipe's: `fine_tune(net, train, epochs=2, learning_rate=0.1)`.
        on_epoch: called after each epoch.
        on_step: called after each step with the number of steps done and their total.

    Raises:
        ConfigError: an unknown number or one out of range.
        NetworkError: no parameter needs a gradient.
        DataError: no images; labels missing or out of the network's range (in a sequence found before the first
            step); a loss or weights that are no longer finite. After any error, Ctrl-C included, the network has the
            best state by then: that of the best finished epoch, at first the one that it came with.

    Cost: per image and epoch about three forward passes; memory of the gradients, the momentum and one more state.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> batches = [(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1]))]
        >>> history = fine_tune(net, batches, batches, epochs=20, learning_rate=0.5)
        >>> len(history.epochs), history.epochs[-1].accuracy
        (20, 1.0)
    """
    recipe = _revised(recipe or Recipe(), changes)
    device = device_of(model)
    best, chosen, epochs = _state(model), 0, list[Epoch]()
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            first, batches = _check_data(model, train)
            run = _Run(model, recipe, steps=recipe.epochs * batches, layout=_layout(model, first), on_step=on_step)
            torch.manual_seed(recipe.seed)
            for number in range(1, recipe.epochs + 1):
                start = time.perf_counter()
                loss = run.epoch(train)
                score = None if validate is None else accuracy(model, validate)
                epochs.append(Epoch(number, loss, score, time.perf_counter() - start))
                if score is None or not chosen or score >= (epochs[chosen - 1].accuracy or 0.0):
                    best, chosen = _state(model), number
                if on_epoch is not None:
                    on_epoch(epochs[-1])
    finally:
        model.load_state_dict(best)
        model.zero_grad(set_to_none=True)
        for module, training in modes:
            module.training = training
    return History(recipe, tuple(epochs), chosen)


class _Run:
    """The optimizer and how far it is on the learning rate's curve."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        steps: int,
        layout: torch.memory_format | None,
        on_step: Callable[[int, int], None] | None,
    ) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise NetworkError("no parameter of the network needs a gradient: there is nothing to train")
        self.model, self.recipe, self.device = model, recipe, device_of(model)
        self.step, self.steps, self.layout, self.on_step = 0, steps, layout, on_step
        self.optimizer = torch.optim.SGD(
            self.parameters,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
        )

    def epoch(self, train: Batches) -> float:
        """Take a step on each batch; return the mean loss over the images."""
        self.model.train()
        total, images = 0.0, 0
        with laid_out(self.model, self.layout):
            for batch in train:
                inputs, labels = unpack(batch)
                if len(inputs) > 1:
                    total += self._update(inputs.to(self.device), labels) * len(inputs)
                    images += len(inputs)
                self.step += 1
                if self.on_step is not None:
                    self.on_step(self.step, self.steps)
        if not images:
            raise DataError("there is no batch of at least two images to train on")
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters):
            raise self._diverged("a weight is not finite")
        return total / images

    def _update(self, inputs: Tensor, labels: Tensor | None) -> float:
        """Take one step; return the loss before it."""
        for settings in self.optimizer.param_groups:
            settings["lr"] = self.recipe.rate(min(self.step, self.steps - 1), self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            outputs = self.model(inputs if self.layout is None else inputs.contiguous(memory_format=self.layout))
        outputs = outputs.to(self.parameters[0].dtype)
        loss = functional.cross_entropy(
            outputs, check_labels(labels, outputs), label_smoothing=self.recipe.label_smoothing
        )
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        torch.autograd.backward(loss)
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.optimizer.step()
        return value

    def _diverged(self, what: str) -> DataError:
        return DataError(
            f"{what} at step {self.step + 1} of {self.steps}: training diverged, and the network is back in its last "
            f"good state; a learning rate below {self.recipe.learning_rate} may help"
        )


def _revised(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    known = [field.name for field in dataclasses.fields(recipe)]
    for name in changes:
        if name not in known:
            raise ConfigError(f"unknown number {name!r} of a recipe; known: {', '.join(known)}")
    return dataclasses.replace(recipe, **changes)


def _check_data(model: nn.Module, train: Batches) -> tuple[Tensor, int]:
    """Return inputs and the number of batches; refuse labels that the network cannot answer before it is trained."""
    if isinstance(train, Iterator):
        raise DataError("training batches are read once an epoch: give a list or a DataLoader, not a generator")
    batches = iter(train)
    first = next(batches, None)
    if first is None:
        raise DataError("there are no images to train on: the batches are empty")
    inputs, labels = unpack(first)
    with evaluating(model), torch.no_grad():
        outputs = model(inputs.to(device_of(model)))
    check_labels(labels, outputs)
    if isinstance(train, Sequence):
        for batch in batches:
            check_labels(unpack(batch)[1], outputs)
    return inputs, len(train) if isinstance(train, Sized) else 1 + sum(1 for _ in batches)


def _layout(model: nn.Module, inputs: Tensor) -> torch.memory_format | None:
    """Return how images and kernels should lie in memory while training; None for as they do."""
    if not all(p.is_contiguous() for p in model.parameters()):  # the user has seen to it
        return None
    with evaluating(model):
        fastest = fastest_format(model, inputs[:2].to(device_of(model)))
    return None if fastest == torch.contiguous_format else fastest


def _state(model: nn.Module) -> dict[str, Any]:
    """Return a copy of everything that `model.state_dict()` holds."""
    return copy.deepcopy(dict(model.state_dict()))
