"""What the tests of the tap share: all maps of one pass, and all values of a network as torch.fx records them."""

from __future__ import annotations

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
