"""Train a network in place: after surgery to win back accuracy, or from scratch.

.. [Sutskever2013] Sutskever, Martens, Dahl, Hinton: On the importance of initialization and momentum in deep learning.
   ICML 2013 (Nesterov's momentum).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.batches import Batches
from secateur.distributed import Across, local
from secateur.evaluation import accuracy
from secateur.modes import check_changeable, device_of
from secateur.records import PruningPlan
from secateur.recovery import recalibrate_batch_norm
from secateur.training.checking import check_data, fastest_layout
from secateur.training.distilling import distilling
from secateur.training.freezing import frozen
from secateur.training.random_states import seed_generators
from secateur.training.recipe import Recipe
from secateur.training.resuming import Resumable
from secateur.training.steps import Steps


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
    teacher: nn.Module | None = None,
    plan: PruningPlan | None = None,
    freeze: Mapping[str, Sequence[int]] | None = None,
    checkpoint: str | Path | None = None,
    across: Across = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    **changes: Any,
) -> History:
    """Train `model` in place by gradient descent on the cross entropy; return what happened.

    Formula, by default, for the gradient g of the loss with weight decay added: v <- momentum * v + g, then
    w <- w - rate(step) * (g + momentum * v) [Sutskever2013]_, with `Recipe.rate` for the learning rate.

    Args:
        model: gives logits (N, classes). Parameters that need no gradient stay as they are; so do the modes of the
            modules and the state of torch's random numbers outside.
        train: yields `(inputs, labels)` anew each time it is iterated (a list, a DataLoader; no generator). A batch of
            one image is left out: batch norm cannot train on it. Before each epoch `set_epoch(number)` is called, from
            1 on, where the batches or their sampler have it.
        validate: batches to choose the best epoch by (the later one of equals), whose state the network then has.
            They are part of training: the accuracy to report comes from others. Without them the last epoch stays.
        recipe: the numbers of the training, see `Recipe`.
        changes: single numbers in place of the recipe's: `fine_tune(net, train, epochs=2, learning_rate=0.1)`.
        teacher: the dense network, to learn from with the shares that the recipe gives, see `distilling`.
        plan: what was removed from the teacher; read where feature maps are compared.
        freeze: layer -> filters that stay exactly as they are, see `frozen` and `highest_filters`.
        checkpoint: a file, written after each epoch, from which the same call goes on after a stop, to the same numbers
            as without one: weights, optimizer, average and the states of all generators are kept (on going on, also
            numpy's and Python's are set). It stays when the training is done, and then is its result. On CUDA no two
            trainings give quite the same numbers, stopped or not, unless torch.backends.cudnn.deterministic is set.
        across: a process group of torch.distributed: each process gives its share of each batch, and the gradient is
            that of all images. Batch norm normalises by the images of its process, and its running statistics are
            averaged at the end of an epoch; on GPUs `torch.nn.SyncBatchNorm` sees the whole batch. The first process
            writes the checkpoint, which all read. None: this process alone.
        on_epoch: called after each epoch; after a stop also with those that the checkpoint holds.
        on_step: called after each step, before it enters the average, with the number of steps done and their total.

    Raises:
        ConfigError: an unknown number, one out of range, a precision that the device does not compute in,
            float16 for weights that are float16 themselves, or called under `torch.inference_mode`.
        NetworkError: no parameter needs a gradient; a network made in inference mode, which cannot be trained outside
            of it; a teacher with other classes, or filters that are not there.
        CheckpointError: the checkpoint is of another run (network, recipe, teacher, plan, processes), or none at all.
        DataError: no images, to train on or to validate on; images of a second size on which the network does not run;
            labels missing or out of the network's range (in a sequence found before the first step); a loss or weights
            that are no longer finite, with the step. After any error, Ctrl-C included, the network has the best state
            by then: that of the best finished epoch, at first the one that it came with; the checkpoint is that of the
            last finished epoch.
        ProcessError: another process failed, ended, or has other weights; see `secateur.distributed`.

    Cost: per image and epoch about three forward passes, one more of a teacher; memory of the gradients, the momentum,
    the average and one more state.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> batches = [(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1]))]
        >>> history = fine_tune(net, batches, batches, epochs=20, learning_rate=0.5)
        >>> len(history.epochs), history.epochs[-1].accuracy
        (20, 1.0)
    """
    recipe = (recipe or Recipe()).revised(changes)
    model = local(model)
    check_changeable(model)
    device = device_of(model)
    best, chosen, epochs = _state(model), 0, list[Epoch]()
    modes = [(module, module.training) for module in model.modules()]
    try:
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.enable_grad(),
            ExitStack() as stack,
        ):
            first, answers, batches = check_data(model, train, validate, precision=recipe.precision, across=across)
            run = Resumable.of(checkpoint, model, recipe, teacher=teacher, plan=plan, freeze=freeze, across=across)
            seed_generators(recipe.seed, device)
            if recipe.recalibrate and run.found is None:
                recalibrate_batch_norm(model, train, samples=recipe.recalibrate, across=across)
                best = _state(model)
            steps = Steps(
                *(model, recipe),
                total=recipe.epochs * batches,
                answers=answers,
                ran_on=first.shape[1:],
                layout=fastest_layout(model, first),
                across=across,
                on_step=on_step,
            )
            lesson = None
            if teacher is not None:
                distilled = distilling(
                    *(model, teacher, first),
                    weight=recipe.distillation,
                    temperature=recipe.temperature,
                    feature_weight=recipe.feature_weight,
                    plan=plan,
                )
                lesson = stack.enter_context(distilled)
            if run.found is not None:
                best, chosen = run.restore(steps, train)
                epochs = [Epoch(**epoch) for epoch in run.found.epochs]
                if on_epoch is not None:
                    for epoch in epochs:
                        on_epoch(epoch)
            stack.enter_context(frozen(model, freeze or {}, steps.optimizer))
            for number in range(len(epochs) + 1, recipe.epochs + 1):
                start = time.perf_counter()
                loss = steps.epoch(train, number, lesson=lesson)
                score = None if validate is None else accuracy(steps.judged, validate, across=across)
                epochs.append(Epoch(number, loss, score, time.perf_counter() - start))
                if score is None or not chosen or score >= (epochs[chosen - 1].accuracy or 0.0):
                    best, chosen = _state(steps.judged), number
                run.keep(steps, train, best, epochs, chosen)
                if on_epoch is not None:
                    on_epoch(epochs[-1])
    finally:
        model.load_state_dict(best)
        model.zero_grad(set_to_none=True)
        for module, training in modes:
            module.training = training
    return History(recipe, tuple(epochs), chosen)


def _state(model: nn.Module) -> dict[str, Any]:
    """Return a copy of everything that `model.state_dict()` holds."""
    return copy.deepcopy(dict(model.state_dict()))
