"""Some gates in training, together with the network and with the gates that are done."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from secateur.batches import Batches, begin_epoch
from secateur.distributed import Across, jointly
from secateur.errors import DataError
from secateur.gates.attached import Attached
from secateur.gates.averaging import average_of_all
from secateur.gates.learnt import GateEpoch, Learnt
from secateur.gates.recipe import GateRecipe
from secateur.gates.schedule import SETTLED, AlphaSchedule, Penalty, is_binary
from secateur.modes import device_of, own_copy, reading
from secateur.precision import SMALLEST, autocast, scaler_of, sums
from secateur.training.joint import add_up_all, next_batch, share_buffers, sum_of_numbers
from secateur.training.steps import one_tensor


class Learning:
    """The training of one stage's gates.

    Args:
        attached: the gates, and the network that they stand in.
        done: groups whose gates are settled.
        targets: group -> the share of its channels that should stay; the gates that learn.
        recipe: the numbers.
        steps: in the whole stage.
        answers: (N, classes), what the network gives.
        ran_on: the shape of the image that the gates were made for.
        across: the processes that train together; None for this one alone.
    """

    def __init__(
        self,
        attached: Attached,
        done: Sequence[str],
        targets: Mapping[str, float],
        recipe: GateRecipe,
        *,
        steps: int,
        answers: Tensor,
        ran_on: torch.Size,
        across: Across = None,
    ) -> None:
        self.attached, self.network, self.step = attached, attached.network, 0
        self._names, self._targets, self._recipe = [*done, *targets], dict(targets), recipe
        self._steps, self._answers, self._ran_on, self._across = steps, answers, ran_on, across
        self.alphas = {name: AlphaSchedule(recipe, steps=steps, keep=r) for name, r in targets.items()}
        self.penalties = {name: Penalty(recipe, keep=r) for name, r in targets.items()}
        self._device = device_of(self.network)
        gates = [p for name in targets for p in attached.gates[name].parameters()]
        self._parameters = [p for p in self.network.parameters() if p.requires_grad] + gates
        self.optimizer = torch.optim.SGD(
            self._parameters,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.scaler = scaler_of(self._device, recipe.precision)

    def epoch(self, train: Batches, stage: int, number: int, *, seen: int, on_step: Callable[[int], None]) -> GateEpoch:
        """Take a step on each batch.

        Args:
            train: the batches.
            stage, number: of the epoch, from 1.
            seen: epochs of earlier stages, which the batches have counted as well.
            on_step: called after each step with how many this stage has done.
        """
        total, images = 0.0, 0
        self.network.train()
        begin_epoch(train, seen + number)
        batches = iter(train)
        with self.attached.attached(self._names):
            while (found := next_batch(batches, self._answers, self._across)) is not None:
                inputs, labels, count = found
                if inputs is not None:
                    with sums(self._device, self._recipe.precision):
                        total += self._update(inputs.to(self._device), labels, count) * count
                    images += count
                self.step += 1
                on_step(self.step)
        if not images:
            raise DataError("there is no batch of at least two images to train on")
        if not all(bool(torch.isfinite(p).all()) for p in self._parameters):
            raise self._diverged("a weight is not finite")
        share_buffers([self.network], self._across)
        channels = {name: penalty.shares for name, penalty in self.penalties.items()}
        kept = sum(float((shares > 0.5).sum()) for shares in channels.values())
        binary = [is_binary(self._code(name)) for name in self._targets]
        return GateEpoch(
            *(stage, number, total / images, kept / sum(map(len, channels.values()))),
            sum(binary) / len(binary),
        )

    def _update(self, inputs: Tensor, labels: Tensor, count: int) -> float:
        """Take one step; return the cross entropy before it, the mean over the `count` images of all processes."""
        recipe, gates, share = self._recipe, self.attached.gates, len(inputs) / count
        late = self.step >= self._steps * recipe.drop - 1e-9
        for settings in self.optimizer.param_groups:
            settings["lr"] = recipe.learning_rate / (10 if late else 1)
        for name, alpha in self.alphas.items():
            gates[name].alpha = alpha(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        running = reading(self.network, inputs, ran_on=self._ran_on)
        with self.attached.sharing(share, self._across), autocast(self._device, recipe.precision), running:
            outputs = self.network(own_copy(self.network, inputs))
        entropy = functional.cross_entropy(one_tensor(outputs).float(), labels)
        terms = [self._penalties_of(name, share) for name in self._targets]
        loss = share * entropy + torch.stack(terms).sum() / (1 if self._across is None else self._across.size())
        value = sum_of_numbers(share * entropy.item(), self._across, device=self._device)
        judged = sum_of_numbers(loss.item(), self._across, device=self._device)
        if not math.isfinite(judged):
            raise self._diverged(f"the loss is {judged}")
        torch.autograd.backward(self.scaler.scale(loss))
        add_up_all([p.grad for p in self._parameters if p.grad is not None], self._across)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST:
            raise self._diverged("the gradient overflows float16 whatever it is scaled by")
        self._look_back()
        return value

    def _penalties_of(self, name: str, share: float) -> Tensor:
        """Return the penalty of a gate, a function of the codes of all images where each has its own."""
        code = self.attached.codes[name]
        if code.ndim == 2:
            code = average_of_all(code.mean(0), share, self._across)
        return self.penalties[name](code)

    def _code(self, name: str) -> Tensor:
        """Return the code (C,) of the last step, or those (N, C) of the images of all processes."""
        code = self.attached.codes[name].detach()
        if code.ndim == 1 or self._across is None:
            return code
        parts = jointly(lambda: code.cpu(), self._across, what="the codes")
        return torch.cat(parts).to(code.device)

    def _look_back(self) -> None:
        """Let the schedules see the codes of this step."""
        codes = {name: self._code(name) for name in self._targets}
        last_epoch = self.step >= self._steps * (1 - 1 / self._recipe.epochs)
        unsettled = last_epoch and any(not is_binary(code, *SETTLED) for code in codes.values())
        for name, code in codes.items():
            penalty, alpha = self.penalties[name], self.alphas[name]
            penalty.remember(self.step, code)
            alpha.watch(self.step, code, penalty.kept)
            if unsettled:
                alpha.hurry()

    def learnt(self) -> dict[str, Learnt]:
        """Return what the gates of this stage have learnt."""
        found = {}
        for name, target in self._targets.items():
            penalty, code = self.penalties[name], self._code(name)
            mean = code.view(-1, code.shape[-1]).mean(0).cpu()
            alpha = self.attached.gates[name].alpha
            found[name] = Learnt(name, penalty.shares.cpu(), mean, alpha, target, penalty.kept, is_binary(code))
        return found

    def _diverged(self, what: str) -> DataError:
        return DataError(
            f"{what} at step {self.step + 1} of {self._steps}: training diverged; a learning rate below "
            f"{self._recipe.learning_rate} may help"
        )

    def state(self) -> dict[str, Any]:
        """Return how many steps were taken and what the schedules remember, as tensors by name."""
        found = {"step": torch.tensor(self.step)}
        for name, alpha in self.alphas.items():
            found[f"alpha/{name}"] = torch.tensor(alpha.memory, dtype=torch.float64)
            penalty = self.penalties[name]
            found[f"weight/{name}"] = torch.tensor(penalty.weight, dtype=torch.float64)
            if penalty.codes:
                found[f"codes/{name}"] = torch.stack(list(penalty.codes))
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        self.step = int(state["step"])
        for name, alpha in self.alphas.items():
            alpha.memory = tuple(state[f"alpha/{name}"].tolist())
            penalty = self.penalties[name]
            penalty.weight = float(state[f"weight/{name}"])
            penalty.codes.extend(state.get(f"codes/{name}", torch.empty(0)).to(self._device))
