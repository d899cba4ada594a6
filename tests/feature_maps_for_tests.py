"""What the tests of the tap share: all maps of one pass, and all values of a network as torch.fx records them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.feature_maps import Tap, tapped

Maps = dict[str, list[Tensor]]


def randomise(model: nn.Module) -> nn.Module:
    """Give every norm and scale numbers of its own, so that no tensor passes for another."""
    for name, parameter in model.named_parameters():
        if name.endswith("layer_scale"):
            nn.init.uniform_(parameter, 0.5, 1.5)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def tap_all(model: nn.Module, *inputs: Tensor, tap: Tap = "act", grad: Any = torch.no_grad) -> Maps:
    maps: Maps = {}
    with grad(), tapped(model, lambda layer, m: maps.setdefault(layer, []).append(m.clone()), tap=tap) as network:
        network(*inputs)
    return maps


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert torch.equal(found, expected)


class Recorder(fx.Interpreter):
    """Runs a traced network and keeps a copy of what every node gave, before anything overwrites it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(fx.symbolic_trace(model))
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.values[n.name] = value.clone()
        return value

    @classmethod
    def record(cls, model: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
        recorder = cls(model)
        with torch.no_grad():
            recorder.run(*inputs)
        return recorder.values


class Chain(nn.Module):
    """convolution, some steps, a reader that overwrites in place."""

    def __init__(self, *steps: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.modules_ = nn.ModuleList(s for s in steps if isinstance(s, nn.Module))
        self.steps = steps
        self.expected = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for step in self.steps:
            x = step(x)
        self.expected = x.detach().clone()
        return x.exp_() + 1


class Wiring(nn.Module):
    """Two convolutions whose outputs a function joins; the joined, activated tensor is kept."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.join = join
        self.joined = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        joined = self.join(self.left(x), self.right(x))
        self.joined = joined.clone()
        return joined.mul_(torch.rand_like(joined))
