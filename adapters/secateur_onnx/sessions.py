"""ONNX Runtime sessions on the hardware that was asked for, or an error: never a silent run on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from secateur.errors import CheckpointError, ConfigError, DataError
from secateur_onnx.overflow import sums_overflow
from secateur_onnx.packages import ON_A_GPU, require
from secateur_onnx.raw_session import PROVIDERS, RECORD_ASSIGNMENT, open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MOST_THREADS = 1024  # with far more of them onnxruntime does not come back
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
SHAPE_OPERATORS = {
    "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Gather", "Max", "Min", "Mod", "Mul", "Pow", "Range",
    "ReduceProd", "Reshape", "Shape", "Size", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
"""What sizes are computed with. CUDA has kernels for all of these, and leaves to the CPU what comes of a `Shape`."""
NO_TENSORRT = "Please install TensorRT libraries"  # said before a session is made, whatever the file
FILE_FAULTS = ("InvalidProtobuf", "InvalidGraph", "NoModel", "NoSuchFile")  # onnxruntime's own names


def create_session(
    path: str | Path,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    tf32: bool = True,
    profile: Path | None = None,
    unpack: bool = False,
    optimized: Path | None = None,
) -> InferenceSession:
    """Return a session for the file that runs every node on the provider asked for.

    For a device the CPU is left out of the provider list, falling back to it is disabled twice (in onnxruntime and in
    its Python layer), and the first provider of the finished session is compared with the one asked for. Which node
    runs where is recorded: see `provider_assignment`. Where a file computes shapes as it runs, and nothing else would
    be left to the CPU, these nodes may stay there.

    On processors on which sums of 8-bit products overflow (x86-64 without VNNI) the session gives them more room, so
    that a file computes what it says; a session made elsewhere needs the entry `session.x64quantprecision` = 1 there.

    Args:
        path: an ONNX file.
        provider: "cpu", "cuda" or "tensorrt" (which hands what it cannot run to CUDA).
        threads: threads within an operator; as many as torch uses by default. One operator at a time; waiting threads
            sleep instead of spinning, so that two sessions in a process do not disturb each other.
        tf32: whether CUDA may round float32 to TensorFloat-32, as it does by default: right for speed, wrong for a
            comparison. TensorRT heeds only the environment variable NVIDIA_TF32_OVERRIDE=0.
        profile: how the name of the file begins that tells the time of every node, once `end_profiling` is called.
        unpack: whether weights in codes become floats once, as the file is loaded, and not at every run; integer
            kernels are then out of the question. Right for what `export_quantized` writes, wrong for static INT8.
        optimized: a file to write the graph to as it will run.

    Raises:
        ConfigError: the provider is misspelt, not part of the installed onnxruntime, cannot be loaded or cannot run
            every node; or `threads` is out of range.
        CheckpointError: the file is missing, truncated, no ONNX file, or (on the CPU) holds an operator without an
            implementation.
        MissingDependencyError: onnx or onnxruntime is missing, or onnxruntime is installed twice.

    Example:
        >>> create_session("model.onnx", provider="cudo")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        secateur.errors.ConfigError: unknown provider 'cudo'; allowed: cpu, cuda, tensorrt; available here: cpu...
    """
    onnxruntime = require("onnxruntime")
    wanted = provider_name(provider, onnxruntime.get_available_providers())
    threads = torch.get_num_threads() if threads is None else threads
    if threads not in range(1, MOST_THREADS + 1):
        raise ConfigError(f"threads must be at least 1 and at most {MOST_THREADS}, a whole number; found {threads}")
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no ONNX file {path}")
    opened = partial(
        open_session,
        str(path),
        provider=provider,
        threads=threads,
        tf32=tf32,
        profile=profile,
        unpack=unpack,
        wide=provider == "cpu" and not unpack and sums_overflow(),
        optimized=optimized,
    )
    try:
        session: InferenceSession = opened()
    except Exception as error:  # onnxruntime's errors have no common class of their own
        name = type(error).__name__
        if provider == "cpu" or name in FILE_FAULTS:
            fault = "is truncated, foreign, or holds what onnxruntime cannot run"
            if name == "NotImplemented":
                fault = "holds an operator that onnxruntime lacks for its numbers; export the network in float32"
            raise CheckpointError(f"{path} {fault}: {error}") from error
        session = _but_for_shapes(opened, error, provider=provider, path=path)
    if session.get_providers()[0] != wanted:
        raise ConfigError(f"asked for {wanted}, but onnxruntime runs {path} on {session.get_providers()[0]}")
    ran = provider_assignment(session)
    if ran and wanted not in ran:
        raise ConfigError(f"{wanted} takes no node of {path}: all of it would run on {', '.join(ran)}")
    return session


def _but_for_shapes(
    opened: Callable[..., InferenceSession], error: Exception, *, provider: str, path: Path
) -> InferenceSession:
    """Return a session that leaves arithmetic of shapes alone to the CPU; else say why the device cannot run a file.

    CUDA leaves there, on purpose, what comes of a `Shape` and becomes one: whole numbers that the host needs to know.
    """
    refused = f"the provider {provider!r} cannot run all of {path}"
    try:
        session = opened(strict=False)
    except Exception as again:  # as above
        if NO_TENSORRT in str(again):
            raise ConfigError(
                f"the provider {provider!r} did not load: it takes TensorRT, which onnxruntime does not bring, in a "
                f"folder of LD_LIBRARY_PATH; `secateur doctor` names the library that it looks for ({again})"
            ) from again
        raise ConfigError(f"{refused}: {error}") from error
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise ConfigError(
            f"the provider {provider!r} did not load, and {path} would run on {session.get_providers()[0]}; "
            f"`secateur doctor` names what it misses ({error})"
        ) from error
    left = provider_assignment(session).get(PROVIDERS["cpu"], {})
    if foreign := sorted(left.keys() - SHAPE_OPERATORS):
        raise ConfigError(f"{refused}: {', '.join(foreign)} would run on the CPU ({error})") from error
    if not left:
        raise ConfigError(f"{refused}: {error}") from error
    return session


def provider_assignment(session: InferenceSession) -> dict[str, dict[str, int]]:
    """Return provider -> operator -> how many nodes of it run there, as the session itself recorded it.

    Empty where onnxruntime cannot say: versions before 1.24, and sessions that `create_session` did not make.

    Example:
        >>> import tempfile
        >>> from secateur_onnx import export
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = export(torch.nn.Linear(3, 2), torch.zeros(1, 3), Path(folder.name) / "linear.onnx").path
        >>> provider_assignment(create_session(path))
        {'CPUExecutionProvider': {'Gemm': 1}}
        >>> folder.cleanup()
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    try:
        recorded = session.get_session_options().get_session_config_entry(RECORD_ASSIGNMENT)
    except RuntimeError:  # the session was created without the entry
        recorded = "0"
    if recorded != "1":
        return {}
    nodes: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return {name: dict(sorted(operators.items())) for name, operators in sorted(nodes.items())}


@dataclass(frozen=True)
class InputSpec:
    """What a file asks for: the name of its input, its shape (None: any size) and its number format."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def require(self, shape: tuple[int, ...]) -> None:
        """Raise DataError unless an array of `shape` can be put in."""
        fits = len(shape) == len(self.shape) and all(
            asked in (None, given) for asked, given in zip(self.shape, shape, strict=True)
        )
        if not fits:
            allowed = ", ".join("any" if size is None else str(size) for size in self.shape)
            raise DataError(f"the ONNX file was exported for inputs of shape ({allowed}); found {shape}")


def input_spec(session: InferenceSession) -> InputSpec:
    """Return what the only input of the session asks for. Raises DataError for several inputs or no floats."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in DTYPES:
        found = ", ".join(f"{i.name}: {i.type}" for i in inputs)
        raise DataError(f"the ONNX file must have one input of floating numbers; found {found}")
    shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
    return InputSpec(inputs[0].name, shape, np.dtype(DTYPES[inputs[0].type]))


def infer(session: InferenceSession, inputs: NDArray[Any]) -> NDArray[Any]:
    """Return the first output for one batch (N, C, H, W), which is cast to the number format of the file.

    Raises:
        DataError: the batch does not have the shape the file was exported for, or onnxruntime fails on it.
    """
    spec = input_spec(session)
    spec.require(inputs.shape)
    try:
        outputs = session.run(None, {spec.name: np.ascontiguousarray(inputs, dtype=spec.dtype)})
    except Exception as error:  # as above
        raise DataError(f"onnxruntime fails on a batch of shape {inputs.shape}: {error}") from error
    return np.asarray(outputs[0])


def provider_name(provider: str, available: list[str]) -> str:
    """Return onnxruntime's name of a provider. Raises ConfigError where it is misspelt or not `available`."""
    here = ", ".join(short for short, name in PROVIDERS.items() if name in available)
    if provider not in PROVIDERS:
        raise ConfigError(f"unknown provider {provider!r}; allowed: {', '.join(PROVIDERS)}; available here: {here}")
    if PROVIDERS[provider] not in available:
        raise ConfigError(
            f"the provider {provider!r} is not part of the installed onnxruntime; available here: {here}; {ON_A_GPU}"
        )
    return PROVIDERS[provider]
