"""Masks of NNI as tests read them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

HALF = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]
Batches = list[tuple[Tensor, Tensor]]


def kept(masks: Mapping[str, Mapping[str, Tensor]], layer: str) -> tuple[int, ...]:
    return tuple(masks[layer]["weight"].flatten(1).any(1).nonzero().flatten().tolist())


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(images)
