"""What keeps NNI from starting experiments: its pins, its Node.js, proxies; from data alone, NNI is not imported."""

from __future__ import annotations

from secateur.findings import Finding
from secateur.installed import fits, unmet
from secateur_cli.doctor.environment import Environment
from secateur_nni.locks import WHY, unfit_filelock
from secateur_nni.proxies import MEND

SETUPTOOLS = "setuptools>=77.0.3,<82"  # 82 removed pkg_resources; torch asks for 77.0.3


def diagnose_nni(here: Environment) -> list[Finding]:
    """Return one finding for each check of NNI; a single one where it is not installed.

    Args:
        here: what `read_environment` returns, or any other environment.
    """
    nni = here.packages.get("nni")
    if nni is None:
        why = "no experiments; nothing else needs it"
        return [Finding("NNI", "not installed", "fine", why, (f'pip install "nni==3.0" "{SETUPTOOLS}"',))]
    return [_nni(here), _nnictl(here), _node(here), _proxy(here)]


def _nni(here: Environment) -> Finding:
    nni = here.packages["nni"]
    lacking = unmet(nni, here.packages)
    if not fits(nni.version, ">=3.0,<3.1"):
        why = "its interfaces changed with 3.0, and no later one is known"
        return Finding("NNI", f"{nni.version}; 3.0 is asked for", "error", why, ('pip install "nni==3.0"',))
    if not lacking:
        return Finding("NNI", f"{nni.version}, and all that it needs")
    wanted = " ".join(f'"{lack.requirement}"' for lack in lacking)
    what, mend = "; ".join(map(str, lacking)), (f"pip install {wanted}",)
    if unfit_filelock(lacking) is not None:
        return Finding("NNI", what, "error", WHY, mend)
    if any(lack.found is None for lack in lacking):
        return Finding("NNI", what, "error", "it fails where it imports what is missing", mend)
    return Finding("NNI", what, "warning", "NNI is no longer maintained and was tried with the older ones", mend)


def _nnictl(here: Environment) -> Finding:
    found = here.packages.get("setuptools")
    if found is not None and fits(found.version, "<82"):
        return Finding("nnictl", f"setuptools {found.version} has pkg_resources")
    what = "setuptools is not installed" if found is None else f"setuptools {found.version} has no pkg_resources"
    why = "nnictl and the trials of remote machines import it, and 82 removed it; experiments started from Python run"
    return Finding("nnictl", what, "error", why, (f'pip install "{SETUPTOOLS}"',))


def _node(here: Environment) -> Finding:
    check = "NNI's Node.js"
    if here.node_runs:
        return Finding(check, f"{here.node} runs")
    why = "it runs every experiment; NNI's wheels bring it for x86-64 alone"
    return Finding(check, f"does not run: {here.node}", "error", why, ('pip install --force-reinstall "nni==3.0"',))


def _proxy(here: Environment) -> Finding:
    if not here.proxied:
        return Finding("NNI's address", "localhost, without a proxy")
    why = "NNI asks its own manager on localhost, and the proxy does not know it: experiments do not start"
    what = "requests to localhost would go to a proxy"
    return Finding("NNI's address", what, "warning", why, (MEND,))
