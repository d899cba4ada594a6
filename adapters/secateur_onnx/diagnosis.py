"""What may go wrong with ONNX in an installation, found before it does: from data alone, so that any can be tried."""

from __future__ import annotations

from packaging.utils import canonicalize_name

from secateur.findings import Finding
from secateur.installed import Package, fits, unmet
from secateur_onnx.installation import OnnxInstallation, Runtime
from secateur_onnx.packages import RUNTIMES
from secateur_onnx.probe import DRIVER
from secateur_onnx.raw_session import WIDE_SUMS

EXPORTERS = {
    "onnx": "no network can be exported",
    "onnxscript": "torch's exporter does not work without it",
}
CPU_RUNTIME = 'pip install "onnxruntime>=1.24"'
GPU_RUNTIMES = {  # CUDA major -> the packages on PyPI that are built for it
    "12": 'pip install "onnxruntime-gpu[cuda,cudnn]>=1.24,<1.27"',
    "13": 'pip install "onnxruntime-gpu[cuda,cudnn]>=1.28"',
}
CUDA_OF_VERSIONS = {">=1.19,<1.27": "12", ">=1.27": "13"}
NEWEST = "13"


def diagnose(here: OnnxInstallation) -> list[Finding]:
    """Return one finding for each check: exporters, runtime, and whatever a device needs.

    Args:
        here: what `read_installation` returns, or any other installation.

    Example:
        >>> from secateur_onnx.installation import OnnxInstallation
        >>> for finding in diagnose(OnnxInstallation({}, owners=(), torch_cuda=None, runtime=None)):
        ...     print(f"{finding.severity}: {finding.check} {finding.what}; {finding.mend[0]}")
        error: onnx not installed; pip install "onnx"
        error: onnxscript not installed; pip install "onnxscript"
        error: ONNX Runtime not installed; pip install "onnxruntime>=1.24"
    """
    findings = [_exporter(name, here) for name in EXPORTERS]
    findings.append(_runtime(here))
    if here.runtime is None or here.runtime.failure or len(here.owners) > 1:
        return findings  # what the folder can do is known once one build lies in it
    if here.runtime.cuda or "cuda" in here.runtime.providers:
        findings += [_cuda_versions(here, here.runtime), _libraries(here, here.runtime)]
    findings += _providers(here, here.runtime)
    if here.runtime.sums_overflow:
        what = "their sums overflow on this processor; secateur's sessions avoid it, others need the session entry "
        findings.append(Finding("8-bit products", f"{what}{WIDE_SUMS} = 1"))
    return findings


def cuda_major(version: str) -> str | None:
    """Return the major version of CUDA that the onnxruntime-gpu of a version on PyPI is built for, if known.

    Example:
        >>> cuda_major("1.26.0"), cuda_major("1.31.1"), cuda_major("1.18.1")
        ('12', '13', None)
    """
    return next((major for allowed, major in CUDA_OF_VERSIONS.items() if fits(version, allowed)), None)


def _exporter(name: str, here: OnnxInstallation) -> Finding:
    wanted = _wanted(here).get(name, name)
    package = here.packages.get(name)
    if package is None:
        return Finding(name, "not installed", "error", EXPORTERS[name], (f'pip install "{wanted}"',))
    if not fits(package.version, wanted.removeprefix(name)):
        what = f"{package.version}; secateur asks for {wanted}"
        return Finding(name, what, "error", "it is older than what this was written for", (f'pip install "{wanted}"',))
    finding = _complete(name, package, here)
    if finding.severity == "fine" and name in here.failures:
        what = f"{package.version}, which cannot be imported: {here.failures[name]}"
        mend = f'pip install --upgrade --upgrade-strategy eager "{wanted}"'  # it, and what it does not fit
        return Finding(name, what, "error", EXPORTERS[name], (mend,))
    return finding


def _complete(check: str, package: Package, here: OnnxInstallation, *, what: str = "") -> Finding:
    """Return whether a package has all that it asks for."""
    lacking = unmet(package, here.packages)
    if lacking:
        wanted = " ".join(f'"{lack.requirement}"' for lack in lacking)
        found = "; ".join(map(str, lacking))
        return Finding(check, found, "error", f"{package.name} may fail on import or later", (f"pip install {wanted}",))
    return Finding(check, what or package.version)


def _runtime(here: OnnxInstallation) -> Finding:
    check, runtime = "ONNX Runtime", here.runtime
    afresh = (f"pip uninstall -y {' '.join(here.owners or ('onnxruntime', 'onnxruntime-gpu'))}", _fitting_runtime(here))
    installed = [here.packages[name] for name in here.owners if name in here.packages]
    if len(here.owners) > 1:
        versions = {package.name: f" {package.version}" for package in installed}
        names = " and ".join(f"{name}{versions.get(name, '')}" for name in here.owners)
        last = f"; the files are those of {runtime.package} {runtime.version}" if runtime and runtime.package else ""
        why = (
            "they write into one folder, so that the one installed last decides, without a word, whether a device can "
            "be used; keep one of them"
        )
        return Finding(check, f"{names} are both installed{last}", "error", why, afresh)
    if runtime is None:
        return Finding(check, "not installed", "error", "no network can be run, compared or timed", afresh[1:])
    if runtime.failure:
        what = f"cannot be imported: {runtime.failure}"
        why = "only remains of it lie here, or a library that it needs is missing"
        return Finding(check, what, "error", why, (afresh[0], _same_runtime(here)))
    owner = here.owners[0] if here.owners else ""
    if owner and runtime.package and owner != canonicalize_name(runtime.package):
        what = f"{owner} is installed, but the files are those of {runtime.package}"
        why = "another build was installed over it; what its version promises is not there"
        return Finding(check, what, "error", why, (f"pip uninstall -y {runtime.package}", *afresh))
    floor = _wanted(here).get("onnxruntime", "onnxruntime").removeprefix("onnxruntime")
    if not fits(runtime.version, floor):
        what = f"{runtime.version}; secateur asks for onnxruntime{floor}"
        why = "an older one cannot say which node ran where"
        other = _uninstalled(here) if owner not in RUNTIMES else ()
        return Finding(check, what, "error", why, (*other, _same_runtime(here)))
    what = f"{owner or runtime.package} {runtime.version}{f', for CUDA {runtime.cuda}' if runtime.cuda else ''}"
    what += "" if owner else ", not installed as a package"
    return _complete(check, installed[0], here, what=what) if installed else Finding(check, what)


def _cuda_versions(here: OnnxInstallation, runtime: Runtime) -> Finding:
    check, built = "CUDA versions", _built_for(runtime)
    if here.torch_cuda is None:
        what = f"torch is built without CUDA, ONNX Runtime for {built}"
        if not here.devices:
            return Finding(check, what)
        why = "torch trains and scores on the CPU, though there is a device; only ONNX Runtime uses it"
        return Finding(check, what, "warning", why, ("pip install --force-reinstall torch torchvision",))
    theirs = here.torch_cuda.split(".")[0]
    if built is None or built == theirs:
        return Finding(check, f"torch and ONNX Runtime are both built for {theirs}")
    what = f"torch is built for {theirs}, ONNX Runtime for {built}"
    mend = _matching(theirs, here, runtime)
    if runtime.trials.get("cuda") == "":
        why = "it runs here, with two sets of CUDA libraries in one process, which share the names of some"
        return Finding(check, what, "warning", why, mend)
    why = "the libraries that torch brings do not serve ONNX Runtime, which then runs on the CPU with a line in its log"
    return Finding(check, what, "error", why, mend)


def _libraries(here: OnnxInstallation, runtime: Runtime) -> Finding:
    check = "CUDA libraries"
    missing = dict(runtime.missing.get("cuda", {}))
    driver = missing.pop(DRIVER, None)
    if missing:
        what = f"not found: {', '.join(missing)}"
        why = "ONNX Runtime does not load its CUDA provider without them"
        if "libcurand.so.10" in missing and fits(_version(here, "torch"), ">=2.15"):
            why += "; torch brought libcurand up to 2.14, and no longer does"
        theirs = (here.torch_cuda or "").split(".")[0]
        same = not theirs or theirs == _built_for(runtime)
        own = (f'pip install "onnxruntime-gpu[cuda,cudnn]=={runtime.version}"',)
        return Finding(check, what, "error", why, own if same else _matching(theirs, here, runtime))
    return Finding(check, "all found, but for those of the NVIDIA driver" if driver else "all found")


def _providers(here: OnnxInstallation, runtime: Runtime) -> list[Finding]:
    """Return, for each provider that the build offers, whether it really runs."""
    findings = []
    for provider in runtime.providers:
        check, words = f"provider {provider}", runtime.trials.get(provider)
        missing = runtime.missing.get(provider, {})
        if not runtime.trials:
            findings.append(Finding(check, "offered; not tried, since that takes onnx"))
        elif words == "":
            findings.append(Finding(check, "ran a convolution"))
        elif words is not None:
            findings.append(_failed_trial(check, words, provider, runtime))
        elif provider == "cuda":
            findings.append(_idle_cuda(check, here))
        else:
            why = "onnx.provider: cuda needs none of it"
            lacking = f"lacks {', '.join(missing)}" if missing else "not tried without a device"
            findings.append(Finding(check, f"offered, but {lacking}", "fine", why))
    idle = "cuda" not in runtime.providers and here.devices
    if idle and here.torch_cuda is not None:
        what = f"not in this build, though there {_count(here.devices)}"
        why = "torch uses the device, but what is deployed can only be timed on the CPU"
        mend = (*_uninstalled(here), _fitting_runtime(here))
        findings.append(Finding("provider cuda", what, "warning", why, mend))
    return findings


def _failed_trial(check: str, words: str, provider: str, runtime: Runtime) -> Finding:
    why = f"a run with onnx.provider: {provider} would end here"
    if provider == "cpu":
        again = f'pip install --force-reinstall --no-deps "{runtime.package}=={runtime.version}"'
        return Finding(check, words, "error", why, (again,))
    built = _built_for(runtime) or ""
    why += f"; where the cause is the driver, it must know CUDA {built}, and this names the newest that yours knows"
    return Finding(check, words, "error", why, ("nvidia-smi",))


def _idle_cuda(check: str, here: OnnxInstallation) -> Finding:
    """Return why CUDA was not tried: libraries, told of already, or no device."""
    if here.devices:
        why = "a run with onnx.provider: cuda would end here; the libraries are named above"
        return Finding(check, "offered, but its libraries cannot be loaded", "error", why)
    why = "all runs on the CPU; where that is to stay so, the smaller package is enough"
    mend = ("pip uninstall -y onnxruntime-gpu", CPU_RUNTIME)
    return Finding(check, "offered, but there is no NVIDIA device or no driver for it", "warning", why, mend)


def _built_for(runtime: Runtime) -> str | None:
    """Return the major version of CUDA that the runtime is built for, by its own word or by its version."""
    return runtime.cuda.split(".")[0] or cuda_major(runtime.version)


def _matching(major: str, here: OnnxInstallation, runtime: Runtime) -> tuple[str, ...]:
    """Return the commands that make both use one major version of CUDA, by preference torch's."""
    if major not in GPU_RUNTIMES:
        return ("pip install --upgrade torch torchvision",)
    fitting = cuda_major(runtime.version) == major  # by its version, so that pip would keep this build of it
    return (*(_uninstalled(here) if fitting else ()), GPU_RUNTIMES[major])


def _uninstalled(here: OnnxInstallation) -> tuple[str, ...]:
    """Return the command that removes what is installed; nothing where the runtime is that of no package."""
    return (f"pip uninstall -y {' '.join(here.owners)}",) if here.owners else ()


def _fitting_runtime(here: OnnxInstallation) -> str:
    """Return the command that installs the build for this machine: for a device, if there is one, and torch's CUDA."""
    return _gpu_runtime(here) if here.devices else CPU_RUNTIME


def _same_runtime(here: OnnxInstallation) -> str:
    """Return the command that installs the build again that is installed, in a version that fits."""
    return _gpu_runtime(here) if here.owners == ("onnxruntime-gpu",) else CPU_RUNTIME


def _gpu_runtime(here: OnnxInstallation) -> str:
    theirs = (here.torch_cuda or NEWEST).split(".")[0]
    return GPU_RUNTIMES.get(theirs, GPU_RUNTIMES[NEWEST])


def _wanted(here: OnnxInstallation) -> dict[str, str]:
    """Return what the extra `onnx` of secateur asks for, by name; nothing where secateur itself is not installed."""
    own = here.packages.get("secateur")
    lacking = [] if own is None else unmet(own, {}, extras=["onnx"])
    return {lack.name: lack.requirement for lack in lacking}


def _version(here: OnnxInstallation, name: str) -> str:
    return here.packages[name].version if name in here.packages else "0"


def _count(devices: int) -> str:
    return "is an NVIDIA device" if devices == 1 else f"are {devices} NVIDIA devices"
