"""A run whose plan masks channels: they stay zero through fine-tuning, and in the files."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file

from runs_for_tests import User
from secateur.checkpoint import load_plan

SETTINGS = ("network.build=secateur_user_networks:Residual", "plan.residual=mask", "fine_tune.learning_rate=0.1")


def test_masked_channels_stay_zero_through_fine_tuning_and_in_the_files(user: User, tmp_path: Path) -> None:
    user.call(tmp_path, *SETTINGS)
    gone = {name: list(channels) for name, channels in load_plan(tmp_path).masked.items()}
    assert {name: len(channels) for name, channels in gone.items()} == {"stem": 4, "outer": 4}
    recovered, trained = (load_file(tmp_path / name) for name in ("stages/recovered.safetensors", "model.safetensors"))
    graph = onnx.load(tmp_path / "model.onnx").graph
    written = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    for layer, channels in gone.items():
        norm = f"{layer}_norm"
        own = (trained[f"{layer}.weight"], trained[f"{norm}.weight"], trained[f"{norm}.bias"])
        folded = (written[f"{layer}.weight"], written[f"{layer}.weight_bias"])  # with its batch norm
        for tensor in (*own, *folded):
            assert len(tensor) == 8
            assert tensor[channels].count_nonzero() == 0
            assert tensor.flatten(1).any(1).sum() == 4 if tensor.ndim > 1 else tensor.count_nonzero() == 4
        assert not torch.equal(own[0], recovered[f"{layer}.weight"])  # it was trained
