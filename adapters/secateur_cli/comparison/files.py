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
from secateur_cli.progress import Progress
from secateur_cli.report.report import packages_missing, plain
from secateur_cli.stages.pipeline import versions

JSON_FILE, CSV_FILE, HTML_FILE = "comparison.json", "comparison.csv", "comparison.html"
PLAIN = (
    "house", "criterion", "name", "search", "budget", "seed", "plan", "macs", "parameters", "ties", "score_seconds",
    "score_processor_seconds", "score_peak_bytes", "score_images", "scores_shared", "curve_seconds", "plan_seconds",
    "learnt_epochs", "not_measured",
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
    """Write all three; without jinja2 and matplotlib the page is left out, and it is said how to get them.

    Numbers that are not finite, as options may be, become null in JSON, which knows none.
    """
    write_json(folder / JSON_FILE, plain(report))
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
    stages, dense = report["stages"], report["dense"]
    timed = [_times(cell["latency"]) for cell in report["cells"]]
    columns = list(dict.fromkeys(name for times in timed for name in times))
    accuracies = [f"accuracy_{stage.replace('-', '_')}" for stage in stages]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*PLAIN, "macs_share", "accuracy_dense", *accuracies, *columns])
        for cell, times in zip(report["cells"], timed, strict=True):
            share = None if cell["macs"] is None else cell["macs"] / dense["macs"]
            shares = [cell["accuracy"][stage] for stage in stages]
            plain = [cell[key] for key in PLAIN]
            writer.writerow([*plain, share, dense["accuracy"], *shares, *(times.get(name) for name in columns)])


def _times(latency: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what was timed: the median of both networks in milliseconds, and how many times as fast the pruned is."""
    found: dict[str, Any] = {}
    for timed in (latency or {}).get("comparisons", ()):
        batch = f"batch_{timed['batch_size']}" + ("" if timed["measured"] == "end to end" else "_device_bound")
        found |= {f"milliseconds_{batch}": timed["pruned"]["median_ms"]}
        found |= {f"milliseconds_dense_{batch}": timed["dense"]["median_ms"]}
        found |= {f"speed_{batch}": timed["ratio"]}
        found |= {f"speed_lower_{batch}": timed["lower"], f"speed_upper_{batch}": timed["upper"]}
    return found


def rival_versions() -> dict[str, str]:
    """Return the version of NNI, where it is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"nni": version("nni")}
    except PackageNotFoundError:
        return {}
