"""How a network is run and left as it was found: on which device, how exactly, and in which mode, module by module."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.errors import DataError, NetworkError, SecateurError


def check_bare(model: nn.Module) -> None:
    """Refuse a network inside `DataParallel` or `DistributedDataParallel`, where its layers have other names.

    Raises:
        NetworkError: it is; or it, or a part of it, is compiled or scripted.

    Example:
        >>> check_bare(nn.DataParallel(nn.Linear(2, 2)))
        Traceback (most recent call last):
        secateur.errors.NetworkError: the network is wrapped in DataParallel; give the network inside, `model.module`, \
whose names its layers have
    """
    if unwrapped(model) is not model:
        raise NetworkError(
            f"the network is wrapped in {type(model).__name__}; give the network inside, `model.module`, whose names "
            "its layers have"
        )


def inside(model: nn.Module) -> nn.Module:
    """Return the network inside `DataParallel` or `DistributedDataParallel`; itself where it is in neither.

    Example:
        >>> network = nn.Linear(2, 2)
        >>> inside(nn.DataParallel(network)) is inside(network) is network
        True
    """
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    return model


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network `inside`, whose feature maps are to be seen.

    Raises:
        NetworkError: it, or a part of it, is compiled or scripted.

    Example:
        >>> network = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(network)) is network
        True
    """
    model = inside(model)
    for name, module in model.named_modules():
        part = f"the part {name!r} of the network" if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise NetworkError(
                f"{part} is a ScriptModule: its feature maps cannot be seen; give the eager network it was made from"
            )
        if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
            raise NetworkError(
                f"{part} is compiled by torch.compile, which fuses feature maps away; give the network it was made from"
            )
    return model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Within the block, every module of `model` is in eval mode; after it, in the mode that it was in before.

    Example:
        >>> net = nn.Sequential(nn.Dropout(), nn.ReLU().eval())
        >>> with evaluating(net):
        ...     [module.training for module in net]
        [False, False]
        >>> [module.training for module in net]
        [True, False]
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def asking_for_gradients(model: nn.Module, asks: bool) -> Iterator[None]:
    """Within the block every parameter asks for gradients, or none does; after it, those that did before.

    Those that are no numbers with a point never do. Those made in inference mode, which outside of it could not be
    told to ask again, stay as they are.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> with asking_for_gradients(net, False):
        ...     net.weight.requires_grad
        False
        >>> net.weight.requires_grad
        True
    """
    before = [(p, p.requires_grad) for p in model.parameters() if not p.is_inference()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(asks and parameter.is_floating_point())
        yield
    finally:
        for parameter, asked in before:
            parameter.requires_grad_(asked)


@contextmanager
def reading(network: nn.Module, inputs: Tensor, *, ran_on: torch.Size | None = None) -> Iterator[None]:
    """Within the block `network` runs on `inputs`; an error that comes of inputs which it cannot take tells so.

    Args:
        network: what runs.
        inputs: (N, ...).
        ran_on: the shape of one input of an earlier batch, which it ran on.

    Raises:
        NetworkError: the network failed, and takes other than one input, or has weights of another type than these.
        DataError: it failed, and `ran_on` says that these inputs have another size than those before.

    Example:
        >>> with reading(nn.Bilinear(2, 2, 1), torch.ones(3, 2)):
        ...     _ = nn.Bilinear(2, 2, 1)(torch.ones(3, 2))
        Traceback (most recent call last):
        ...
        secateur.errors.NetworkError: the network does not run on a batch of shape (3, 2), float32: images are given \
to it as one tensor, and its forward takes (input1: torch.Tensor, input2: torch.Tensor) -> torch.Tensor; put a module \
around it that takes one
    """
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:  # a user's network may raise anything
        reason = _cannot_read(network, inputs)
        if not reason and ran_on is not None and inputs.shape[1:] != ran_on:
            raise DataError(
                f"the inputs differ in size: {tuple(ran_on)} and then {tuple(inputs.shape[1:])}, on which the network "
                f"does not run ({type(error).__name__}: {error})"
            ) from error
        if not reason:
            raise
        what = f"a batch of shape {tuple(inputs.shape)}, {str(inputs.dtype).removeprefix('torch.')}"
        raise NetworkError(f"the network does not run on {what}: {reason}") from error


def _cannot_read(network: nn.Module, inputs: Tensor) -> str:
    signature = inspect.signature(network.forward)
    try:
        signature.bind(inputs)
    except TypeError:
        return (
            f"images are given to it as one tensor, and its forward takes {signature}; put a module around it that "
            "takes one"
        )
    own = dtype_of(network)
    told = f"its weights are {str(own).removeprefix('torch.')}; let the batches hold that"
    return "" if own in (None, inputs.dtype) else told


@contextmanager
def placed(device: str | torch.device, *models: nn.Module | None) -> Iterator[None]:
    """Within the block, `models` lie on `device`; after it, on the devices that they were on before.

    Args:
        device: where to.
        models: moved as a whole, with gradients; each is taken to lie on one device. None is passed over.

    Cost: a copy of the parameters and buffers each way; nothing where they lie there already.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> with placed("cpu", net, None):
        ...     device_of(net)
        device(type='cpu')
    """
    before = [(model, device_of(model)) for model in models if model is not None]
    try:
        for model, _ in before:
            model.to(device)
        yield
    finally:
        for model, home in before:
            model.to(home)


@contextmanager
def laid_out(model: nn.Module, layout: torch.memory_format | None) -> Iterator[None]:
    """Within the block, kernels (C_out, C_in, k, k) lie in memory as `layout` has it, if given; after it, as before.

    Example:
        >>> net = nn.Conv2d(3, 4, 2)
        >>> with laid_out(net, torch.channels_last):
        ...     net.weight.stride()
        (12, 1, 6, 3)
        >>> net.weight.stride()
        (12, 4, 2, 1)
    """
    kernels = [(p, p.stride()) for p in model.parameters() if p.ndim == 4]
    for kernel, _ in kernels:
        kernel.data = kernel.data if layout is None else kernel.data.contiguous(memory_format=layout)
    try:
        yield
    finally:
        for kernel, stride in kernels:
            kernel.data = torch.empty_strided(kernel.shape, stride, dtype=kernel.dtype, device=kernel.device).copy_(
                kernel.data
            )


def device_of(model: nn.Module) -> torch.device:
    """Return where the first parameter or buffer of `model` lies; the CPU if it has none."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def own_copy(model: nn.Module, images: Tensor) -> Tensor:
    """Return a copy of images for `model` alone, where it lies: a network may work in place on what it is given.

    Example:
        >>> images = torch.tensor([-1.0, 1.0])
        >>> nn.ReLU(inplace=True)(own_copy(nn.Linear(1, 1), images)), images
        (tensor([0., 1.]), tensor([-1.,  1.]))
    """
    return images.to(device_of(model), copy=True)


def own_copies(model: nn.Module, inputs: Any) -> Any:
    """Return inputs, however nested, whose tensors are copies for `model` alone, as by `own_copy`.

    Example:
        >>> own_copies(nn.Linear(1, 1), (torch.ones(2), {"scale": 3}))
        (tensor([1., 1.]), {'scale': 3})
    """
    return tree_map(lambda x: own_copy(model, x) if isinstance(x, Tensor) else x, inputs)


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """Return the type of the model's first floating-point weight, None where it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def check_changeable(model: nn.Module) -> None:
    """Raise NetworkError for a network made in inference mode, which can then be neither changed nor trained."""
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    name = next((name for name, tensor in named if tensor.is_inference()), None)
    if name is not None and not torch.is_inference_mode_enabled():
        raise NetworkError(
            f"{name!r} was made under torch.inference_mode, outside of which it can be neither changed nor trained; "
            "copy.deepcopy(model) gives a network that can"
        )
