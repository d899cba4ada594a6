"""A plan from wherever it lies: a file of a run or a search, one written by hand, or their folder."""

from __future__ import annotations

import json
from pathlib import Path

from secateur.checkpoint import PLAN_FILE
from secateur.errors import PlanError
from secateur.records import PruningPlan
from secateur_cli.workspace import LEARNT, LEARNT_PLAN, PLAN, RUN_FILE


def read_plan(path: Path) -> PruningPlan:
    """Return the plan in a file, or in the folder of a run or a search.

    Args:
        path: JSON of `PruningPlan.to_json`, a plan.json beside a pruned network, or a folder that holds one.

    Raises:
        PlanError: there is none, or it is malformed; a folder of several searches names their plans; which channels a
            run keeps is still being learnt.
    """
    file = _file(path) if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlanError(f"no plan {file}; give a plan.json, or the folder of a run or a search") from None
    except OSError as error:
        raise PlanError(f"the plan {file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{file} is not a plan: it is not JSON ({error})") from error
    if isinstance(data, dict) and isinstance(data.get("plan"), dict):  # with the network that it was applied to
        data = data["plan"]
    if not isinstance(data, dict):
        raise PlanError(f"{file} is not a plan: it holds {type(data).__name__}, not a mapping")
    try:
        return PruningPlan.from_json(data)
    except PlanError as error:
        raise PlanError(f"{file}: {error}") from error


def _file(folder: Path) -> Path:
    learns = _search(folder) in LEARNT
    for name in (PLAN_FILE, LEARNT_PLAN if learns else PLAN):
        if (folder / name).is_file():
            return folder / name
    if learns and (folder / PLAN).is_file():
        raise PlanError(
            f"{folder} holds no plan yet: which channels stay is still being learnt, and {folder / PLAN} says only how "
            "many; repeat its command to continue it"
        )
    inner = sorted(str(found.parent) for found in folder.glob(f"*/{PLAN_FILE}"))
    if inner:
        raise PlanError(f"{folder} holds several plans; choose one of {', '.join(inner)}")
    if (folder / RUN_FILE).is_file():
        raise PlanError(f"{folder} holds no plan yet: its search is not finished; repeat its command to continue it")
    raise PlanError(f"{folder} holds no {PLAN_FILE}")


def _search(folder: Path) -> str | None:
    """Return the search of the run in a folder; None where there is none that can be read."""
    try:
        name: str = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["settings"]["search"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return name
