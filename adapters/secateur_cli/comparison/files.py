"""comparison.json, comparison.csv and comparison.html: each appears whole or not at all."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import secateur_onnx
from secateur.errors import MissingDependencyError
from secateur.files import replacing, write_json
from secateur_cli.comparison.setting import Setting
from secateur_cli.pipeline import versions
from secateur_cli.progress import Progress
from secateur_cli.report import packages_missing

JSON_FILE, CSV_FILE, HTML_FILE = "comparison.json", "comparison.csv", "comparison.html"
PLAIN = (
    "house", "criterion", "name", "search", "budget", "seed", "plan", "macs", "parameters", "ties", "score_seconds",
    "score_processor_seconds", "score_peak_bytes", "score_images", "scores_shared", "plan_seconds", "not_measured",
)  # fmt: skip


def described(setting: Setting, found: Mapping[str, Any], *, command: str, smoke: bool) -> dict[str, Any]:
    """Return the results with what tells where they come from."""
    machine = secateur_onnx.describe_machine(provider=setting.config.onnx.provider).to_json()
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "smoke": smoke,
        "config": setting.config.model_dump(mode="json"),
        "given": setting.config.given(),
        "network": {"build": setting.config.network.build, "skipped": dict(setting.groups.skipped)},
        "data": dict(setting.data.describe),
        "versions": versions() | rival_versions(),
        "machine": machine | {"threads": torch.get_num_threads()},
        **found,
    }


def write_files(report: Mapping[str, Any], folder: Path, progress: Progress) -> None:
    """Write all three; without jinja2 and matplotlib the page is left out, and it is said how to get them."""
    write_json(folder / JSON_FILE, report)
    write_csv(report, folder / CSV_FILE)
    try:
        from secateur_cli.comparison.document import render_comparison

        page = render_comparison(report)
    except ImportError as error:
        why = error if isinstance(error, MissingDependencyError) else packages_missing(error)
        progress.say(f"{CSV_FILE} and {JSON_FILE} are written; {HTML_FILE} is not: {why}")
        return
    with replacing(folder / HTML_FILE) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_csv(report: Mapping[str, Any], path: Path) -> None:
    """Write a line for each cell; what is not known is left empty."""
    stages = report["stages"]
    batches = sorted(
        {c["batch_size"] for cell in report["cells"] for c in (cell["latency"] or {}).get("comparisons", ())}
    )
    timed = [f"{key}_batch_{size}" for size in batches for key in ("speed", "speed_lower", "speed_upper")]
    accuracies = [f"accuracy_{stage.replace('-', '_')}" for stage in stages]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*PLAIN, "macs_share", "accuracy_dense", *accuracies, *timed])
        for cell in report["cells"]:
            share = None if cell["macs"] is None else cell["macs"] / report["dense"]["macs"]
            found = {c["batch_size"]: c for c in (cell["latency"] or {}).get("comparisons", ())}
            speeds = [(found.get(size) or {}).get(key) for size in batches for key in ("ratio", "lower", "upper")]
            shares = [cell["accuracy"][stage] for stage in stages]
            writer.writerow([*(cell[key] for key in PLAIN), share, report["dense"]["accuracy"], *shares, *speeds])


def rival_versions() -> dict[str, str]:
    """Return the version of NNI, where it is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"nni": version("nni")}
    except PackageNotFoundError:
        return {}
