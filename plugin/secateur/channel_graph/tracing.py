"""What comes before the groups: a copy of the network that can be cut, and Torch-Pruning's trace of it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.channel_graph.host_graph import HostGraph
from secateur.channel_graph.hosts import own_pruners
from secateur.channel_graph.outputs import tensors_of
from secateur.errors import NetworkError, SecateurError
from secateur.modes import check_bare

QUANTIZED = tuple(
    f"torch.ao.{part}"
    for part in (
        "nn.qat",
        "nn.quantized",
        "nn.intrinsic.qat",
        "nn.intrinsic.quantized",
        "quantization.fake_quantize",
        "quantization.observer",
    )
)


def trace(model: nn.Module, inputs: tuple[Any, ...]) -> HostGraph:
    """Return Torch-Pruning's dependency graph of `model`, which is left in eval mode.

    Raises:
        NetworkError: the network does not run on the inputs, returns detections, or cannot be traced.
    """
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return HostGraph().build_dependency(
                model,
                example_inputs=inputs,
                output_transform=_tensors,
                customized_pruners=own_pruners(model),
                verbose=False,
            )
    except SecateurError:
        raise
    except Exception as error:
        try:
            model.eval()(*inputs)
        except Exception as own:  # Torch-Pruning tells of its second try, with the arguments in a tuple
            raise NetworkError(
                f"the network does not run on the example inputs in eval mode ({type(own).__name__}: {own})"
            ) from own
        raise NetworkError(
            f"Torch-Pruning cannot trace this network ({type(error).__name__}: {error}); prune by itself a part of it "
            "in which channels are neither shuffled nor sorted, such as a backbone"
        ) from error


def _tensors(outputs: Any) -> Any:
    """Return the tensors among outputs; refuse those of a detector.

    What selects boxes goes through slices and concatenations that Torch-Pruning takes for channels. It traces them in
    a second, and then walks a group of a whole SSDLite through the same 251 places with ever other lists of indices:
    some 5,000 visits in 20 s, 7,800 in 50 s, and no end in sight.
    """
    if isinstance(outputs, list) and outputs and all(isinstance(each, Mapping) for each in outputs):
        raise NetworkError(
            f"the network returns detections, a mapping for each image ({', '.join(map(str, outputs[0]))}), and what "
            "selects them cannot be traced; prune the part of it that computes feature maps, such as its `backbone`"
        )
    return tensors_of(outputs) or outputs


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy; refuse networks that cannot be copied, or whose weights are computed and so cannot be cut."""
    check_bare(model)
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise NetworkError(
                f"the weights of layer {name!r} are computed by a parametrization (such as weight norm) and cannot be "
                "cut; first call torch.nn.utils.parametrize.remove_parametrizations on it"
            )
        if isinstance(module.__dict__.get("weight"), Tensor):  # neither a parameter nor a buffer
            raise NetworkError(
                f"the weights of layer {name!r} are computed each time by a hook, as the older weight_norm and "
                "spectral_norm and torch.nn.utils.prune do, and cannot be cut; first remove it: remove_weight_norm, "
                "remove_spectral_norm or prune.remove"
            )
        if type(module).__module__.startswith(QUANTIZED):
            raise NetworkError(
                f"the network is prepared for quantization: {name!r} is a {type(module).__name__} of torch.ao, which "
                "cannot be cut; prune the network first and prepare it afterwards"
            )
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise NetworkError(f"{name!r} has no values yet: run the network once, which gives lazy layers weights")
    try:
        return copy.deepcopy(model)
    except Exception as error:  # what the user's modules hold may refuse in any way
        raise NetworkError(
            f"this network cannot be copied ({type(error).__name__}: {error}); its modules must hold nothing that "
            "copy.deepcopy refuses, such as locks, open files or the weights of the older weight_norm"
        ) from error


def differentiable(model: nn.Module) -> nn.Module:
    """Let every parameter of `model` that can have a gradient have one, as tracing needs; return `model`.

    Example:
        >>> net = nn.Linear(2, 1).requires_grad_(False)
        >>> net.order = nn.Parameter(torch.arange(2), requires_grad=False)
        >>> [parameter.requires_grad for parameter in differentiable(net).parameters()]
        [True, True, False]
    """
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return model
