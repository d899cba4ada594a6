"""How much memory a file needs to run: the peak of a process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

from secateur.errors import SecateurWarning
from secateur_onnx import raw_session
from secateur_onnx.overflow import sums_overflow
from secateur_onnx.sessions import InputSpec

PATIENCE = 600.0


def peak_memory(
    path: str | Path, spec: InputSpec, shape: tuple[int, ...], *, provider: str = "cpu", threads: int = 1
) -> int | None:
    """Return the bytes that a fresh process takes at most to load the file and run two batches.

    Counted is what comes on top of the interpreter and the imported onnxruntime: the file being read, weights in the
    layout that onnxruntime prefers, all that lies between the layers, and some 10 MB that onnxruntime needs for any
    session. The batch that is put in is not counted. On the CPU it is resident memory, on a device the device's (what
    another process allocates there meanwhile is counted too). A session in this process would not do: memory that
    earlier sessions gave back to the allocator, not to the system, would be taken again and not be seen.

    Args:
        path: an ONNX file that a session was created for.
        spec: its input.
        shape: of the batch, (N, C, H, W).
        provider, threads: see `create_session`.

    Returns:
        Bytes; None, with a SecateurWarning, where the process failed or the system cannot say (only Linux can on the
        CPU).

    Cost: the start of a process, half a second, and two runs.

    Example:
        >>> import tempfile, torch
        >>> from secateur_onnx import create_session, export
        >>> from secateur_onnx.sessions import input_spec
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = export(torch.nn.Linear(3, 2), torch.zeros(1, 3), Path(folder.name) / "linear.onnx").path
        >>> peak = peak_memory(path, input_spec(create_session(path)), (4, 3))
        >>> peak is None or 0 < peak < 50e6
        True
        >>> folder.cleanup()
    """
    settings = {
        "path": str(path),
        "provider": provider,
        "threads": threads,
        "shape": shape,
        "dtype": spec.dtype.name,
        "wide": provider == "cpu" and sums_overflow(),
    }
    command = [sys.executable, "-P", raw_session.__file__, json.dumps(settings)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:  # killed, for want of memory perhaps
        answer = {"error": f"the process that measures it failed: {type(error).__name__}"}
        if isinstance(error, subprocess.CalledProcessError):
            answer = {"error": f"the process that measures it ended with exit status {error.returncode}"}
    found: int | None = answer.get("bytes")
    if found is None:
        reason = answer.get("error", "this system does not say what a process or a device holds")
        warnings.warn(
            f"the peak memory of {path} at batch {shape[0]} is unknown: {reason}", SecateurWarning, stacklevel=2
        )
    return found
