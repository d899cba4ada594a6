"""What there is of ONNX here, read as data: packages, who wrote into the shared folder, and what the runtime can do."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from secateur.installed import Packages, named_distributions
from secateur_onnx.packages import RUNTIMES, import_failure
from secateur_onnx.probe import cuda_devices

FOLDER = "onnxruntime"
EXPORTERS = ("onnx", "onnxscript")
PATIENCE = 300.0


@dataclass(frozen=True)
class Runtime:
    """What the installed ONNX Runtime showed in a process of its own.

    Attributes:
        package: the distribution whose files lie in the folder, by its own word, such as "onnxruntime-gpu".
        version: its version.
        cuda: the version of CUDA it is built for; "" for a build without.
        providers: those of its providers that secateur knows, by their short names: what the build offers.
        missing: provider -> library it needs and the loader does not find -> the loader's words.
        trials: provider -> "" if it ran a convolution, or what went wrong; only those that were tried, none without an
            onnx that can be imported.
        sums_overflow: whether its sums of 8-bit products overflow on this processor.
        failure: why it could not be imported; "" where it could.
    """

    package: str = ""
    version: str = ""
    cuda: str = ""
    providers: tuple[str, ...] = ()
    missing: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    trials: Mapping[str, str] = field(default_factory=dict)
    sums_overflow: bool = False
    failure: str = ""


@dataclass(frozen=True)
class OnnxInstallation:
    """All that the checks of this adapter look at.

    Attributes:
        packages: what is installed.
        owners: the distributions that install the folder `onnxruntime`, by name; more than one overwrite each other.
        torch_cuda: the version of CUDA that torch is built for; None for a build without.
        runtime: what the runtime showed; None where none is installed.
        failures: exporter -> why it cannot be imported; only those that are installed and fail.
        devices: how many CUDA devices the driver offers.
    """

    packages: Packages
    owners: tuple[str, ...]
    torch_cuda: str | None
    runtime: Runtime | None
    failures: Mapping[str, str] = field(default_factory=dict)
    devices: int = 0


def read_installation(packages: Packages) -> OnnxInstallation:
    """Look at the installation around this process.

    Args:
        packages: what `secateur.installed.installed_packages` returns.

    Cost: imports onnx and onnxscript, and starts a process that imports torch and onnxruntime; some seconds.
    """
    owners = folder_owners()
    runtime = probe_runtime() if owners or importlib.util.find_spec(FOLDER) is not None else None
    said = {name: import_failure(name) for name in EXPORTERS if name in packages}
    failures = {name: words for name, words in said.items() if words}
    return OnnxInstallation(packages, owners, torch.version.cuda, runtime, failures, cuda_devices())


def folder_owners() -> tuple[str, ...]:
    """Return the distributions whose list of files has `onnxruntime/__init__.py`, sorted by name.

    Not those that only begin alike, such as onnxruntime-extensions, which has a folder of its own. Where there is no
    list of files that can be read, onnxruntime and onnxruntime-gpu are taken at their names.
    """
    owners = set()
    for name, distribution in named_distributions():
        if not name.startswith((FOLDER, "ort-")):  # the lists of all packages would take seconds
            continue
        try:
            files = distribution.files
        except (ValueError, TypeError):  # a list that is damaged
            files = None
        if name in RUNTIMES if files is None else any(file.as_posix() == f"{FOLDER}/__init__.py" for file in files):
            owners.add(name)
    return tuple(sorted(owners))


def probe_runtime(*, patience: float = PATIENCE) -> Runtime:
    """Return what `secateur_onnx.probe` finds out in a process of its own, or why it could not.

    Args:
        patience: seconds to wait for it.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "secateur_onnx.probe"],  # -P: nothing in the working directory is imported
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # a loader's words hold paths, which may be anything
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Runtime(failure=f"it did not answer within {patience:g} seconds")
    return read_answer(done.stdout, done.stderr, done.returncode)


def read_answer(stdout: str, stderr: str, code: int) -> Runtime:
    """Return what the process said, or its last words where it ended otherwise.

    Example:
        >>> read_answer("", "ImportError: libz.so.1: cannot open shared object file", 1).failure
        'ImportError: libz.so.1: cannot open shared object file'
        >>> read_answer("", "", -11).failure
        'it was ended by signal 11'
    """
    answer = next((line for line in stdout.splitlines() if line.startswith("{")), None)
    if code == 0 and answer is not None:
        found: dict[str, Any] = json.loads(answer)
        return Runtime(**found | {"providers": tuple(found["providers"])})
    ended = f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"
    said = [line.strip() for line in stderr.splitlines() if line.strip()]
    return Runtime(failure=said[-1] if said and code > 0 else ended)
