"""Which modules end a residual block, found with the taps; their outputs are feature maps that two networks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.errors import NetworkError
from secateur.feature_maps.tap import producers, summed, tapped
from secateur.modes import evaluating, own_copy, unwrapped


def block_ends(model: nn.Module, inputs: Tensor) -> dict[str, str]:
    """Return the modules whose output is the map behind a residual sum, each with a convolution that is summed there.

    A convolution is summed where the map behind its normalisation and sum is not the one behind its normalisation, its
    tap "bn"; the end of its block is the first module, called once in a pass, that returns the map of its tap "act". Of
    several modules that return one map, such as a block and the stage that it ends, the inner one counts.

    Args:
        model: left as it is.
        inputs: (N, C, H, W), one or two images.

    Raises:
        NetworkError: the network is compiled, so that no map can be seen.

    Cost: four forward passes of the inputs, whose maps are kept meanwhile.

    Example:
        >>> from secateur.networks import digits_resnet
        >>> block_ends(digits_resnet(), torch.rand(2, 1, 8, 8))
        {'layer1.0': 'layer1.0.conv2', 'layer2.0': 'layer2.0.conv2', 'layer3.0': 'layer3.0.conv2', 'layer3.1': \
'layer3.1.conv2'}
    """
    network = unwrapped(model)
    convolutions = [name for name, module in producers(network).items() if isinstance(module, _ConvNd)]
    own, behind = (_maps(network, inputs, convolutions, taps) for taps in (partial(tapped, tap="bn"), summed))
    joined = [name for name in own if name in behind and not _same(own[name], behind[name])]
    read = _maps(network, inputs, joined, tapped)
    once = _outputs(network, inputs)
    ends: dict[str, str] = {}
    for layer, found in read.items():
        end = next((name for name, output in once.items() if _same(output, found)), None)
        if end is not None:
            ends.setdefault(end, layer)
    return ends


def _maps(
    model: nn.Module, inputs: Tensor, layers: list[str], taps: Callable[..., AbstractContextManager[nn.Module]]
) -> dict[str, Tensor]:
    maps: dict[str, Tensor] = {}

    def receive(layer: str, found: Tensor) -> None:
        maps[layer] = found.clone()

    with evaluating(model), torch.no_grad(), taps(model, receive, layers=layers) as network:
        network(own_copy(model, inputs))
    return maps


def _outputs(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the outputs of all modules that are called once, in the order in which they return."""
    returned: dict[str, list[Tensor]] = {}

    def keeping(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                returned.setdefault(name, []).append(output.clone())

        return hook

    with ExitStack() as stack, evaluating(model), torch.no_grad():  # on its own: a tap would follow the copies
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(keeping(name)).remove)
        model(own_copy(model, inputs))
    return {name: maps[0] for name, maps in returned.items() if len(maps) == 1}


def _same(first: Tensor, second: Tensor) -> bool:
    """Say whether two passes over the same images gave the same map, up to what a GPU rounds otherwise in each."""
    if first.shape != second.shape:
        return False
    return bool((first - second).abs().max() <= 1e-3 * second.abs().max())


@contextmanager
def captured(model: nn.Module, channels: Mapping[str, Tensor | None]) -> Iterator[dict[str, Tensor]]:
    """Within the block, the outputs of some modules are there by name after each forward pass, gradients included.

    Args:
        model: the network.
        channels: name of a module -> the channels of its output to take, None for all.

    Raises:
        NetworkError: no module of that name.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
        >>> with captured(net, {"1": torch.tensor([0, 2])}) as maps:
        ...     _ = net(torch.zeros(2, 1, 4, 4))
        ...     print(maps["1"].shape)
        torch.Size([2, 2, 4, 4])
    """
    maps: dict[str, Tensor] = {}

    def taking(name: str, taken: Tensor | None) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            # a copy, since the network may overwrite its own
            maps[name] = output.clone() if taken is None else output.index_select(1, taken.to(output.device))

        return hook

    with ExitStack() as stack:
        for name, taken in channels.items():
            try:
                module = model.get_submodule(name)
            except AttributeError as error:
                raise NetworkError(f"the network has no module {name!r} whose feature map the teacher has") from error
            stack.callback(module.register_forward_hook(taking(name, taken)).remove)
        yield maps
