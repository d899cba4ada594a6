"""What the installed ONNX Runtime can do here: `python -m secateur_onnx.probe` tries it and prints JSON.

A process of its own, since a broken installation may crash on import, writes why a provider does not load to stderr
alone, and cannot be imported anew once it is mended.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from secateur_onnx.overflow import sums_overflow
from secateur_onnx.packages import import_failure
from secateur_onnx.raw_session import PROVIDERS
from secateur_onnx.shared_objects import needed_libraries
from secateur_onnx.trial import trial

DRIVER = "libcuda.so.1"
CUDNN = "libcudnn.so.9"  # from 1.27 on it is loaded when the first convolution asks for it, and in no list


def main() -> None:
    """Print as one line of JSON what `probe` returns; everything else that is said goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):  # preload_dlls prints what it misses
        found = probe()
    print(json.dumps(found))


def probe() -> dict[str, Any]:
    """Return what ONNX Runtime says of itself, the libraries that its providers miss, and who ran a tiny network."""
    runtime = importlib.import_module("onnxruntime")  # as it is, even where `require` refuses it
    providers = list(runtime.get_available_providers())
    offered = [short for short, name in PROVIDERS.items() if name in providers]
    if hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()
    folder = Path(str(runtime.__file__)).parent / "capi"
    missing = {short: _missing(folder, short) for short in offered}
    tried = [] if import_failure("onnx") else [name for name in offered if name == "cpu" or cuda_devices()]
    trials = {short: trial(short) for short in tried if not missing[short]}
    return {
        "package": str(getattr(runtime, "package_name", "")),
        "version": str(runtime.__version__),
        "cuda": str(getattr(runtime, "cuda_version", "") or ""),
        "providers": offered,
        "missing": missing,
        "trials": trials,
        "sums_overflow": trials.get("cpu") == "" and sums_overflow(),
    }


def unloadable(names: Iterable[str], load: Callable[[str], Any] = ctypes.CDLL) -> dict[str, str]:
    """Return the libraries that cannot be loaded, each with the loader's words.

    Example:
        >>> list(unloadable(["libnowhere.so.7"]))
        ['libnowhere.so.7']
    """
    found = {}
    for name in names:
        try:
            load(name)
        except OSError as error:
            found[name] = str(error)
    return found


def cuda_devices(load: Callable[[str], Any] = ctypes.CDLL) -> int:
    """Return how many CUDA devices the NVIDIA driver offers, whatever torch was built for; 0 without a driver."""
    try:
        driver = load("nvcuda.dll" if sys.platform == "win32" else DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _missing(folder: Path, provider: str) -> dict[str, str]:
    """Return the libraries that a provider of the build needs and that cannot be loaded."""
    path = folder / f"libonnxruntime_providers_{provider}.so"
    if not path.is_file():  # part of the main library, or not on Linux
        return {}
    names = [*needed_libraries(path), *([CUDNN] if provider == "cuda" else [])]
    return unloadable(name for name in dict.fromkeys(names) if not (folder / name).exists())


if __name__ == "__main__":
    main()
