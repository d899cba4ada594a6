"""One epoch of training: batch after batch, on one process or on several that hold the same network."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.batches import Batches, begin_epoch
from secateur.distributed import Across
from secateur.errors import DataError, NetworkError
from secateur.modes import device_of, laid_out, own_copy, reading
from secateur.precision import SMALLEST, autocast, scaler_of, sums
from secateur.training.averaging import moving_average
from secateur.training.joint import add_up_all, next_batch, share_buffers, sum_of_numbers
from secateur.training.mixing import mixup
from secateur.training.optimizing import optimizer_of
from secateur.training.recipe import Recipe

Lesson = Callable[[Tensor, Tensor], Tensor]
"""Inputs and logits of a batch -> the loss by the teacher."""


class Steps:
    """The optimizer, the average of the weights, and how far the run is on the learning rate's curve.

    Attributes:
        optimizer: of the parameters that need a gradient.
        scaler: of the loss; does nothing but in float16.
        average: the moving average of the weights; None where the recipe asks for none.
        step: steps done; `total` in the whole run.

    Beside these, `answers` (N, classes) are what the network gives, and `ran_on` is the shape of an image that it ran
    on.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        total: int,
        answers: Tensor,
        ran_on: torch.Size,
        layout: torch.memory_format | None = None,
        across: Across = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        self.model, self.recipe, self.device = model, recipe, device_of(model)
        self.step, self.total, self.on_step = 0, total, on_step
        self.optimizer = optimizer_of(model, recipe)
        self.scaler = scaler_of(self.device, recipe.precision)
        self.average = moving_average(model, recipe.average) if recipe.average else None
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._answers, self._layout, self._across = answers, layout, across
        self._ran_on = ran_on

    @property
    def judged(self) -> nn.Module:
        """The network whose accuracy counts: the average where there is one."""
        return self.model if self.average is None else self.average.module

    def epoch(self, train: Batches, number: int, *, lesson: Lesson | None = None) -> float:
        """Take a step on each batch of epoch `number`; return the mean loss over the images of all processes."""
        self.model.train()
        begin_epoch(train, number)
        total, images, batches = 0.0, 0, iter(train)
        with laid_out(self.model, self._layout):
            while (found := next_batch(batches, self._answers, self._across)) is not None:
                inputs, labels, count = found
                if inputs is not None:
                    with sums(self.device, self.recipe.precision):
                        total += self._update(inputs.to(self.device), labels, count, lesson) * count
                    images += count
                self.step += 1
                if self.on_step is not None:
                    self.on_step(self.step, self.total)
                if self.average is not None and inputs is not None:
                    self.average.update_parameters(self.model)
        if not images:
            raise DataError("there is no batch of at least two images to train on")
        if not all(bool(torch.isfinite(p).all()) for p in self._parameters):
            raise self._diverged("a weight is not finite")
        share_buffers([self.model] if self.average is None else [self.model, self.average.module], self._across)
        return total / images

    def _update(self, inputs: Tensor, labels: Tensor, count: int, lesson: Lesson | None) -> float:
        """Take one step; return the loss before it, the mean over the `count` images of all processes."""
        recipe = self.recipe
        for settings in self.optimizer.param_groups:
            settings["lr"] = recipe.rate(min(self.step, self.total - 1), self.total)
        self.optimizer.zero_grad(set_to_none=True)
        targets = labels
        if recipe.mixup:
            inputs, targets = mixup(inputs, labels, alpha=recipe.mixup, classes=self._answers.shape[1])
        if self._layout is not None:
            inputs = inputs.contiguous(memory_format=self._layout)
        halved = autocast(self.device, recipe.precision)
        with halved, reading(self.model, inputs, ran_on=self._ran_on):
            outputs = self.model(own_copy(self.model, inputs))
        outputs = one_tensor(outputs).to(self._parameters[0].dtype)
        loss = functional.cross_entropy(outputs, targets, label_smoothing=recipe.label_smoothing)
        if lesson is not None:
            with halved:  # the teacher's forward pass; its loss is found in float32
                loss = (1 - recipe.distillation) * loss + lesson(inputs, outputs)
        share = len(inputs) / count
        value = sum_of_numbers(loss.item() * share, self._across, device=self.device)
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        torch.autograd.backward(self.scaler.scale(loss * share if self._across is not None else loss))
        add_up_all([p.grad for p in self._parameters if p.grad is not None], self._across)
        if recipe.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._parameters, recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST:
            raise self._diverged("the gradient overflows float16 whatever it is scaled by")
        return value

    def _diverged(self, what: str) -> DataError:
        return DataError(
            f"{what} at step {self.step + 1} of {self.total}: training diverged, and the network is back in its last "
            f"good state; a learning rate below {self.recipe.learning_rate} may help"
        )


def one_tensor(outputs: object) -> Tensor:
    """Return what a network gives in training mode, where a loss can read it.

    Raises:
        NetworkError: it is not one tensor.
    """
    if not isinstance(outputs, Tensor):
        raise NetworkError(
            f"in training mode the network must give one tensor of logits; it gives {type(outputs).__name__}, as those "
            "with auxiliary classifiers do: build it without them (torchvision: aux_logits=False), or put a module "
            "around it that gives the logits alone"
        )
    return outputs
