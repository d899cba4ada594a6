"""What may go wrong with an installation before any network is looked at, but for ONNX: from data alone."""

from __future__ import annotations

from secateur.findings import Finding, Severity
from secateur.installed import Package, fits, unmet
from secateur_cli.doctor.environment import Environment

PARTS = {  # what secateur can do without, and what is lost then
    "numba": ("fine", "HRank's ranks are the same, but take several times as long"),
    "matplotlib": ("warning", "a run writes report.json, but no report.html"),
    "jinja2": ("warning", "a run writes report.json, but no report.html"),
    "pillow": ("warning", "no data set of images can be read"),
    "scikit-learn": ("warning", "the data set digits cannot be read"),
}
TOLD_APART = {"torch", "torch-pruning"}  # by checks of their own
EXTRAS = ("vision", "report", "fast")


def diagnose_environment(here: Environment) -> list[Finding]:
    """Return one finding for each check: Python, torch, torchvision, Torch-Pruning, what secateur needs, its parts.

    Args:
        here: what `read_environment` returns, or any other environment.
    """
    return [
        _python(here),
        _torch(here),
        _torchvision(here),
        _torch_pruning(here),
        _needed(here),
        *(_part(name, here) for name in PARTS),
    ]


def _own(here: Environment, *extras: str) -> dict[str, str]:
    """Return what secateur asks for, by name; nothing where it is not installed as a package."""
    own = here.packages.get("secateur")
    return {} if own is None else {lack.name: lack.requirement for lack in unmet(own, {}, extras=extras)}


def _python(here: Environment) -> Finding:
    strict = [p for name in ("secateur", "torch", "torchvision") if (p := here.packages.get(name)) is not None]
    unfit = [package for package in strict if not fits(here.python, package.python)]
    if not unfit:
        return Finding("Python", here.python)
    asked = "; ".join(f"{package.name} asks for {package.python}" for package in unfit)
    why = "a package that was made for another Python may fail anywhere"
    mend = ("python3.11 -m venv fresh", 'fresh/bin/pip install -e ".[all]"')
    return Finding("Python", f"{here.python}; {asked}", "error", why, mend)


def _torch(here: Environment) -> Finding:
    wanted = _own(here).get("torch", "torch")
    package = here.packages.get("torch")
    if package is None:
        return Finding("torch", "not installed", "error", "nothing works without it", (f'pip install "{wanted}"',))
    built = f"for CUDA {here.torch_cuda}" if here.torch_cuda else "for the CPU"
    number = "1 device" if here.devices == 1 else f"{here.devices or 'no'} devices"
    what = f"{package.version}, {built}{f', {number} to use' if here.torch_cuda else ''}"
    if not fits(package.version, wanted.removeprefix("torch")):
        mend = ("pip install --upgrade torch torchvision",)
        return Finding("torch", f"{what}; secateur asks for {wanted}", "error", "it is older than that", mend)
    return Finding("torch", what)


def _torchvision(here: Environment) -> Finding:
    check, package = "torchvision", here.packages.get("torchvision")
    wanted = _own(here, *EXTRAS).get(check, check)
    if package is None:
        why = "no image folder, CIFAR or torchvision network can be read"
        return Finding(check, "not installed", "warning", why, (f'pip install "{wanted}"',))
    pair = next((lack for lack in unmet(package, here.packages) if lack.name == "torch"), None)
    torch = here.packages.get("torch")
    failure = here.failures.get(check)
    if pair is None and failure is None:
        return Finding(check, f"{package.version}, made for this torch")
    beside = f"{package.version} beside torch {torch.version if torch else 'none'}"
    said = failure if failure is not None else str(pair)
    why = "both must come from the same release; otherwise torchvision fails on import or in its operators"
    return Finding(check, f"{beside}: {said}", "error", why, ("pip install --upgrade torch torchvision",))


def _torch_pruning(here: Environment) -> Finding:
    wanted = _own(here).get("torch-pruning", "torch-pruning")
    package = here.packages.get("torch-pruning")
    found = "not installed" if package is None else package.version
    if package is None or not fits(package.version, wanted.removeprefix("torch-pruning")):
        why = "it renames parts between minor versions; groups of channels come from it"
        what = found if package is None else f"{found}; secateur asks for {wanted}"
        return Finding("torch-pruning", what, "error", why, (f'pip install "{wanted}"',))
    return Finding("torch-pruning", found)


def _needed(here: Environment) -> Finding:
    """Return whether the other packages that secateur cannot do without are there."""
    own: Package | None = here.packages.get("secateur")
    if own is None:
        why = "which versions of other packages it needs stands in its metadata, so that it cannot be checked"
        return Finding("secateur", "not installed as a package", "warning", why, ("pip install -e .",))
    lacking = [lack for lack in unmet(own, here.packages) if lack.name not in TOLD_APART]
    if not lacking:
        return Finding("secateur", f"{own.version}, and all that it needs")
    wanted = " ".join(f'"{lack.requirement}"' for lack in lacking)
    what = "; ".join(map(str, lacking))
    return Finding("secateur", what, "error", "commands fail where they need it", (f"pip install {wanted}",))


def _part(name: str, here: Environment) -> Finding:
    severity, loss = PARTS[name]
    wanted = _own(here, *EXTRAS).get(name, name)
    package, failure = here.packages.get(name), here.failures.get(name)
    level: Severity = "warning" if severity == "warning" else "fine"
    if package is None:
        return Finding(name, "not installed", level, loss, (f'pip install "{wanted}"',))
    if not fits(package.version, wanted.removeprefix(name)):
        what = f"{package.version}; secateur asks for {wanted}"
        return Finding(name, what, level, loss, (f'pip install "{wanted}"',))
    if failure is not None:  # pip knows which numpy goes with it, and may not have been asked
        what = f"{package.version}, which cannot be imported: {failure}"
        return Finding(name, what, level, loss, (f'pip install --upgrade "{wanted}"',))
    return Finding(name, package.version)
