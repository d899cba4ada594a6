"""What an ONNX file says of itself: the plan it comes from, the criterion, the budget and the versions that made it.

ONNX keeps pairs of strings with a model. Whatever is more than a word is JSON in them, so that any program can read it;
`examples/04_deploy.py` does with onnxruntime alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from secateur.errors import CheckpointError, ConfigError
from secateur.records import PruningPlan
from secateur_onnx.packages import require

VERSIONS = "versions"
MAKERS = ("secateur", "torch", "onnx", "onnxscript")


def plan_metadata(plan: PruningPlan) -> dict[str, object]:
    """Return what an exported file should say of the plan it comes from, for `export(..., metadata=...)`.

    Keys: "plan", the plan's fingerprint; "criterion", which decided the channels, and "search", which decided their
    number, or both where it learns, where the plan says so; "variant", of an ablation, that removed others than the
    lowest scores ("random" goes by no criterion); "budget", for each cost what the network needs before and after, and
    what was allowed, where the plan was made for a budget.

    Example:
        >>> settings = {"search": "uniform", "scores": {"criterion": "hrank"}}
        >>> plan = PruningPlan((), {}, "macs", 40.0, 19.0, 20.0, settings=settings)
        >>> about = plan_metadata(plan)
        >>> about["criterion"], about["search"], about["budget"]
        ('hrank', 'uniform', {'macs': {'before': 40.0, 'after': 19.0, 'budget': 20.0}})
    """
    scores = plan.settings.get("scores") or {}
    by = (scores.get("order") or scores).get("criterion") or plan.settings.get("importance")
    variant = plan.settings.get("variant", "low")
    known = {
        "plan": plan.fingerprint,
        "criterion": None if variant == "random" else by,
        "variant": None if variant == "low" else variant,
        "search": plan.settings.get("search"),
    }
    costs = {name: asdict(cost) for name, cost in plan.spent.items()}
    if plan.settings.get("search") == "ratio":  # of `secateur.prune`: nobody has given a budget
        costs = {name: {key: cost[key] for key in ("before", "after")} for name, cost in costs.items()}
    return {key: value for key, value in known.items() if value is not None} | {"budget": costs}


def as_strings(metadata: Mapping[str, object] | None) -> dict[str, str]:
    """Return metadata as ONNX keeps it, with the versions of what made the file unless it has its own.

    Raises:
        ConfigError: it is not plain data.

    Example:
        >>> as_strings({"plan": "ab12", "budget": {"macs": 0.5}, VERSIONS: {}})
        {'versions': '{}', 'plan': 'ab12', 'budget': '{"macs": 0.5}'}
    """
    try:
        about = {VERSIONS: {name: version(name) for name in MAKERS}} | dict(metadata or {})
        return {_as_text(key): _as_text(value) for key, value in about.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"what an ONNX file says of itself must be plain data: {error}") from error


def from_strings(about: Mapping[str, str]) -> dict[str, Any]:
    """Return metadata with the JSON in it read; what is no JSON object or list stays a string.

    Example:
        >>> from_strings({"plan": "1234", "budget": '{"macs": 0.5}', "note": "{sic"})
        {'plan': '1234', 'budget': {'macs': 0.5}, 'note': '{sic'}
    """
    return {key: _read(value) for key, value in about.items()}


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return what the ONNX file at `path` says of itself.

    Raises:
        CheckpointError: the file is missing, truncated or no ONNX file.
        MissingDependencyError: onnx is missing.

    Cost: the file is read once.

    Example:
        >>> import tempfile, torch
        >>> from secateur_onnx import export
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = Path(folder.name) / "linear.onnx"
        >>> _ = export(torch.nn.Linear(3, 2), torch.zeros(1, 3), file, metadata={"criterion": "hrank"})
        >>> about = read_metadata(file)
        >>> about["criterion"], sorted(about["versions"])
        ('hrank', ['onnx', 'onnxscript', 'secateur', 'torch'])
        >>> folder.cleanup()
    """
    path = Path(path)
    proto = _parsed(path)
    if not proto.ir_version or not proto.graph.node:  # a foreign file may parse as one without anything in it
        raise CheckpointError(f"{path} is no ONNX file: it holds no graph")
    about = {entry.key: entry.value for entry in proto.metadata_props}
    if not all(isinstance(text, str) for text in (*about, *about.values())):  # bytes, where they are no UTF-8
        raise CheckpointError(f"{path} is damaged: what it says of itself is no text")
    return from_strings(about)


def stored_bytes(path: str | Path) -> int:
    """Return the size of an ONNX file and of the files beside it that hold its weights, as torch writes by default.

    Raises:
        CheckpointError: as `read_metadata` does; a file in onnxruntime's own format, which a session opens, is none.
        MissingDependencyError: onnx is missing.

    Cost: the file is read once, those beside it are not.

    Example:
        >>> import tempfile, torch
        >>> from secateur_onnx import export
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = export(torch.nn.Linear(3, 2), torch.zeros(1, 3), Path(folder) / "linear.onnx")
        ...     stored_bytes(file.path) == file.file_bytes
        True
    """
    path = Path(path)
    beside = {
        entry.value
        for tensor in _parsed(path).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sum(file.stat().st_size for file in (path, *(path.parent / name for name in beside)))


def _parsed(path: Path) -> Any:
    """Return the model in a file, whatever its name ends in, without the weights that lie beside it."""
    onnx = require("onnx")
    if not path.is_file():
        raise CheckpointError(f"there is no ONNX file {path}")
    try:
        return onnx.load_from_string(path.read_bytes())
    except Exception as error:  # protobuf's errors are classes of whichever implementation is installed
        raise CheckpointError(f"{path} is truncated or no ONNX file: {error}") from error


def _as_text(value: object) -> str:
    """Return a value as ONNX keeps it. Raises ValueError for what is neither JSON nor UTF-8."""
    text = json.dumps(value, allow_nan=False) if isinstance(value, (Mapping, list, tuple)) else str(value)
    text.encode()
    return text


def _read(value: str) -> Any:
    if value.startswith(("{", "[")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):  # the latter where brackets lie hundreds deep
            return value
    return value
