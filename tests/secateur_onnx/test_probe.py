"""What is read of an installation: libraries of a shared object, owners of the folder, and a runtime that is tried."""

from __future__ import annotations

import ctypes
import importlib.metadata
import struct
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from secateur.errors import ConfigError, MissingDependencyError
from secateur.installed import Package
from secateur_onnx import probe
from secateur_onnx.installation import Runtime, folder_owners, probe_runtime, read_answer, read_installation
from secateur_onnx.overflow import sums_overflow
from secateur_onnx.probe import cuda_devices, main, unloadable
from secateur_onnx.sessions import create_session
from secateur_onnx.shared_objects import needed_libraries
from secateur_onnx.trial import check_installation, trial


def shared_object(*names: str, base: int = 0x4000) -> bytes:
    """Return the smallest ELF file that needs `names`: a header, two segments, its strings, its dynamic entries."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    begin = 64 + 2 * 56
    dynamic = begin + len(strings)
    offsets = [strings.index(b"\0" + name.encode() + b"\0") + 1 for name in names]
    entries = [(1, offset) for offset in offsets] + [(5, base + begin), (0, 0)]
    table = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    size = dynamic + len(table)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, base, base, size, size, 4096)
    described = struct.pack("<IIQQQQQQ", 2, 4, dynamic, base + dynamic, base + dynamic, len(table), len(table), 8)
    return header + load + described + strings + table


@pytest.mark.parametrize("names", [(), ("libc.so.6",), ("libcurand.so.10", "libcudart.so.13", "libc.so.6")])
def test_needed_libraries_of_a_file_made_by_hand(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(shared_object(*names))
    assert needed_libraries(path) == names


def test_files_that_are_no_shared_objects_or_damaged(tmp_path: Path) -> None:
    whole = shared_object("libcurand.so.10", "libc.so.6")
    path = tmp_path / "lib.so"
    for length in (0, 3, 6, 40, 100, 150, len(whole) - 40):
        path.write_bytes(whole[:length])
        assert set(needed_libraries(path)) <= {"libcurand.so.10", "libc.so.6"}
    path.write_bytes(b"MZ" + bytes(200))
    assert needed_libraries(path) == ()
    with pytest.raises(FileNotFoundError):
        needed_libraries(tmp_path / "none.so")


@pytest.mark.skipif(sys.platform != "linux", reason="the libraries of other systems are no ELF files")
def test_needed_libraries_of_onnxruntime_itself() -> None:
    (binding,) = Path(onnxruntime.__file__).parent.glob("capi/onnxruntime_pybind11_state*.so")
    needed = needed_libraries(binding)
    assert "libc.so.6" in needed
    assert all(".so" in name for name in needed)
    assert unloadable(needed) == {}


def test_libraries_that_do_not_load_come_with_the_loaders_words() -> None:
    def load(name: str) -> None:
        if name == "libcurand.so.10":
            raise OSError("libcurand.so.10: cannot open shared object file")

    found = unloadable(["libcudart.so.13", "libcurand.so.10"], load)
    assert found == {"libcurand.so.10": "libcurand.so.10: cannot open shared object file"}


class Driver:
    """NVIDIA's driver as far as it is asked."""

    def __init__(self, devices: int, *, code: int = 0) -> None:
        self.devices, self.code = devices, code

    def cuInit(self, _flags: int) -> int:  # noqa: N802 - the driver's own name
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802 - the driver's own name
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self.devices
        return 0


def test_devices_are_those_that_the_driver_counts() -> None:
    def no_driver(name: str) -> None:
        raise OSError(name)

    assert cuda_devices(lambda _: Driver(3)) == 3
    assert cuda_devices(lambda _: Driver(3, code=100)) == 0
    assert cuda_devices(no_driver) == 0


def test_a_trial_runs_or_says_why_not() -> None:
    assert trial("cpu") == ""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert "is not part of the installed onnxruntime" in trial("cuda")


def test_a_trial_that_computes_something_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def __init__(self, path: str, **_: Any) -> None:
            self.session = create_session(path)

        def get_inputs(self) -> Any:
            return self.session.get_inputs()

        def run(self, names: Any, inputs: Any) -> Any:
            return [2 * output for output in self.session.run(names, inputs)]

    monkeypatch.setattr("secateur_onnx.trial.create_session", Wrong)
    assert trial("cpu") == "a sum of nine ones came out as 18.0"


def distribution(folder: Path, name: str, files: tuple[str, ...] | None) -> None:
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    if files is not None:
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_the_folder_has_the_owners_that_list_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    distribution(tmp_path, "onnxruntime-gpu", ("onnxruntime/__init__.py", "onnxruntime/capi/x.so"))
    distribution(tmp_path, "onnxruntime-directml", ("onnxruntime/__init__.py",))
    distribution(tmp_path, "onnxruntime-extensions", ("onnxruntime_extensions/__init__.py",))
    distribution(tmp_path, "onnxruntime", None)
    distribution(tmp_path, "another", ("onnxruntime/__init__.py",))
    found = list(importlib.metadata.distributions(path=[str(tmp_path)]))
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
    assert folder_owners() == ("onnxruntime", "onnxruntime-directml", "onnxruntime-gpu")


@pytest.mark.parametrize("record", ["a,b,c,d\n", "a.py,sha256=1,many\n", "\xe9.py,,\n"])
def test_a_list_of_files_that_cannot_be_read_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str
) -> None:
    for name in ("onnxruntime", "onnxruntime-directml"):
        distribution(tmp_path, name, ())
        path = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info" / "RECORD"
        path.write_text(record, encoding="latin-1")
    found = list(importlib.metadata.distributions(path=[str(tmp_path)]))
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
    assert folder_owners() == ("onnxruntime",)


def test_the_last_words_of_a_runtime_that_cannot_be_tried() -> None:
    stderr = 'Traceback (most recent call last):\n  File "probe.py"\nImportError: libz.so.1: cannot open\n\n'
    assert read_answer("", stderr, 1).failure == "ImportError: libz.so.1: cannot open"
    assert read_answer("", "warning", -11).failure == "it was ended by signal 11"
    assert read_answer("", "", 3).failure == "it ended with code 3"


def test_an_answer_among_what_libraries_say_while_they_are_unloaded() -> None:
    assert read_answer('loading\n{"version": "1.31.1", "providers": ["cpu"]}\nunloading\n', "", 0).version == "1.31.1"
    assert read_answer("unloading\n", "", 0).failure == "it ended with code 0"


def test_a_runtime_that_does_not_answer() -> None:
    assert probe_runtime(patience=0.01).failure == "it did not answer within 0.01 seconds"


def test_the_installed_runtime_shows_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    runtime = read_answer(capsys.readouterr().out, "", 0)
    assert (runtime.failure, runtime.version) == ("", onnxruntime.__version__)
    assert "cpu" in runtime.providers
    assert runtime.trials["cpu"] == ""
    assert runtime.sums_overflow == sums_overflow()


@pytest.mark.parametrize(("devices", "tried"), [(0, ["cpu"]), (1, ["cpu", "cuda"])])
def test_cuda_is_tried_where_there_is_a_device(devices: int, tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(probe, "_missing", lambda *_: {})
    monkeypatch.setattr(probe, "cuda_devices", lambda: devices)
    monkeypatch.setattr(probe, "trial", lambda short: f"tried {short}")
    found = probe.probe()
    assert sorted(found["providers"]) == ["cpu", "cuda"]
    assert found["trials"] == {short: f"tried {short}" for short in tried}
    assert not found["sums_overflow"]  # not looked at where the CPU failed


def test_an_onnx_that_fails_is_not_blamed_on_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was made for another protobuf."""
    (tmp_path / "onnx.py").write_text("raise TypeError('Descriptors cannot be created directly.')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnx", raising=False)
    found = probe.probe()
    assert (found["version"], found["trials"]) == (onnxruntime.__version__, {})
    monkeypatch.setattr("secateur_onnx.installation.probe_runtime", Runtime)
    package = {name: Package(name, "1.0") for name in ("onnx", "another")}
    assert read_installation(package).failures == {"onnx": "TypeError: Descriptors cannot be created directly."}
    with pytest.raises(MissingDependencyError, match=r"'onnx' cannot be imported \(Descr.*`secateur doctor` names"):
        check_installation()


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_load_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a build offers says nothing about the machine: the run would be refused after all of its training."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    with pytest.raises(ConfigError, match=r"'cuda' does not run a convolution here: .*`secateur doctor` names"):
        check_installation(provider="cuda")
