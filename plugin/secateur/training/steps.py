"""One epoch of training: batch after batch, on one process or on several that hold the same network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.batches import Batches, begin_epoch, unpack
from secateur.distributed import Across, add_up, jointly
from secateur.errors import DataError
from secateur.evaluation import check_labels
from secateur.modes import device_of, laid_out
from secateur.training.averaging import moving_average
from secateur.training.mixing import mixup
from secateur.training.optimizing import optimizer_of
from secateur.training.recipe import Recipe

Lesson = Callable[[Tensor, Tensor], Tensor]
"""Inputs and logits of a batch -> the loss by the teacher."""


class Steps:
    """The optimizer, the average of the weights, and how far the run is on the learning rate's curve.

    Attributes:
        optimizer: of the parameters that need a gradient.
        average: the moving average of the weights; None where the recipe asks for none.
        step: steps done; `total` in the whole run.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        total: int,
        answers: Tensor,
        layout: torch.memory_format | None = None,
        across: Across = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        self.model, self.recipe, self.device = model, recipe, device_of(model)
        self.step, self.total, self.on_step = 0, total, on_step
        self.optimizer = optimizer_of(model, recipe)
        self.average = moving_average(model, recipe.average) if recipe.average else None
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._answers, self._layout, self._across = answers, layout, across

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
            while (found := self._next(batches)) is not None:
                inputs, labels, count = found
                if inputs is not None:
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
        self._share_buffers()
        return total / images

    def _next(self, batches: Iterator[Any]) -> tuple[Tensor | None, Tensor, int] | None:
        """Return the next batch and how many images all processes have in theirs; None behind the last.

        The inputs are None where a process has fewer than two images: batch norm cannot train on one.
        """
        held: list[tuple[Tensor, Tensor]] = []

        def read() -> int | None:
            batch = next(batches, None)
            if batch is None:
                return None
            inputs, labels = unpack(batch)
            held.append((inputs, check_labels(labels, self._answers)))
            return len(inputs)

        counts = [count for count in jointly(read, self._across, what="a batch to train on") if count is not None]
        if not counts:
            return None
        if self._across is not None and len(counts) < self._across.size():
            raise DataError("the processes have different numbers of batches; give all of them as many")
        inputs, labels = held[0]
        return (inputs if min(counts) > 1 else None), labels, sum(counts)

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
        halved = torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
        with halved:
            outputs = self.model(inputs)
        outputs = outputs.to(self._parameters[0].dtype)
        loss = functional.cross_entropy(outputs, targets, label_smoothing=recipe.label_smoothing)
        if lesson is not None:
            with halved:  # the teacher's forward pass; its loss is found in float32
                loss = (1 - recipe.distillation) * loss + lesson(inputs, outputs)
        share = len(inputs) / count
        value = self._sum(loss.item() * share)
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        torch.autograd.backward(loss * share if self._across is not None else loss)
        self._add_up([p.grad for p in self._parameters if p.grad is not None])
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, recipe.clip_norm)
        self.optimizer.step()
        return value

    def _sum(self, value: float) -> float:
        if self._across is None:
            return value
        summed = torch.tensor(value, dtype=torch.float64, device=self.device)
        add_up(summed, self._across, what="the loss")
        return float(summed)

    def _share_buffers(self) -> None:
        """Give all processes the mean of their running statistics."""
        networks = [self.model] if self.average is None else [self.model, self.average.module]
        buffers = [b for network in networks for b in network.buffers() if b.is_floating_point()]
        if self._across is not None:
            self._add_up(buffers)
            for buffer in buffers:
                buffer /= self._across.size()

    def _add_up(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the sum of theirs, in place: one exchange for each type of number.

        DistributedDataParallel cannot serve: it takes gradients to lie as the kernels did when it was made, and
        `laid_out` moves them.
        """
        for dtype in {tensor.dtype for tensor in tensors} if self._across is not None else ():
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            summed = torch.cat([tensor.detach().reshape(-1) for tensor in same])
            add_up(summed, self._across, what="the gradients")
            for tensor, part in zip(same, torch.split(summed, [tensor.numel() for tensor in same]), strict=True):
                tensor.copy_(part.reshape(tensor.shape))

    def _diverged(self, what: str) -> DataError:
        return DataError(
            f"{what} at step {self.step + 1} of {self.total}: training diverged, and the network is back in its last "
            f"good state; a learning rate below {self.recipe.learning_rate} may help"
        )
