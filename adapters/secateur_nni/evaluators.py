"""NNI's evaluators: made with errors that say what is wrong, and used to value the candidates of a search."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from secateur.channel_graph import masked
from secateur.errors import ConfigError, EvaluationError
from secateur.modes import evaluating
from secateur.protocols import Kept
from secateur.records import ChannelGroup
from secateur_nni.host import Evaluator, TorchEvaluator, is_traceable
from secateur_nni.wrapping import check_unwrapped


def torch_evaluator(
    training_func: Callable[..., Any],
    optimizers: Optimizer | Sequence[Optimizer],
    training_step: Callable[..., Any],
    *,
    lr_schedulers: Any = None,
    dummy_input: Any = None,
    evaluating_func: Callable[[nn.Module], Any] | None = None,
) -> Any:
    """Return NNI's TorchEvaluator; what NNI answers with a bare AssertionError is told in words.

    Args:
        training_func: (model, optimizers, training_step, lr_schedulers, max_steps, max_epochs) -> None, the training.
        optimizers: one or several, made by `nni.trace(torch.optim.SGD)(model.parameters(), ...)`, so that NNI can make
            them again for the wrapped network.
        training_step: (batch, model) -> loss.
        lr_schedulers: one or several, made by `nni.trace` too; None for none.
        dummy_input: what NNI traces graphs with.
        evaluating_func: model -> a number, larger is better, or a mapping with the key "default".

    Raises:
        ConfigError: a function is not callable, or an optimizer or scheduler was made without `nni.trace`.

    Example:
        >>> import nni, torch
        >>> net = nn.Linear(2, 2)
        >>> optimizer = nni.trace(torch.optim.SGD)(net.parameters(), lr=0.1)
        >>> evaluator = torch_evaluator(lambda *_: None, optimizer, lambda batch, model: None)
        >>> torch_evaluator(lambda *_: None, torch.optim.SGD(net.parameters(), lr=0.1), lambda batch, model: None)
        Traceback (most recent call last):
        ...
        secateur.errors.ConfigError: the SGD was made without nni.trace, so that NNI cannot make it again for the \
wrapped network; write nni.trace(torch.optim.SGD)(...)
    """
    for name, function in (("training_func", training_func), ("training_step", training_step)):
        if not callable(function):
            raise ConfigError(f"{name} must be a function; found {function!r}")
    if evaluating_func is not None and not callable(evaluating_func):
        raise ConfigError(f"evaluating_func must be a function of the network; found {evaluating_func!r}")
    for optimizer in _listed(optimizers):
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(f"optimizers must be torch optimizers; found {optimizer!r}")
        _check_traced(optimizer, "torch.optim")
    for scheduler in _listed(lr_schedulers):
        _check_traced(scheduler, "torch.optim.lr_scheduler")
    return TorchEvaluator(training_func, optimizers, training_step, lr_schedulers, dummy_input, evaluating_func)


def check_evaluator(evaluator: Any, model: nn.Module, *, evaluates: bool = False) -> None:
    """Refuse what is no evaluator of NNI, or one of another network.

    NNI finds the parameters of an optimizer in the network by identity and leaves out the others without a word
    (compression/utils/constructor_helper.py, line 61): the optimizer of a copy's original trains nothing. Once it has
    read an optimizer it keeps their names alone, and leaves out those that another network lacks (line 69); a pruned
    copy has them all.

    Args:
        evaluator: an evaluator, or None where none is needed.
        model: the network that it is for.
        evaluates: whether it must be there and able to evaluate.

    Raises:
        ConfigError: another type; or it is missing, or has no evaluating_func, where it must evaluate; or its
            optimizers hold parameters that are not the network's.
        NetworkError: the network is wrapped, so that its parameters have other names.

    Example:
        >>> check_evaluator(None, nn.Linear(2, 2))
    """
    if evaluator is None and not evaluates:
        return
    if not isinstance(evaluator, Evaluator):
        found = "none was given" if evaluator is None else f"found {type(evaluator).__name__}"
        raise ConfigError(
            f"evaluator must be NNI's, such as a TorchEvaluator or LightningEvaluator, {'and it ' if evaluates else ''}"
            f"{'values the candidates of the search' if evaluates else 'or left out'}; {found}"
        )
    if evaluates and isinstance(evaluator, TorchEvaluator) and evaluator.evaluating_func is None:
        raise ConfigError("the evaluator has no evaluating_func, which values the candidates; give it one")
    check_unwrapped(model)
    named = dict(model.named_parameters())
    own = {id(parameter) for parameter in model.parameters()}
    for optimizer in getattr(evaluator, "_tmp_optimizers", ()):  # until NNI has read them
        held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        _check_own(held, own, type(optimizer))
    for helper in getattr(evaluator, "_optimizer_helpers", ()):  # afterwards
        groups = helper.kwargs["params"] if "params" in helper.kwargs else helper.args[0]
        _check_own([name for group in groups for name in group["params"]], named, helper.callable_obj)


def _check_own(held: Collection[object], own: Container[object], optimizer: type) -> None:
    foreign = sum(parameter not in own for parameter in held)
    if foreign:
        raise ConfigError(
            f"{foreign} of the {len(held)} parameters of the evaluator's {optimizer.__name__} are not this network's, "
            "and NNI would not train them: make the optimizer of this network's parameters(), after a pruner that held "
            "it before has unwrapped it"
        )


class EvaluatorWorth:
    """The worth of a candidate of a search: what an NNI evaluator says of the network with its channels masked.

    A private copy of the network is masked at the layers that read the channels, which equals their removal, and bound
    to the evaluator for the time of a call.

    Args:
        evaluator: NNI's; its `evaluate` gives a number, larger is better. A TorchEvaluator needs an evaluating_func, a
            LightningEvaluator a `test_step` that logs "default".
        model: the dense network, not wrapped; copied once, never touched.
        groups: its channel groups by name.

    Raises:
        ConfigError: no evaluator, or one that cannot evaluate or is another network's.
        EvaluationError: (when called) it gives no number.

    Cost: memory of one network; each call one evaluation.

    Example:
        >>> import nni, torch
        >>> from secateur.channel_graph import channel_groups
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
        >>> optimizer = nni.trace(torch.optim.SGD)(net.parameters(), lr=0.1)
        >>> evaluator = torch_evaluator(
        ...     lambda *_: None,
        ...     optimizer,
        ...     lambda batch, model: None,
        ...     evaluating_func=lambda model: int(model[1].weight.count_nonzero()),
        ... )
        >>> worth = EvaluatorWorth(evaluator, net, channel_groups(net, torch.rand(3, 2)))
        >>> worth({}), worth({"0": (0, 1, 3)})
        (8.0, 6.0)
    """

    def __init__(self, evaluator: Any, model: nn.Module, groups: Mapping[str, ChannelGroup]) -> None:
        check_evaluator(evaluator, model, evaluates=True)
        if not evaluator._initialization_complete:
            evaluator._init_optimizer_helpers(model)
        self._evaluator = evaluator
        self._model = copy.deepcopy(model)
        self._groups = dict(groups)
        self.settings = {"evaluator": type(evaluator).__name__}

    def __call__(self, kept: Kept) -> float:
        """Return the worth of the network that keeps the channels `kept[g]` of group g, and all of absent groups."""
        with masked(self._model, self._groups, kept) as candidate, evaluating(candidate):
            self._evaluator.bind_model(candidate)
            try:
                found = self._evaluator.evaluate()
            finally:
                self._evaluator.unbind_model()
        worth = found[0] if isinstance(found, tuple) else found
        try:
            return float(worth)
        except (TypeError, ValueError) as error:
            raise EvaluationError(
                f"the {type(self._evaluator).__name__} gave {worth!r}; it must give a number, or a mapping with a "
                "number under 'default' (LightningEvaluator: log it in test_step)"
            ) from error


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _check_traced(thing: Any, home: str) -> None:
    if not is_traceable(thing):
        kind = type(thing).__name__
        raise ConfigError(
            f"the {kind} was made without nni.trace, so that NNI cannot make it again for the wrapped network; write "
            f"nni.trace({home}.{kind})(...)"
        )
