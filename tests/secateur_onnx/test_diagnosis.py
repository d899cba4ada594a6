"""Every clash around ONNX Runtime is found in an installation that has it, with the command that mends it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from secateur.findings import Finding, worst
from secateur.installed import Package
from secateur_onnx.diagnosis import cuda_major, diagnose
from secateur_onnx.installation import OnnxInstallation, Runtime

ASKED = (
    "torch>=2.8",
    'onnx>=1.18; extra == "onnx"',
    'onnxscript>=0.5; extra == "onnx"',
    'onnxruntime>=1.24; extra == "onnx"',
)
VERSIONS = {"torch": "2.14.1", "onnx": "1.23.2", "onnxscript": "0.7.2", "protobuf": "6.31.1"}
PACKAGES = {name: Package(name, version) for name, version in VERSIONS.items()} | {
    "secateur": Package("secateur", "0.1.0", ASKED),
    "onnxruntime": Package("onnxruntime", "1.31.1", ("protobuf>=4",)),
}
CPU = OnnxInstallation(
    PACKAGES, ("onnxruntime",), None, Runtime("onnxruntime", "1.31.1", providers=("cpu",), trials={"cpu": ""})
)
NEEDS = ("cpu", "cuda", "tensorrt")
WITHOUT_TENSORRT = {"cpu": {}, "cuda": {}, "tensorrt": {"libnvinfer.so.10": "cannot open"}}
GPU = OnnxInstallation(
    {name: package for name, package in PACKAGES.items() if name != "onnxruntime"}
    | {"onnxruntime-gpu": Package("onnxruntime-gpu", "1.31.1")},
    ("onnxruntime-gpu",),
    "13.0",
    Runtime("onnxruntime-gpu", "1.31.1", "13.0", NEEDS, WITHOUT_TENSORRT, {"cpu": "", "cuda": ""}),
    devices=1,
)


def with_runtime(here: OnnxInstallation, **changes: object) -> OnnxInstallation:
    assert here.runtime is not None
    return replace(here, runtime=replace(here.runtime, **changes))


def with_package(here: OnnxInstallation, name: str, version: str) -> OnnxInstallation:
    return replace(here, packages={**here.packages, name: Package(name, version)})


def without(here: OnnxInstallation, name: str) -> OnnxInstallation:
    return replace(here, packages={n: package for n, package in here.packages.items() if n != name})


def old_gpu(torch_cuda: str | None, **changes: object) -> OnnxInstallation:
    here = with_runtime(GPU, version="1.26.0", cuda="12.8", **changes)
    return replace(with_package(here, "onnxruntime-gpu", "1.26.0"), torch_cuda=torch_cuda)


def of(here: OnnxInstallation, check: str) -> Finding:
    (finding,) = (finding for finding in diagnose(here) if finding.check == check)
    return finding


@pytest.mark.parametrize("here", [CPU, GPU], ids=["cpu", "gpu"])
def test_nothing_is_wrong_where_nothing_is(here: OnnxInstallation) -> None:
    findings = diagnose(here)
    assert worst(findings) == "fine", findings
    assert not any(finding.mend for finding in findings)
    assert of(here, "provider cpu").what == "ran a convolution"


def test_sums_that_overflow_are_told_of() -> None:
    assert not [finding for finding in diagnose(CPU) if finding.check == "8-bit products"]
    finding = of(with_runtime(CPU, sums_overflow=True), "8-bit products")
    assert finding.severity == "fine"  # in secateur's own sessions they do not
    assert finding.what.endswith("others need the session entry session.x64quantprecision = 1")


def test_the_device_is_told_of_as_it_was_seen() -> None:
    assert of(GPU, "provider cuda").what == "ran a convolution"
    assert of(GPU, "CUDA versions").what == "torch and ONNX Runtime are both built for 13"
    assert "libnvinfer.so.10" in of(GPU, "provider tensorrt").what
    assert not [finding for finding in diagnose(CPU) if "CUDA" in finding.check or finding.check == "provider cuda"]


@pytest.mark.parametrize(("name", "wanted"), [("onnx", "onnx>=1.18"), ("onnxscript", "onnxscript>=0.5")])
def test_an_exporter_that_is_missing_or_old(name: str, wanted: str) -> None:
    for here in (without(CPU, name), with_package(CPU, name, "0.1")):
        finding = of(here, name)
        assert (finding.severity, finding.mend) == ("error", (f'pip install "{wanted}"',))
    assert "0.1; secateur asks for" in of(with_package(CPU, name, "0.1"), name).what


def test_an_exporter_that_is_there_and_cannot_be_imported() -> None:
    said = "TypeError: Descriptors cannot be created directly."
    here = replace(with_runtime(GPU, trials={}), failures={"onnx": said})
    finding = of(here, "onnx")
    assert (finding.severity, finding.what) == ("error", f"1.23.2, which cannot be imported: {said}")
    assert finding.mend == ('pip install --upgrade --upgrade-strategy eager "onnx>=1.18"',)
    for provider in NEEDS:  # nothing is known of them
        finding = of(here, f"provider {provider}")
        assert (finding.severity, finding.what) == ("fine", "offered; not tried, since that takes onnx")


def test_what_a_package_asks_for_itself() -> None:
    finding = of(with_package(CPU, "protobuf", "3.20"), "ONNX Runtime")
    assert (finding.severity, finding.mend) == ("error", ('pip install "protobuf>=4"',))
    assert finding.what == "onnxruntime asks for protobuf>=4; 3.20 is installed"


def test_both_runtimes_with_the_one_that_won() -> None:
    here = replace(with_package(CPU, "onnxruntime-gpu", "1.30.0"), owners=("onnxruntime", "onnxruntime-gpu"))
    finding = of(here, "ONNX Runtime")
    assert finding.severity == "error"
    assert finding.what == (
        "onnxruntime 1.31.1 and onnxruntime-gpu 1.30.0 are both installed; the files are those of onnxruntime 1.31.1"
    )
    assert finding.mend == ("pip uninstall -y onnxruntime onnxruntime-gpu", 'pip install "onnxruntime>=1.24"')
    assert not [finding for finding in diagnose(here) if finding.check.startswith("provider")]


@pytest.mark.parametrize(
    ("torch_cuda", "devices", "installs"),
    [
        ("13.0", 0, "onnxruntime>=1.24"),
        ("13.0", 1, "onnxruntime-gpu[cuda,cudnn]>=1.28"),
        ("12.8", 1, "onnxruntime-gpu[cuda,cudnn]>=1.24,<1.27"),
        (None, 1, "onnxruntime-gpu[cuda,cudnn]>=1.28"),
    ],
)
def test_the_build_to_keep_is_that_for_the_machine(torch_cuda: str | None, devices: int, installs: str) -> None:
    both = replace(CPU, owners=("onnxruntime", "onnxruntime-gpu"), torch_cuda=torch_cuda)
    assert of(replace(both, devices=devices), "ONNX Runtime").mend[-1] == f'pip install "{installs}"'


def test_the_device_is_seen_where_the_runtime_does_not_tell() -> None:
    """As where the files of two builds do not go together, or where there is none."""
    gpu = 'pip install "onnxruntime-gpu[cuda,cudnn]>=1.28"'
    both = ("onnxruntime", "onnxruntime-gpu")
    for owners, runtime in ((both, Runtime(failure="ImportError: undefined symbol")), ((), None)):
        here = replace(GPU, owners=owners, runtime=runtime, devices=1)
        assert of(here, "ONNX Runtime").mend[-1] == gpu
        assert of(replace(here, devices=0), "ONNX Runtime").mend[-1] == 'pip install "onnxruntime>=1.24"'


def test_owners_without_a_version_are_named() -> None:
    finding = of(replace(CPU, owners=("onnxruntime", "onnxruntime-directml")), "ONNX Runtime")
    assert finding.what.startswith("onnxruntime 1.31.1 and onnxruntime-directml are both installed; ")


def test_no_runtime() -> None:
    finding = of(replace(without(CPU, "onnxruntime"), owners=(), runtime=None), "ONNX Runtime")
    assert (finding.severity, finding.what) == ("error", "not installed")
    assert finding.mend == ('pip install "onnxruntime>=1.24"',)


def test_remains_of_a_runtime() -> None:
    words = "AttributeError: module 'onnxruntime' has no attribute 'get_available_providers'"
    finding = of(replace(without(CPU, "onnxruntime"), owners=(), runtime=Runtime(failure=words)), "ONNX Runtime")
    assert finding.severity == "error"
    assert words in finding.what
    assert finding.mend[0] == "pip uninstall -y onnxruntime onnxruntime-gpu"


def test_files_of_another_build_than_the_installed() -> None:
    """As where the CPU package was installed over the GPU one and only its metadata was removed."""
    finding = of(replace(GPU, runtime=CPU.runtime), "ONNX Runtime")
    assert finding.severity == "error"
    assert finding.what == "onnxruntime-gpu is installed, but the files are those of onnxruntime"
    assert finding.mend[:2] == ("pip uninstall -y onnxruntime", "pip uninstall -y onnxruntime-gpu")


def test_a_runtime_that_no_package_has_installed() -> None:
    finding = of(replace(without(CPU, "onnxruntime"), owners=()), "ONNX Runtime")
    assert (finding.severity, finding.what) == ("fine", "onnxruntime 1.31.1, not installed as a package")


def test_a_runtime_that_is_too_old() -> None:
    finding = of(with_runtime(CPU, version="1.23.0"), "ONNX Runtime")
    assert (finding.severity, finding.mend) == ("error", ('pip install "onnxruntime>=1.24"',))


def test_another_build_goes_before_one_of_these_comes() -> None:
    name = "onnxruntime-directml"
    here = with_runtime(replace(with_package(CPU, name, "1.23.0"), owners=(name,)), package=name, version="1.23.0")
    mend = (f"pip uninstall -y {name}", 'pip install "onnxruntime>=1.24"')
    assert of(here, "ONNX Runtime").mend == mend


@pytest.mark.parametrize("changes", [{"version": "1.23.0"}, {"failure": "ImportError: libz.so.1"}])
def test_no_remedy_brings_the_other_build(changes: dict[str, str]) -> None:
    finding = of(with_runtime(replace(GPU, devices=0), **changes), "ONNX Runtime")
    assert finding.severity == "error"
    assert finding.mend[-1] == 'pip install "onnxruntime-gpu[cuda,cudnn]>=1.28"'


@pytest.mark.parametrize(
    ("version", "major"),
    [("1.18.1", None), ("1.19.0", "12"), ("1.26.0", "12"), ("1.27.0", "13"), ("1.31.1", "13"), ("2.0.0", "13")],
)
def test_the_cuda_of_a_version(version: str, major: str | None) -> None:
    assert cuda_major(version) == major


MISSING_12 = {"cuda": {"libcublas.so.12": "cannot open", "libcudart.so.12": "cannot open"}}


def test_a_runtime_for_an_older_cuda_than_torch() -> None:
    here = old_gpu("13.0", missing=MISSING_12, trials={"cpu": ""})
    finding, libraries = of(here, "CUDA versions"), of(here, "CUDA libraries")
    assert (finding.severity, finding.what) == ("error", "torch is built for 13, ONNX Runtime for 12")
    assert finding.mend == libraries.mend == ('pip install "onnxruntime-gpu[cuda,cudnn]>=1.28"',)
    assert libraries.what == "not found: libcublas.so.12, libcudart.so.12"
    assert of(here, "provider cuda").severity == "error"


def test_a_runtime_for_a_newer_cuda_than_torch() -> None:
    finding = of(with_runtime(replace(GPU, torch_cuda="12.8"), trials={}), "CUDA versions")
    assert (finding.severity, finding.mend) == ("error", ('pip install "onnxruntime-gpu[cuda,cudnn]>=1.24,<1.27"',))


@pytest.mark.parametrize(
    ("version", "cuda", "torch_cuda", "installs"),
    [("1.26.0", "13.0", "12.8", ">=1.24,<1.27"), ("1.31.1", "12.8", "13.0", ">=1.28")],
)
def test_a_build_that_is_not_from_pypi_goes_first(version: str, cuda: str, torch_cuda: str, installs: str) -> None:
    """Its version is what is asked for, so that pip would leave it as it is."""
    missing = {"cuda": {"libcublas.so": "cannot open"}}
    here = with_runtime(GPU, version=version, cuda=cuda, missing=missing, trials={"cpu": ""})
    here = replace(with_package(here, "onnxruntime-gpu", version), torch_cuda=torch_cuda)
    mend = ("pip uninstall -y onnxruntime-gpu", f'pip install "onnxruntime-gpu[cuda,cudnn]{installs}"')
    assert of(here, "CUDA versions").mend == of(here, "CUDA libraries").mend == mend


def test_torch_for_a_cuda_that_no_runtime_is_built_for() -> None:
    finding = of(with_runtime(replace(GPU, torch_cuda="11.8"), trials={}), "CUDA versions")
    assert (finding.severity, finding.mend) == ("error", ("pip install --upgrade torch torchvision",))


def test_the_version_tells_where_the_build_does_not() -> None:
    assert of(old_gpu("12.8"), "CUDA versions").severity == "fine"
    assert of(with_runtime(old_gpu("13.0"), cuda="", trials={}), "CUDA versions").severity == "error"


def test_two_cudas_that_run_all_the_same_are_a_warning() -> None:
    assert of(old_gpu("13.0"), "CUDA versions").severity == "warning"


def test_torch_without_cuda_beside_a_runtime_with_it() -> None:
    here = replace(GPU, torch_cuda=None)
    finding = of(here, "CUDA versions")
    assert (finding.severity, finding.mend) == ("warning", ("pip install --force-reinstall torch torchvision",))
    assert finding.what == "torch is built without CUDA, ONNX Runtime for 13"
    assert of(replace(here, devices=0), "CUDA versions").severity == "fine"
    missing = with_runtime(here, missing={"cuda": {"libcublas.so.13": "cannot open"}}, trials={"cpu": ""})
    assert of(missing, "CUDA libraries").mend == ('pip install "onnxruntime-gpu[cuda,cudnn]==1.31.1"',)


@pytest.mark.parametrize(("torch", "told"), [("2.14.1", False), ("2.15.0", True)])
def test_libcurand_that_torch_no_longer_brings(torch: str, told: bool) -> None:
    here = with_runtime(GPU, missing={"cuda": {"libcurand.so.10": "cannot open"}}, trials={"cpu": ""})
    finding = of(with_package(here, "torch", torch), "CUDA libraries")
    assert (finding.severity, finding.what) == ("error", "not found: libcurand.so.10")
    assert ("no longer does" in finding.why) is told
    assert finding.mend == ('pip install "onnxruntime-gpu[cuda,cudnn]==1.31.1"',)


def test_no_device_is_a_warning_and_the_drivers_library_no_missing_one() -> None:
    here = with_runtime(replace(GPU, devices=0), missing={"cuda": {"libcuda.so.1": "cannot open"}}, trials={"cpu": ""})
    assert of(here, "CUDA libraries").what == "all found, but for those of the NVIDIA driver"
    finding = of(here, "provider cuda")
    assert finding.severity == "warning"
    assert finding.mend == ("pip uninstall -y onnxruntime-gpu", 'pip install "onnxruntime>=1.24"')
    assert worst(diagnose(here)) == "warning"


def test_a_provider_that_is_offered_and_fails() -> None:
    words = "the provider 'cuda' cannot run all of trial.onnx: CUDA failure 35"
    here = with_runtime(GPU, trials={"cpu": "wrong", "cuda": words})
    finding = of(here, "provider cuda")
    assert (finding.severity, finding.what, finding.mend) == ("error", words, ("nvidia-smi",))
    assert "where the cause is the driver, it must know CUDA 13" in finding.why
    again = 'pip install --force-reinstall --no-deps "onnxruntime-gpu==1.31.1"'
    assert of(here, "provider cpu").mend == (again,)


def test_a_device_that_the_build_cannot_use() -> None:
    here = replace(CPU, devices=2, torch_cuda="13.0")
    finding = of(here, "provider cuda")
    assert (finding.severity, finding.what) == ("warning", "not in this build, though there are 2 NVIDIA devices")
    assert finding.mend == ("pip uninstall -y onnxruntime", 'pip install "onnxruntime-gpu[cuda,cudnn]>=1.28"')
    assert of(replace(here, owners=()), "provider cuda").mend == finding.mend[1:]  # no package to be uninstalled


def test_secateur_without_metadata_still_tells() -> None:
    assert worst(diagnose(without(CPU, "secateur"))) == "fine"
