"""Where a measurement was taken: processor, device, load and versions, without which a time means nothing."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from secateur_onnx.packages import require

GRAPHICS_CARDS = Path("/proc/driver/nvidia/gpus")
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Machine:
    """The machine and its software.

    Attributes:
        cpu: the processor's name.
        cores: how many logical cores the system reports.
        load: processes that wanted to run, on average over the last minute, before the measurement; None if unknown.
        device: the CUDA device's name; None where none was used. Where torch sees none, as its builds for processors do
            not, the names of all graphics cards that the driver lists.
        system: operating system and architecture.
        onnxruntime, torch, python: versions.
    """

    cpu: str
    cores: int
    load: float | None
    device: str | None
    system: str
    onnxruntime: str
    torch: str
    python: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def describe_machine(*, provider: str = "cpu") -> Machine:
    """Return this machine as it is now; the device only where `provider` uses one.

    Raises:
        MissingDependencyError: onnxruntime is missing or installed twice.

    Example:
        >>> machine = describe_machine()
        >>> machine.cores >= 1, machine.device
        (True, None)
    """
    return Machine(
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        device=None if provider == "cpu" else _device_name(),
        system=f"{platform.system()} {platform.machine()}",
        onnxruntime=str(require("onnxruntime").__version__),
        torch=str(torch.__version__),
        python=platform.python_version(),
    )


def memory_bytes(*, provider: str = "cpu") -> int | None:
    """Return how much memory there is for a provider, in use or not: the machine's, or what a container may take.

    For a provider of a device it is the device's. None where the system does not say, as on Windows.

    Example:
        >>> room = memory_bytes()
        >>> room is None or room > 2**24
        True
    """
    if provider != "cpu":
        return int(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else None
    try:
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    for limit in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # "max" where there is none
            room = min(room, int(limit.read_text(encoding="utf-8")))
    return room


def cpu_name() -> str:
    """Return the name of the processor, or of its kind where the system does not tell more."""
    return _field("model name", Path("/proc/cpuinfo")) or platform.processor() or platform.machine()


def _device_name() -> str | None:
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    names = {_field("Model", described) for described in GRAPHICS_CARDS.glob("*/information")}
    return ", ".join(sorted(name for name in names if name)) or None


def _field(name: str, described: Path) -> str | None:
    """Return what follows the first `name:` in a file of the system's; None where that says nothing."""
    with suppress(OSError, ValueError):
        for line in described.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None
