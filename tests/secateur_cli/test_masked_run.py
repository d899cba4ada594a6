"""A run whose plan masks channels: they stay zero through fine-tuning, and in the files."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file

from runs_for_tests import User
from secateur.checkpoint import load_plan, load_pruned
from secateur.quantization import load_quantized
from secateur_cli.inputs.sources import network_factory
from secateur_cli.settings.config import load_config
from secateur_cli.stages.few_bits import QUANTIZED

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


def test_masked_channels_stay_zero_with_fewer_bits(user: User, tmp_path: Path) -> None:
    few = "quantize={order: uniform, bits: 4, ends: null, learning_rate: 0.1}"
    user.call(tmp_path, *SETTINGS[:2], "fine_tune=null", few)
    build = network_factory(load_config(user.config, overrides=SETTINGS[:1]).network, user.folder)
    network = load_pruned(build, tmp_path)
    before = network.get_parameter("outer.weight").clone()
    load_quantized(network, tmp_path / QUANTIZED)
    for layer, channels in load_plan(tmp_path).masked.items():
        for name in (f"{layer}.weight", f"{layer}_norm.weight", f"{layer}_norm.bias"):
            tensor = network.get_parameter(name)
            assert tensor[list(channels)].count_nonzero() == 0
            assert tensor.count_nonzero() > 0
    assert not torch.allclose(network.get_parameter("outer.weight"), before, atol=1e-3)
