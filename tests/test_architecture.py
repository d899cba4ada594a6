"""The house: which room may import which, and which packages belong to one room alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("plugin/**/*.py"), *ROOT.glob("adapters/**/*.py")])

FOUNDATION = {
    "addresses",
    "errors",
    "counts",
    "protocols",
    "records",
    "batches",
    "modes",
    "fingerprints",
    "tf32",
    "files",
    "channel_map",
    "index_maps",
    "hooks",
    "submodules",
    "distributed",
    "precision",
    "plain_data",
    "quantiles",
}
MAY_IMPORT = {
    **{f"secateur.{name}": FOUNDATION for name in FOUNDATION},
    "secateur.networks": FOUNDATION,
    "secateur.criteria": FOUNDATION,
    "secateur.feature_maps": FOUNDATION | {"criteria"},
    "secateur.cost": FOUNDATION,
    "secateur.search": FOUNDATION,
    "secateur.channel_graph": FOUNDATION,
    "secateur.regression": FOUNDATION | {"feature_maps", "criteria"},
    "secateur.recovery": FOUNDATION | {"feature_maps", "regression", "criteria", "channel_graph"},
    "secateur.training": FOUNDATION
    | {"criteria", "evaluation", "feature_maps", "channel_graph", "recovery", "weights"},
    "secateur.quantization": FOUNDATION | {"weights"},
    "secateur.gates": FOUNDATION | {"channel_graph", "evaluation", "training", "weights"},
    "secateur.evaluation": FOUNDATION | {"channel_graph", "feature_maps", "regression", "scoring"},
    "secateur.weights": FOUNDATION,
    "secateur.findings": FOUNDATION,
    "secateur.installed": FOUNDATION,
    "secateur.journal": FOUNDATION,
    "secateur.pruning": FOUNDATION | {"channel_graph", "search"},
    "secateur.checkpoint": FOUNDATION | {"weights"},
    "secateur.scoring": FOUNDATION | {"criteria", "feature_maps", "regression"},
    "secateur.importance": FOUNDATION | {"criteria", "feature_maps", "scoring", "channel_graph"},
}
ONLY_IN = {
    "torch_pruning": "secateur.channel_graph",
    "nni": "secateur_nni",
    "onnx": "secateur_onnx",
    "onnxruntime": "secateur_onnx",
    "onnxscript": "secateur_onnx",
    "typer": "secateur_cli",
    "rich": "secateur_cli",
    "pydantic": "secateur_cli",
    "jinja2": "secateur_cli",
    "matplotlib": "secateur_cli",
    "torchvision": "secateur_cli",
}
ROOMS_OF_THE_COMMAND_LINE = {
    "settings": set[str](),
    "inputs": {"settings"},
    "stages": {"settings", "inputs"},
    "report": set[str](),
    "doctor": {"settings", "inputs", "stages"},
    "comparison": {"settings", "inputs", "stages", "report"},
    "figures": {"settings", "inputs", "stages", "report"},
}
ENTRANCES = {"__main__", "main", "commands", "nni_search", "tuning_trial"}  # which may import every room
DISTRIBUTIONS = ("secateur", "secateur_nni", "secateur_onnx", "secateur_cli")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(part for part in parts if part != "__init__")


def room(module: str) -> str:
    """Return the room a module of the plugin belongs to, or the adapter."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "secateur" else parts[0]


def imports(path: Path) -> list[str]:
    """Return the absolute names a file imports, wherever in the file."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where an arrow points"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_arrows_point_one_way(path: Path) -> None:
    here = room(module_name(path))
    for name in imports(path):
        top, target = name.split(".")[0], room(name)
        if top not in DISTRIBUTIONS or target == here or here == "secateur":
            continue
        if here.startswith("secateur."):
            assert top == "secateur", f"{here} imports the adapter {name}"
            assert target.removeprefix("secateur.") in MAY_IMPORT[here], f"{here} imports {name}"
        elif here in ("secateur_nni", "secateur_onnx"):
            assert top == "secateur", f"{here} imports {name}"


def test_rooms_of_the_command_line() -> None:
    """Settings know nothing of stages, nor does a report; what stands in no room is for all of them."""
    found = set()
    for path in (source for source in SOURCES if module_name(source).startswith("secateur_cli.")):
        here = module_name(path).split(".")[1]
        found.add(here)
        targets = {name.split(".")[1] for name in imports(path) if name.startswith("secateur_cli.")}
        foreign = targets & ({*ROOMS_OF_THE_COMMAND_LINE} | ENTRANCES) - {here}
        if here not in ENTRANCES:
            wrong = foreign - ROOMS_OF_THE_COMMAND_LINE.get(here, set())
            assert not wrong, f"{module_name(path)} imports {sorted(wrong)}"
    assert found >= {*ROOMS_OF_THE_COMMAND_LINE} | ENTRANCES


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_foreign_packages_stay_in_their_room(path: Path) -> None:
    here = module_name(path)
    for name in imports(path):
        owner = ONLY_IN.get(name.split(".")[0])
        assert owner is None or here.startswith(owner), f"{here} imports {name}, which belongs to {owner}"


def test_importing_changes_nothing_and_needs_no_optional_package() -> None:
    """No seeds, thread counts or optional packages are touched by importing the plugin and the adapters of hosts."""
    code = """
import random, sys, torch
threads, state, grad = torch.get_num_threads(), torch.random.get_rng_state(), torch.is_grad_enabled()
python_state = random.getstate()
import secateur, secateur.criteria, secateur_nni, secateur_onnx
assert torch.equal(state, torch.random.get_rng_state()) and python_state == random.getstate()
assert threads == torch.get_num_threads() and grad == torch.is_grad_enabled()
optional = {'nni', 'onnx', 'onnxruntime', 'onnxscript', 'matplotlib', 'numba', 'torchvision', 'typer', 'sklearn'}
print(sorted(optional & {name.split('.')[0] for name in sys.modules}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_suppression_has_a_reason() -> None:
    others = {*ROOT.glob("tests/**/*.py"), *ROOT.glob("examples/**/*.py")} - {Path(__file__).resolve()}
    for path in [*SOURCES, *sorted(others)]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for mark in ("type: ignore", "noqa", "pragma: no cover"):
                if mark in line:
                    reason = re.sub(r"^(\[[\w-]+\]|: \w+)", "", line.split(mark, 1)[1])
                    assert len(re.findall(r"\w{2,}", reason)) >= 2, f"{path}:{number}: {mark} without a reason"
