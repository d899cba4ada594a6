"""Training on another device than the processor: every tensor that is made on the way lies where the network does.

torch's meta device, which holds no numbers, refuses to mix with the processor as a GPU does. Here it answers what
training asks of numbers: is it finite, how large is the loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import ParameterCost, autoprune, channel_groups, prune_by_soft_clusters
from secateur.networks import digits_resnet
from secateur.training import Recipe, fine_tune, prune_layer_by_layer
from training_for_tests import blobs, net

pytestmark = pytest.mark.filterwarnings("ignore:.*which is a no-op")  # copies of numbers to where there are none
ANSWERS: dict[str, Callable[[Tensor], Any]] = {
    "__bool__": lambda _: True,
    "__float__": lambda _: 0.5,
    "__int__": lambda _: 1,
    "item": lambda _: 0.5,
    "tolist": lambda tensor: torch.zeros(tensor.shape).tolist(),
    "cpu": lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype),
}


@pytest.fixture(autouse=True)
def _meta_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def answering(name: str) -> Callable[..., Any]:
        plain, answer = getattr(Tensor, name), ANSWERS[name]
        return lambda self, *given, **named: answer(self) if self.is_meta else plain(self, *given, **named)

    def to(self: Tensor, *given: Any, **named: Any) -> Tensor:
        home = any(isinstance(place, torch.device) and place.type == "cpu" for place in given)
        return plainly(self.cpu() if home else self, *given, **named)

    plainly = Tensor.to
    monkeypatch.setattr(Tensor, "to", to)
    for name in ANSWERS:
        monkeypatch.setattr(Tensor, name, answering(name))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which meta does not know
    monkeypatch.setattr(torch, "allclose", lambda first, second, **_: first.device == second.device)


def there(model: nn.Module) -> nn.Module:
    return model.to("meta")


def test_the_device_refuses_to_mix() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        there(net())(torch.ones(3, 2))


@pytest.mark.parametrize(
    "way",
    [
        {"average": 0.9, "mixup": 0.3, "clip_norm": 1.0, "label_smoothing": 0.1},
        {"optimizer": "adamw", "freeze": {"0": [1], "4": [0, 2]}, "recalibrate": 40},
        {"distillation": 0.7},
    ],
    ids=["average", "freeze", "teacher"],
)
def test_fine_tuning(tmp_path: Path, way: dict[str, Any]) -> None:
    for _ in range(2):  # the second time from the checkpoint
        model, teacher = there(net()), net(seed=1) if "distillation" in way else None
        file = tmp_path / "run.safetensors"
        assert fine_tune(model, blobs(), epochs=2, checkpoint=file, teacher=teacher, **way).chosen == 2
        assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_a_teacher_elsewhere_shows_its_feature_maps() -> None:
    digits = [(torch.rand(8, 1, 8, 8), torch.arange(8))]
    assert fine_tune(there(digits_resnet()), digits, teacher=digits_resnet(), feature_weight=0.5).chosen == 1


def test_gates_clusters_and_layers(tmp_path: Path) -> None:
    groups = channel_groups(net().eval(), blobs()[0][0])
    cost, (name,) = ParameterCost(net(), groups), groups
    for file in (tmp_path / "gates", tmp_path / "gates"):
        found = autoprune(there(net()), groups, cost, blobs(), keep=0.5, epochs=2, checkpoint=file)
        assert found.plan.widths[name] == 4
    alone = autoprune(there(net()), groups, cost, blobs(), keep=0.5, epochs=1, batch_average=False)
    assert alone.plan.widths[name] == 4
    merged = prune_by_soft_clusters(there(net()), groups, cost, blobs(), keep={name: 3}, recipe=Recipe(epochs=2))
    assert merged.plan.widths[name] == 3
    pruned, _ = prune_layer_by_layer(there(net()), found.plan, blobs(), recipe=Recipe(epochs=1))
    assert pruned[0].weight.is_meta
