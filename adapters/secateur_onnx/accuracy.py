"""How many images an ONNX file names rightly, without torch's network beside it."""

from __future__ import annotations

from pathlib import Path

from secateur.batches import Batches, opened, unpack
from secateur.errors import DataError
from secateur_onnx.sessions import create_session, infer


def file_accuracy(path: str | Path, batches: Batches, *, provider: str = "cpu", threads: int | None = None) -> float:
    """Return the share of inputs for which the largest output of an ONNX file is that of their label.

    Args:
        path: an ONNX file that gives logits (N, classes).
        batches: `(inputs, labels)`, (N, C, H, W) and (N,).
        provider, threads: see `create_session`.

    Raises:
        DataError: no batches, a batch without labels or of another shape.
        ConfigError, CheckpointError, MissingDependencyError: as `create_session`.

    Example:
        >>> import tempfile, torch
        >>> from secateur_onnx import export
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export(torch.nn.Identity(), torch.zeros(2, 3), Path(folder) / "same.onnx").path
        ...     file_accuracy(path, [(torch.eye(3), torch.tensor([0, 1, 1]))])
        0.6666666666666666
    """
    session = create_session(path, provider=provider, threads=threads)
    right = count = 0
    for batch in opened(batches):
        inputs, labels = unpack(batch)
        if labels is None:
            raise DataError("an accuracy needs labels; the batches have none")
        right += int((infer(session, inputs.cpu().numpy()).argmax(1) == labels.cpu().numpy()).sum())
        count += len(labels)
    if not count:
        raise DataError("there are no batches to judge the ONNX file on")
    return right / count
