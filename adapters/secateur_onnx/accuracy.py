"""How many images an ONNX file names rightly, without torch's network beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from secateur.batches import Batches
from secateur.evaluation import accuracy
from secateur_onnx.networks import as_array
from secateur_onnx.sessions import create_session, infer

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def file_accuracy(path: str | Path, batches: Batches, *, provider: str = "cpu", threads: int | None = None) -> float:
    """Return the share of inputs for which the largest output of an ONNX file is that of their label.

    Args:
        path: an ONNX file that gives logits (N, classes).
        batches: `(inputs, labels)`, (N, C, H, W) and (N,).
        provider, threads: see `create_session`.

    Raises:
        DataError: no batches, a batch of another shape, without labels or with labels that are no classes, or outputs
            that are NaN or no logits.
        ConfigError, CheckpointError, MissingDependencyError: as `create_session`.

    Example:
        >>> import tempfile, torch
        >>> from secateur_onnx import export
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export(torch.nn.Identity(), torch.zeros(2, 3), Path(folder) / "same.onnx").path
        ...     file_accuracy(path, [(torch.eye(3), torch.tensor([0, 1, 1]))])
        0.6666666666666666
    """
    return accuracy(_File(create_session(path, provider=provider, threads=threads)), batches)


class _File(nn.Module):
    """An ONNX file in place of a network."""

    def __init__(self, session: InferenceSession) -> None:
        super().__init__()
        self._session = session

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.from_numpy(infer(self._session, as_array(inputs)))
