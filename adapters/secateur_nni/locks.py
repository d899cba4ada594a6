"""The lock of NNI's list of experiments, which nobody gets with a newer filelock than NNI asks for."""

from __future__ import annotations

from collections.abc import Iterable

from secateur.errors import MissingDependencyError
from secateur.installed import Packages, Unmet, installed_packages, unmet

WHY = "from 3.12 on NNI waits for its own lock for ever"  # nni/tools/nnictl/common_utils.py, SimplePreemptiveLock


def unfit_filelock(lacking: Iterable[Unmet]) -> Unmet | None:
    """Return what NNI lacks if it is its filelock; None where that fits.

    Args:
        lacking: what NNI asks for and does not have.

    Example:
        >>> unfit_filelock([Unmet("nni", "filelock", "filelock<3.12", "3.20.0")]).requirement
        'filelock<3.12'
    """
    return next((lack for lack in lacking if lack.name == "filelock"), None)


def refuse_filelock(packages: Packages | None = None) -> None:
    """Raise MissingDependencyError where NNI would wait for its own lock for ever.

    Args:
        packages: what is installed, by name; None: in this environment.

    Example:
        >>> refuse_filelock({})
    """
    here = installed_packages() if packages is None else packages
    lack = unfit_filelock(unmet(here["nni"], here)) if "nni" in here else None
    if lack is not None:
        raise MissingDependencyError(f'{lack}; {WHY}; pip install "{lack.requirement}"')
