"""A torch network in, one ONNX file out: named input and output, any batch size, checked before it takes its name."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.errors import CheckpointError, ConfigError, NetworkError, SecateurWarning
from secateur.files import replacing
from secateur.modes import evaluating, inside, own_copy
from secateur_onnx.half_precision import all_half, in_float32, rounded_to_half
from secateur_onnx.metadata import as_strings
from secateur_onnx.networks import placed
from secateur_onnx.open_batch import FixedBatchError, Passed, fixes_batch
from secateur_onnx.packages import require
from secateur_onnx.quiet import quiet

MIN_OPSET = 7
NEWEST_TRACED = 23  # the last version of the operators that torch's older exporter writes
Exporter = Literal["dynamo", "torchscript"]
Translation = tuple[Any, Exporter, str | None]


@dataclass(frozen=True)
class ExportResult:
    """Where the file lies, how it came about and how large it is.

    Attributes:
        path: the ONNX file.
        opset: the version of the ONNX operators it uses.
        exporter: "dynamo" (torch.export, the current one) or "torchscript" (tracing, the older one).
        fallback_reason: why the older exporter was needed; None where it was not.
        file_bytes: the size of the file.
    """

    path: Path
    opset: int
    exporter: Exporter
    fallback_reason: str | None
    file_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "path": str(self.path),
            "opset": self.opset,
            "exporter": self.exporter,
            "fallback_reason": self.fallback_reason,
            "file_bytes": self.file_bytes,
        }


def export(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    path: str | Path,
    *,
    metadata: Mapping[str, object] | None = None,
    opset: int | None = None,
) -> ExportResult:
    """Write `model` in evaluation mode as one ONNX file with the input "input" and the output "output".

    The first dimension of both is left open, so the file takes any batch size; it is tried on another one than it was
    made with (see `secateur_onnx.open_batch`). The current exporter of torch is tried first; where it fails, or fixes
    the batch size, the older one takes over, a SecateurWarning says why, and the result keeps the reason. The
    exporters' notes on source lines and folders of this machine are taken out, and the versions of secateur, torch,
    onnx and onnxscript are put in (see `read_metadata`). A network in float16 is folded in float32 and rounded
    afterwards, which loses less (see `secateur_onnx.half_precision`). The file is checked, written under another name
    in the same folder and renamed: whatever fails, a file that lay there before is untouched.

    Args:
        model: a network with one input and one output tensor, on any device; its modes are restored.
        example_inputs: one batch (N, C, H, W) that it accepts, alone or as a tuple of one.
        path: the file to write; its folder must exist.
        metadata: what else the file should say of itself, such as `plan_metadata(plan)`.
        opset: the version of the ONNX operators; the exporter's default where None.

    Raises:
        NetworkError: the network does not run on the example, does not map N inputs to N rows of one tensor, neither
            exporter can translate it, or both fix the batch size, as where forward calls `len(x)`.
        ConfigError: `opset` is unknown to the installed onnx, the folder does not exist, or `metadata` is not plain
            data.
        CheckpointError: the file cannot be written.
        MissingDependencyError: onnx or onnxscript is missing.

    Cost: two forward passes of the network, one of the file, and a translation, seconds; the weights are held in
    memory up to four times, and those of a network in float16 a further time in float32.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> result = export(nn.Linear(3, 2), torch.zeros(1, 3), Path(folder.name) / "linear.onnx", opset=20)
        >>> result.exporter, result.opset, result.fallback_reason
        ('dynamo', 20, None)
        >>> folder.cleanup()
    """
    onnx, _ = require("onnx"), require("onnxscript")
    path, model = Path(path), inside(model)
    newest = int(onnx.defs.onnx_opset_version())
    if opset is not None and opset not in range(MIN_OPSET, newest + 1):
        raise ConfigError(
            f"opset must lie in {MIN_OPSET}..{newest}, a whole number (the installed onnx knows no later one); "
            f"got {opset}"
        )
    require_folder(path)
    about = as_strings(metadata)
    with evaluating(model), torch.no_grad():
        example, larger = _example_batches(model, example_inputs)
        found = _translate_half(model, example, larger, opset) or _translate(model, example, larger, opset)
    proto, exporter, reason = found
    for part in (proto.graph, *proto.functions):
        _remove_notes(part)
    onnx.helper.set_model_props(proto, about)
    size = write_checked(proto, path)
    if reason is not None:
        warnings.warn(f"{path.name} was written by torch's older exporter: {reason}", SecateurWarning, stacklevel=2)
    version = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    return ExportResult(path, version, exporter, reason, size)


def _example_batches(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> tuple[Passed, Passed]:
    """Return an example of at least two inputs, and one of one more, after proof that N inputs give N rows for both."""
    inputs = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or inputs[0].ndim < 2 or len(inputs[0]) < 1:
        raise NetworkError("a network is exported with one example batch (N, ...) of at least one input")
    example = placed(inputs[0], model)
    if len(example) == 1:  # exporters take a dimension of 1 for a constant
        example = torch.cat([example, example])
    passed = []
    for batch in (example, torch.cat([example, example[:1]])):
        try:
            outputs = model(own_copy(model, batch))
        except Exception as error:  # whatever the user's forward raises
            raise NetworkError(f"the network fails on a batch of shape {tuple(batch.shape)}: {error}") from error
        if not isinstance(outputs, Tensor) or outputs.ndim < 1 or len(outputs) != len(batch):
            if isinstance(outputs, Tensor):
                found = f"one of shape {tuple(outputs.shape)}"
            else:
                found = f"{type(outputs).__name__}: put a module around it that gives the tensor that you want"
            raise NetworkError(f"the network must give one tensor of {len(batch)} rows for {len(batch)} inputs; "
                               f"it gives {found}")  # fmt: skip
        passed.append(Passed(batch, outputs))
    return passed[0], passed[1]


def _translate_half(model: nn.Module, example: Passed, larger: Passed, opset: int | None) -> Translation | None:
    """Return as `_translate` does, for a network in float16 made by way of float32; None where that way is barred."""
    if not all_half(model, *example):
        return None
    try:
        first, second = (Passed(passed.inputs.float(), passed.outputs) for passed in (example, larger))
        proto, exporter, reason = _translate(in_float32(model), first, second, opset)
        with quiet():
            proto = rounded_to_half(proto)
            require("onnx").checker.check_model(proto, full_check=True)
    except FixedBatchError:
        raise
    except Exception:  # it cannot be copied, names number formats itself, or holds what the converter cannot round
        return None
    return proto, exporter, reason


def _translate(model: nn.Module, example: Passed, larger: Passed, opset: int | None) -> Translation:
    """Return the model in ONNX's own form, who made it, and why the current exporter did not."""
    reasons: list[str] = []
    failure: Exception | None = None
    fixed = False
    with quiet():
        for exporter, translate in EXPORTERS:
            try:
                proto = translate(model, example.inputs, opset)
            except Exception as error:  # the exporters pass on whatever their many parts raise
                failure = error
                reasons.append(_first_line(error))
                continue
            if not fixes_batch(proto, example, larger, values=fixed):
                return proto, exporter, reasons[0] if reasons else None
            fixed = True
            reasons.append(f"it fixes the batch size at {len(example.inputs)}")
    if fixed:
        raise FixedBatchError(len(example.inputs))
    raise NetworkError(
        f"the network cannot be exported to ONNX; the current exporter: {reasons[0]}; the older one: {reasons[1]}"
    ) from failure


def _translate_with_dynamo(model: nn.Module, example: Tensor, opset: int | None) -> Any:
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=opset,
    )
    if program is None:
        raise NetworkError("it returned nothing")
    proto = program.model_proto
    found = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if opset is not None and found != opset:
        raise NetworkError(f"it offers opset {found} instead of {opset}")
    return proto


def _translate_with_torchscript(model: nn.Module, example: Tensor, opset: int | None) -> Any:
    if opset is not None and opset > NEWEST_TRACED:
        raise NetworkError(f"it knows no opset above {NEWEST_TRACED}; opset {opset} was asked for")
    buffer: Any = io.BytesIO()  # accepted, though the annotation names paths alone
    torch.onnx.export(
        model,
        (example,),
        buffer,
        dynamo=False,
        verbose=False,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
        opset_version=opset,
    )
    return require("onnx").load_from_string(buffer.getvalue())


EXPORTERS: tuple[tuple[Exporter, Callable[[nn.Module, Tensor, int | None], Any]], ...] = (
    ("dynamo", _translate_with_dynamo),
    ("torchscript", _translate_with_torchscript),
)


def _remove_notes(part: Any) -> None:
    """Take the exporters' notes out of a graph or function, and out of the branches and loops in it."""
    for node in part.node:
        del node.metadata_props[:]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _remove_notes(inner)


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or ['no reason given'])[0]}"


def require_folder(path: Path) -> None:
    """Refuse a file whose folder is not there. Raises ConfigError."""
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} to write {path.name} into")


def write_checked(proto: Any, path: Path) -> int:
    """Write a model that passes the checks of onnx as `write_model` does. Raises NetworkError where it does not."""
    onnx = require("onnx")
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NetworkError(f"the exported file does not pass the checks of onnx: {error}") from error
    except ValueError as error:
        raise NetworkError(f"the network is larger than a single ONNX file can be, 2 GiB: {error}") from error
    return write_model(proto.SerializeToString(), path)


def write_model(data: bytes, path: Path) -> int:
    """Write a file under another name and rename it; return its size. Raises CheckpointError."""
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(f"cannot write {path} ({error}); a file that lay there before is untouched") from error
    return len(data)
