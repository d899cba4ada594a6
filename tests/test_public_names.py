"""The names that users rely on: they exist, they are documented, and type checkers see them."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import secateur
import secateur.criteria
import secateur_cli
import secateur_nni
import secateur_onnx

PACKAGES = (secateur, secateur_nni, secateur_onnx, secateur_cli)
PROMISED = {
    secateur: (
        "collect_scores",
        "channel_groups",
        "uniform_plan",
        "greedy_plan",
        "apply_plan",
        "HRankImportance",
        "DIImportance",
    ),
    secateur.criteria: ("CRITERIA",),
    secateur_nni: ("HRankPruner", "DIPruner", "FeatureMapPruner", "BudgetPruner", "apply_masks"),
    secateur_onnx: ("export", "check_parity", "benchmark"),
}


def packages_and_modules() -> Iterator[ModuleType]:
    for package in PACKAGES:
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


def public_names() -> dict[str, Any]:
    """Return everything that some `__all__` names, by where it is first named."""
    found: dict[str, Any] = {}
    for module in packages_and_modules():
        for name in getattr(module, "__all__", ()):
            found[f"{module.__name__}.{name}"] = getattr(module, name)
    return found


PUBLIC = public_names()


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in PROMISED.items() for n in names])
def test_promised_names_exist_and_are_documented(module: ModuleType, name: str) -> None:
    assert name in module.__all__
    if callable(getattr(module, name)):
        assert ">>> " in (inspect.getdoc(getattr(module, name)) or "")


def test_criteria_are_listed_by_their_names() -> None:
    assert {"hrank", "di"} <= secateur.criteria.CRITERIA.keys()
    for name, criterion in secateur.criteria.CRITERIA.items():
        assert criterion().name == name


@pytest.mark.parametrize("module", list(packages_and_modules()), ids=lambda module: module.__name__)
def test_every_module_says_what_it_is_for(module: ModuleType) -> None:
    assert module.__doc__, f"{module.__name__} has no docstring"
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    assert all(hasattr(module, name) for name in names)


@pytest.mark.parametrize("where", PUBLIC)
def test_every_public_name_is_documented(where: str) -> None:
    """Functions tell of each parameter and show an example, as classes do; records and settings say what they hold."""
    thing = PUBLIC[where]
    if not inspect.isclass(thing) and not inspect.isfunction(thing):
        return  # a constant or the name of a type
    text = thing.__doc__ or ""
    assert text, f"{where} is not documented"
    if inspect.isfunction(thing):
        untold = [name for name in inspect.signature(thing).parameters if name not in text]
        assert not untold, f"{where} does not tell of {untold}"
    is_record = dataclasses.is_dataclass(thing) or hasattr(thing, "model_fields")
    assert is_record or ">>> " in text or where.startswith("secateur_cli."), f"{where} shows no example"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_type_checkers_see_the_types(package: ModuleType) -> None:
    assert (Path(package.__path__[0]) / "py.typed").is_file()
