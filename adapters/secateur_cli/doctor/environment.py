"""What there is around secateur, read as data: Python, packages, which can be imported, what NNI would start."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from secateur.installed import Packages
from secateur_cli.failures import described
from secateur_nni.proxies import is_proxied

TRIED = ("torchvision", "numba", "matplotlib")  # their machine code goes with one torch, or with some numpy alone


@dataclass(frozen=True)
class Environment:
    """All that the checks of the installation look at, but for ONNX.

    Attributes:
        python: the version of Python.
        packages: what is installed, by name.
        torch_cuda: the version of CUDA that torch is built for; None for a build without.
        devices: how many CUDA devices torch can use.
        failures: package -> why it cannot be imported; only those that were tried and failed.
        node: what NNI's Node.js said of its version, or what went wrong with it; None where NNI is not installed.
        node_runs: whether it said so.
        proxied: whether requests to this machine itself would go to a proxy.
    """

    python: str
    packages: Packages
    torch_cuda: str | None = None
    devices: int = 0
    failures: Mapping[str, str] = field(default_factory=dict)
    node: str | None = None
    node_runs: bool = False
    proxied: bool = False


def read_environment(packages: Packages) -> Environment:
    """Look at the environment of this process.

    Args:
        packages: what `secateur.installed.installed_packages` returns.

    Cost: imports torchvision, numba and matplotlib, and starts NNI's Node.js for its version; a second or two.
    """
    node, node_runs = _node() if "nni" in packages else (None, False)
    return Environment(
        python=platform.python_version(),
        packages=packages,
        torch_cuda=torch.version.cuda,
        devices=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        failures=import_failures([name for name in TRIED if name in packages]),
        node=node,
        node_runs=node_runs,
        proxied=is_proxied(os.environ),
    )


def import_failures(modules: Sequence[str]) -> dict[str, str]:
    """Import modules and return those that fail, each with what it said.

    Example:
        >>> import_failures(["json", "secateur_nowhere"])
        {'secateur_nowhere': "ModuleNotFoundError: No module named 'secateur_nowhere'"}
    """
    failures = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # a package that does not fit raises anything: torchvision a RuntimeError
            failures[name] = described(error)
    return failures


def _node() -> tuple[str, bool]:
    """Return what the Node.js that comes with NNI says of its version, or what is wrong with it, and which of both."""
    found = importlib.util.find_spec("nni_node")
    if found is None or found.origin is None:
        return "the package nni_node is missing", False
    binary = Path(found.origin).with_name("node.exe" if platform.system() == "Windows" else "node")
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return described(error), False
    return done.stdout.strip(), True
