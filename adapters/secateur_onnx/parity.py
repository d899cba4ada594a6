"""Does the ONNX file compute what the torch network computes? Answered on real batches, not on noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.batches import Batches, rebatch
from secateur.counts import check_counts
from secateur.errors import ConfigError, DataError, NetworkError, VerificationError
from secateur.modes import evaluating
from secateur.tf32 import without_tf32
from secateur_onnx.networks import as_array, placed
from secateur_onnx.sessions import create_session, infer, input_spec

TOLERANCES = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-4}
TF32_ON_TENSORRT = "it may round to TensorFloat-32, unless the process began with NVIDIA_TF32_OVERRIDE=0"


@dataclass(frozen=True)
class ParityResult:
    """How far an ONNX file is from its torch network.

    Attributes:
        provider: where the file ran: "cpu", "cuda", "tensorrt".
        samples: how many inputs were compared.
        max_abs, mean_abs: the largest and the mean difference of any output number.
        max_relative: `max_abs` as a share of the largest output of the torch network.
        top1_agreement: the share of samples for which both name the same class.
        tolerance: the largest `max_relative` that passes.
    """

    provider: str
    samples: int
    max_abs: float
    mean_abs: float
    max_relative: float
    top1_agreement: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the largest relative difference is within the tolerance."""
        return self.max_relative <= self.tolerance

    def require(self) -> ParityResult:
        """Return this result if it passed. Raises VerificationError, with the differences, if it did not."""
        if not self.passed:
            rounding = f"; {TF32_ON_TENSORRT}" if self.provider == "tensorrt" else ""
            raise VerificationError(
                f"the ONNX file does not compute what the network computes: over {self.samples} inputs the largest "
                f"difference is {self.max_abs:.3g}, {self.max_relative:.3g} of the largest output where "
                f"{self.tolerance:.3g} is allowed; top-1 agreement {self.top1_agreement:.1%}; "
                f"provider {self.provider}{rounding}"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "provider": self.provider,
            "samples": self.samples,
            "max_abs": self.max_abs,
            "mean_abs": self.mean_abs,
            "max_relative": self.max_relative,
            "top1_agreement": self.top1_agreement,
            "tolerance": self.tolerance,
            "passed": self.passed,
        }


def check_parity(
    model: nn.Module,
    path: str | Path,
    batches: Batches,
    *,
    provider: str = "cpu",
    tolerance: float | None = None,
    max_samples: int | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ParityResult:
    """Run the torch network and the ONNX file on the same batches and return how far apart they are.

    Formula: with t the outputs of torch and o those of the file over all samples, in float64,
    max_abs = max |o - t|, mean_abs = mean |o - t|, max_relative = max_abs / max |t|. The scale is the largest output
    of all, not each number's own, since an output near zero has no meaningful relative error. top1_agreement compares
    the arg max over dimension 1 (over every position, where there are any). The network runs where it lies, in
    evaluation mode; TensorFloat-32 is off on both sides.

    Args:
        model: the network that was exported.
        path: the ONNX file.
        batches: `(inputs, labels)` or inputs alone, (N, C, H, W); labels are not read.
        provider: see `create_session`.
        tolerance: the largest `max_relative` that passes; where None, by the number format of the file, 1e-4 for
            float32 and float64 and 1e-2 for float16, whose eleven bits round at 5e-4 in every layer.
        max_samples: stop after so many inputs; None reads all.
        threads: see `create_session`.
        on_progress: called after each batch with the samples done and `max_samples` (0 where that is None).

    Raises:
        DataError: no batches, or a batch the file was not exported for.
        NetworkError: the network fails on a batch that the file takes, or does not give one tensor.
        VerificationError: outputs of different shapes, without a number in them, or not finite. A difference above the
            tolerance does not raise: see `ParityResult.require`.
        ConfigError, CheckpointError, MissingDependencyError: as `create_session` does.

    Cost: one forward pass of each network.

    Example:
        >>> import tempfile
        >>> from secateur_onnx import export
        >>> network, folder = nn.Linear(3, 2), tempfile.TemporaryDirectory()
        >>> path = export(network, torch.zeros(1, 3), Path(folder.name) / "linear.onnx").path
        >>> check_parity(network, path, [(torch.ones(4, 3), torch.zeros(4))]).require().samples
        4
        >>> folder.cleanup()
    """
    if tolerance is not None and not tolerance >= 0:
        raise ConfigError(f"tolerance must be 0 or more, or None; found {tolerance}")
    if max_samples is not None:
        check_counts(max_samples=max_samples)
    session = create_session(path, provider=provider, threads=threads, tf32=False)
    spec = input_spec(session)
    allowed = TOLERANCES[spec.dtype.name] if tolerance is None else tolerance
    differences = _Differences()
    with evaluating(model), torch.no_grad(), without_tf32():
        for inputs, _ in rebatch(batches, None, samples=max_samples):
            spec.require(tuple(inputs.shape))
            try:
                outputs = model(placed(inputs, model))
            except Exception as error:  # whatever the user's forward raises
                raise NetworkError(f"the network fails on a batch of shape {tuple(inputs.shape)}: {error}") from error
            if not isinstance(outputs, Tensor):
                raise NetworkError(f"the network must give one tensor; it gives {type(outputs).__name__}")
            expected = outputs.to("cpu", torch.float64).numpy()
            differences.add(expected, infer(session, as_array(inputs)).astype(np.float64))
            if on_progress is not None:
                on_progress(differences.samples, max_samples or 0)
    if differences.samples == 0:
        raise DataError("there are no batches to compare the ONNX file with the network on")
    return differences.result(provider, allowed)


class _Differences:
    """Sums over the batches seen so far."""

    def __init__(self) -> None:
        self.samples = self.numbers = self.votes = self.agreeing = 0
        self.largest = self.total = self.scale = 0.0

    def add(self, expected: NDArray[np.float64], found: NDArray[np.float64]) -> None:
        if expected.shape != found.shape:
            raise VerificationError(f"the network gives outputs {expected.shape}, the ONNX file {found.shape}")
        if not expected.size:
            raise VerificationError(f"the network gives no numbers to compare: its outputs are {expected.shape}")
        for name, outputs in (("network", expected), ("ONNX file", found)):
            if not np.isfinite(outputs).all():
                raise VerificationError(f"the {name} gives outputs that are NaN or infinite; they cannot be compared")
        distance = np.abs(found - expected)
        self.samples += len(expected)
        self.numbers += distance.size
        self.total += float(distance.sum())
        self.largest = max(self.largest, float(distance.max(initial=0.0)))
        self.scale = max(self.scale, float(np.abs(expected).max(initial=0.0)))
        if expected.ndim == 1:  # one number for each sample: a single class
            expected, found = expected[:, None], found[:, None]
        agree = expected.argmax(1) == found.argmax(1)
        self.votes += agree.size
        self.agreeing += int(agree.sum())

    def result(self, provider: str, tolerance: float) -> ParityResult:
        # A network whose outputs are all zero has no scale of its own: the difference then stands as it is.
        return ParityResult(
            provider=provider,
            samples=self.samples,
            max_abs=self.largest,
            mean_abs=self.total / self.numbers,
            max_relative=self.largest / (self.scale or 1.0),
            top1_agreement=self.agreeing / self.votes,
            tolerance=tolerance,
        )
