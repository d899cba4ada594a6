"""The optional packages of this adapter: imported when first needed, refused with the command that mends it."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

from secateur.errors import MissingDependencyError

INSTALL = 'pip install "secateur[onnx]" (or, for an NVIDIA device, pip install "secateur[onnx-gpu]")'
ON_A_GPU = 'for an NVIDIA device: pip uninstall -y onnxruntime, then pip install "secateur[onnx-gpu]"'
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def require(name: str) -> ModuleType:
    """Return the module `name` (onnx, onnxscript, onnxruntime).

    Raises:
        MissingDependencyError: it cannot be imported, or both builds of onnxruntime are installed. They write into one
            folder, so that the build installed last decides, without a word, whether a device can be used at all.

    Example:
        >>> require("onnx").__name__
        'onnx'
    """
    if name == "onnxruntime":
        _refuse_two_runtimes()
    try:
        module = importlib.import_module(name)
    except Exception as error:  # one that does not fit another raises anything: onnx a TypeError of protobuf's
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        mend = INSTALL if absent else "`secateur doctor` names what does not fit"
        raise MissingDependencyError(f"the package {name!r} cannot be imported ({error}); {mend}") from error
    if name == "onnxruntime" and not hasattr(module, "InferenceSession"):
        raise MissingDependencyError(
            f"only remains of onnxruntime are installed; first pip uninstall -y {' '.join(RUNTIMES)}, then {INSTALL}"
        )
    return module


def import_failure(name: str) -> str:
    """Return what a package says that cannot be imported; "" where it can.

    Example:
        >>> import_failure("json"), import_failure("secateur_nowhere")
        ('', "ModuleNotFoundError: No module named 'secateur_nowhere'")
    """
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def _refuse_two_runtimes() -> None:
    found = []
    for distribution in RUNTIMES:
        try:
            found.append(f"{distribution} {importlib.metadata.version(distribution)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if len(found) > 1:
        raise MissingDependencyError(
            f"{' and '.join(found)} are both installed and overwrite each other; keep one of them: "
            f"first pip uninstall -y {' '.join(RUNTIMES)}, then {INSTALL}"
        )
