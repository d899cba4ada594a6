"""Which packages are installed, and what a package asks for that is not there: from their metadata, without importing.

A package is imported only once it is needed, and then it is too late to learn that it does not fit the others. What it
asks for stands in its metadata, in the forms of [PEP440]_ and [PEP508]_.

.. [PEP440] Version identification and dependency specification, packaging.python.org.
.. [PEP508] Dependency specification for Python software packages, packaging.python.org.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


@dataclass(frozen=True)
class Package:
    """An installed package.

    Attributes:
        name: its name in lower case, words joined by hyphens.
        version: as its metadata gives it.
        requires: what it asks for, each as written there, such as 'filelock <3.12' or 'numba>=0.61; extra == "fast"'.
        python: the versions of Python it is made for, such as '>=3.11'; "" where it does not say.
    """

    name: str
    version: str
    requires: tuple[str, ...] = ()
    python: str = ""


Packages = Mapping[str, Package]


@dataclass(frozen=True)
class Unmet:
    """What a package asks for that is not there.

    Attributes:
        asker: the name of the package that asks.
        name: the name of the package that it asks for.
        requirement: what it asks for, as pip takes it: 'filelock<3.12'.
        found: the version that is installed instead; None where there is none.
    """

    asker: str
    name: str
    requirement: str
    found: str | None

    def __str__(self) -> str:
        found = "not installed" if self.found is None else f"{self.found} is installed"
        return f"{self.asker} asks for {self.requirement}; {found}"


def installed_packages() -> dict[str, Package]:
    """Return the packages that Python would import here, by name; without those whose metadata cannot be read.

    Cost: reads the metadata of every package, some tens of milliseconds.

    Example:
        >>> installed_packages()["torch-pruning"].name
        'torch-pruning'
    """
    found: dict[str, Package] = {}
    for name, distribution in named_distributions():
        try:
            version, requires = distribution.metadata["Version"], tuple(distribution.requires or ())
        except ValueError:  # a list of requirements in another encoding
            continue
        if version is None:
            continue
        package = Package(name, version, requires, str(distribution.metadata["Requires-Python"] or ""))
        found.setdefault(name, package)  # the first on the path is the one that is imported
    return found


def named_distributions() -> Iterator[tuple[str, importlib.metadata.Distribution]]:
    """Yield the name and the distribution of each package on the path, but for those that do not tell their name.

    Such are the remains of an installation that was interrupted, and metadata that is not in UTF-8.

    Example:
        >>> "torch" in dict(named_distributions())
        True
    """
    for distribution in importlib.metadata.distributions():
        try:
            name = distribution.metadata["Name"]
        except ValueError:
            continue
        if name is not None:
            yield canonicalize_name(name), distribution


def unmet(package: Package, packages: Packages, *, extras: Collection[str] = ()) -> list[Unmet]:
    """Return what a package asks for and does not have, in the order in which it asks.

    Args:
        package: the package that asks; conditions on the platform and the version of Python are those of this process.
        packages: what is installed, by name.
        extras: the extras of the package whose requirements count too. Extras of what it asks for do not.

    Requirements and versions that follow no standard are passed over: nothing can be said about them.

    Example:
        >>> asker = Package("asker", "1", ("one>=2", "two", 'three; extra == "more"'))
        >>> here = {"one": Package("one", "1.9"), "two": Package("two", "0.1")}
        >>> [str(lack) for lack in unmet(asker, here, extras=["more"])]
        ['asker asks for one>=2; 1.9 is installed', 'asker asks for three; not installed']
    """
    lacking = []
    for text in package.requires:
        try:
            requirement = Requirement(text)
            marker = requirement.marker
            asked = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
        except ValueError:  # of the form, of a version in a condition, or of a comparison that is none
            continue
        if not asked:
            continue
        name = canonicalize_name(requirement.name)
        other = packages.get(name)
        if other is None or not fits(other.version, str(requirement.specifier)):
            requirement.marker = None
            lack = Unmet(package.name, name, str(requirement), None if other is None else other.version)
            lacking += [lack] if lack not in lacking and name != package.name else []
    return lacking


def fits(version: str, allowed: str) -> bool:
    """Return whether a version is among the allowed ones; true where one of both follows no standard.

    Example:
        >>> fits("2.14.1+cpu", "==2.14.1"), fits("82.0.0", ">=77.0.3,<82"), fits("2.0.dev1", ">=1"), fits("?", ">=1")
        (True, False, True, True)
    """
    try:
        return SpecifierSet(allowed).contains(Version(version), prereleases=True)
    except (InvalidVersion, InvalidSpecifier):
        return True
