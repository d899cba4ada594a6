"""An ONNX Runtime session from plain settings, and the memory that a process takes for it. Imports no torch.

`secateur_onnx.sessions` opens its sessions here. `secateur_onnx.memory` runs this file by itself, in a process that
holds nothing else, so that what is measured is a session and not what else its process has imported.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from pathlib import Path
from typing import Any

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"
NO_INTEGERS = "session.disable_quant_qdq"  # then weights in codes are constants like others, and are computed once
WIDE_SUMS = "session.x64quantprecision"  # then weights of 8 bits become unsigned, and their kernels have room for sums
RUNS = 2


def open_session(
    path: str | bytes,
    *,
    provider: str,
    threads: int,
    tf32: bool,
    profile: str | Path | None = None,
    unpack: bool = False,
    wide: bool = False,
    optimized: str | Path | None = None,
    trial: bool = False,
    strict: bool = True,
) -> Any:
    """Return an onnxruntime session without any fallback to another provider; what onnxruntime raises comes through.

    The settings are those that `secateur_onnx.create_session` describes, and

    Args:
        path: the name of a file, or what it holds.
        wide: whether sums of 8-bit products get more room than the quickest kernels give them, which may be half as
            fast. Where onnxruntime fails to (on a file whose weight two nodes read, in 1.32), codes become floats.
        trial: whether the session only tries a network: its graph stays as it is, and nothing is logged.
        strict: whether a node that a device leaves to the CPU is an error, be it arithmetic of shapes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Errors, since onnxruntime says there, and only there, which library did not load; or fatal ones alone.
    options.log_severity_level = 4 if trial else 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if trial:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if unpack:
        options.add_session_config_entry(NO_INTEGERS, "1")
    if wide:
        options.add_session_config_entry(WIDE_SUMS, "1")
        options.log_severity_level = 4  # where this fails, codes become floats
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    wanted, cuda = PROVIDERS[provider], (PROVIDERS["cuda"], {"use_tf32": str(int(tf32))})
    lists: dict[str, list[Any]] = {"cpu": [wanted], "cuda": [cuda], "tensorrt": [wanted, cuda]}
    if provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", str(int(strict)))
        if hasattr(onnxruntime, "preload_dlls"):
            with contextlib.redirect_stdout(sys.stderr):  # where it says which library did not load
                onnxruntime.preload_dlls()
    opened = functools.partial(
        onnxruntime.InferenceSession, path, options, providers=lists[provider], enable_fallback=0
    )
    try:
        session = opened()
    except Exception:  # onnxruntime's errors have no common class of their own
        if not wide:
            raise
        options.add_session_config_entry(NO_INTEGERS, "1")
        options.log_severity_level = 3
        session = opened()
    session.disable_fallback()
    return session


def measured_peak(
    path: str, *, provider: str, threads: int, shape: list[int], dtype: str, wide: bool = False
) -> int | None:
    """Return the bytes that opening a session and running batches of `shape` take at most, beyond the packages.

    On the CPU: the largest resident memory of this process (Linux: VmHWM) less what was resident once onnxruntime
    was imported. On a device: what of its memory is taken after the runs, less what was taken before the session;
    onnxruntime keeps what it has once asked for, so the last level is the highest. None where the system cannot say.
    Whether the file may run there is not asked again: shapes may be computed on the CPU, as `create_session` allows.
    """
    import numpy as np
    import onnxruntime  # noqa: F401  # resident before the level is taken

    inputs = np.zeros(shape, dtype)
    inputs += np.random.default_rng(0).standard_normal(shape[1:])  # written to, so that it is resident as well
    on_cpu = provider == "cpu"
    before = resident("VmRSS") if on_cpu and forget_peak() else None if on_cpu else _taken_of_device()
    if before is None:
        return None
    session = open_session(path, provider=provider, threads=threads, tf32=True, wide=wide, strict=False)
    if PROVIDERS[provider] != session.get_providers()[0]:
        raise RuntimeError(f"the provider {provider!r} did not load there")
    name = session.get_inputs()[0].name
    for _ in range(RUNS):
        session.run(None, {name: inputs})
    after = resident("VmHWM") if on_cpu else _taken_of_device()
    return None if after is None else max(0, after - before)


def forget_peak() -> bool:
    """Let VmHWM begin anew at what is resident now; False where there is no such thing (other systems than Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident(field: str) -> int | None:
    """Return a level of this process's memory in bytes, as Linux names it: VmRSS (now), VmHWM (the highest)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return None


def _taken_of_device() -> int | None:
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()  # makes torch's context first, which then is not counted
    return int(total - free)


if __name__ == "__main__":
    try:
        answer: dict[str, Any] = {"bytes": measured_peak(**json.loads(sys.argv[1]))}
    except Exception as error:  # onnxruntime's errors have no common class of their own
        answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    print(json.dumps(answer))
