"""NNI's wrappers: they change the user's network in place for as long as a pruner is at work on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from secateur.errors import ConfigError, NetworkError
from secateur_nni.host import Compressor


def check_unwrapped(model: nn.Module) -> None:
    """Refuse a network that a pruner still holds.

    Raises:
        NetworkError: some layer is wrapped.

    Example:
        >>> check_unwrapped(nn.Linear(2, 2))
    """
    held = [name for name, module in model.named_modules() if "_nni_wrapper" in module._modules]
    if held:
        raise NetworkError(
            f"the network is wrapped by NNI ({held[0]!r} and {len(held) - 1} more); first call unwrap_model() of the "
            "pruner that holds it, or chain the pruners by from_compressor"
        )


def check_unmasked(layers: list[str], wrappers: Mapping[str, Any] | None) -> None:
    """Refuse to mask what another pruner of the chain masks; NNI would ignore the later one.

    Args:
        layers: to be masked.
        wrappers: those of the earlier compressors.

    Raises:
        ConfigError: a layer has masks already.
    """
    for layer in layers:
        if wrappers and layer in wrappers and wrappers[layer].pruning_target_spaces:
            raise ConfigError(
                f"{layer!r} is masked by an earlier pruner of the chain, and NNI 3.0 ignores the later one; exclude it "
                "from one of them"
            )


def forget_forward(wrappers: Mapping[str, Any]) -> None:
    """Remove the attribute `forward` that NNI leaves on every module that it unwraps: the class has its own."""
    for wrapper in wrappers.values():
        left = vars(wrapper.module).get("forward")
        if getattr(left, "__func__", None) is type(wrapper.module).forward:
            del wrapper.module.forward


@contextmanager
def unwrapped_for_a_while(compressor: Compressor) -> Iterator[nn.Module]:
    """Within the block, the network of a compressor is as its user made it; after it, wrapped again if it was."""
    wrapped = compressor._is_wrapped
    if wrapped:
        compressor.unwrap_model()
    try:
        yield compressor.bound_model
    finally:
        if wrapped:
            compressor.wrap_model()


@contextmanager
def rewrapped_on_failure(compressor: Compressor) -> Iterator[None]:
    """If the block fails, wrap the network again that a compressor had wrapped before."""
    wrapped = compressor._is_wrapped
    try:
        yield
    except BaseException:
        if wrapped and not compressor._is_wrapped:
            compressor.wrap_model()
        raise
