"""Networks in half precision are exported as rounded once, and with what onnxruntime can run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from secateur_onnx import check_parity, create_session, export
from secateur_onnx.sessions import infer

EXAMPLE = torch.zeros(1, 3, 16, 16)


def test_half_precision(tmp_path: Path, network: nn.Sequential) -> None:
    result = export(network.half(), EXAMPLE, tmp_path / "half.onnx")
    inputs = torch.randn(3, 3, 16, 16)
    outputs = infer(create_session(result.path), inputs.numpy())
    assert outputs.dtype == np.float16
    np.testing.assert_allclose(outputs, network(inputs.half()).detach().numpy(), atol=1e-2)


def test_half_precision_is_rounded_after_folding(tmp_path: Path, network: nn.Sequential) -> None:
    """Each weight is the folded one in float32, rounded once; folded in float16, many are a digit or two off."""
    half = network.half()
    conv, norm = half[0], half[1]
    gain = norm.weight.float() / (norm.running_var.float() + norm.eps).sqrt()
    expected = (conv.weight.float() * gain[:, None, None, None]).detach().numpy()
    proto = onnx.load(export(half, EXAMPLE, tmp_path / "half.onnx").path)
    assert {i.data_type for i in proto.graph.initializer} <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}
    assert half[0].weight.dtype == torch.float16
    first = next(node for node in proto.graph.node if node.op_type == "Conv")
    found = next(onnx.numpy_helper.to_array(i) for i in proto.graph.initializer if i.name == first.input[1])
    spacing = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float32)
    assert (np.abs(found.astype(np.float32) - expected) <= 0.51 * spacing).all()


def test_gelu_stays_in_float32_where_the_rest_is_float16(tmp_path: Path) -> None:
    """In float16, onnxruntime 1.32 would crash on a vision transformer."""
    transformer = pytest.importorskip("torchvision.models.vision_transformer").VisionTransformer
    network = transformer(image_size=16, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=24)
    nn.init.normal_(network.heads.head.weight)
    network, images = network.eval().half(), torch.randn(3, 3, 16, 16)
    path = export(network, images, tmp_path / "transformer.onnx").path
    nodes = onnx.load(path).graph.node
    made_by = {name: node.op_type for node in nodes for name in node.output}
    gelus = [node for node in nodes if node.op_type == "Gelu"]
    assert [made_by[node.input[0]] for node in gelus] == ["Cast"]
    assert check_parity(network, path, [images]).require().max_relative > 0


class InTwoFormats(nn.Module):
    """A body in float16 and a head in float32, as in mixed precision."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3).half(), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs).mean((2, 3)).float())


class NotToBeCopied(nn.Conv2d):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("only one of me")


@pytest.mark.parametrize(
    ("build", "kind"), [(InTwoFormats, np.float32), (lambda: NotToBeCopied(3, 4, 3).half(), np.float16)]
)
def test_half_precision_that_cannot_go_by_way_of_float32(
    tmp_path: Path, build: Callable[[], nn.Module], kind: type[np.generic]
) -> None:
    network, inputs = build().eval(), torch.randn(3, 3, 16, 16).half()
    outputs = infer(create_session(export(network, inputs, tmp_path / "half.onnx").path), inputs.numpy())
    assert outputs.dtype == kind
    np.testing.assert_allclose(outputs, network(inputs).detach().numpy(), atol=1e-2)
