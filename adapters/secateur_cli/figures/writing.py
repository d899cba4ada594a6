"""The files of a figure: its numbers as CSV and JSON, with all that is needed to repeat them, and the pictures."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import torch

from secateur.errors import ConfigError
from secateur.files import replacing, write_json
from secateur_cli.figures.cells import summarised
from secateur_cli.figures.names import name_of
from secateur_cli.figures.order import Found, Order
from secateur_cli.report.report import plain
from secateur_onnx.machine import cpu_name

PACKAGES = ("secateur", "torch", "torch-pruning", "numpy", "matplotlib")


def check_folder(folder: Path) -> None:
    """Raise ConfigError where no files can be written to a folder; nothing is made."""
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ConfigError(f"the output folder {folder} cannot be used; choose another with --output")


def caption(name: str, shows: str, found: Found, order: Order) -> str:
    """Return what to write below a figure: what it shows, and what its intervals are."""
    words = [f"{shows[0].upper()}{shows[1:]}."]
    if found.rows and "accuracy" in found.rows[0]:
        images = found.rows[0]["images"]
        if len(order.seeds) > 1:
            words.append(
                f"Means over {len(order.seeds)} seeds, on {images:,} held-out images; 95% intervals over the seeds "
                "(Student's t), or over the images (Wilson's) where those are wider."
            )
        else:
            words.append(f"One seed, with 95% Wilson intervals over its {images:,} held-out images.")
    elif name == "widths" and len(order.seeds) > 1:
        words.append(f"Means over {len(order.seeds)} seeds; bars from the least to the most.")
    note = found.about.get("note")
    if note:
        words.append(f"{note[0].upper()}{note[1:]}.")
    if left := found.about.get("left out"):
        names = ", ".join(map(name_of, left))
        words.append(f"Left out: {names}, which cannot score this network, or too little of it.")
    return " ".join(words)


def record_of(name: str, shows: str, found: Found, order: Order, *, command: str) -> dict[str, Any]:
    """Return a figure's numbers as plain data: what was measured, of what, with what.

    Args:
        name, shows: of the figure.
        found: what was measured.
        order: what was asked for.
        command: what the user gave.

    Returns: plain data; `created` is when the last of its points was measured, and `seconds` how long they took in all,
        so that the same command gives the same again once all is measured.
    """
    points = summarised(found.rows) if found.rows and "accuracy" in found.rows[0] else []
    return {
        "format": 1,
        "figure": name,
        "caption": caption(name, shows, found, order),
        "command": command,
        "smoke": order.smoke,
        **order.facts,
        "seeds": list(order.seeds),
        "at": list(order.at),
        "lines": list(order.lines),
        "until": order.until if points else None,
        "config": order.config.canonical(),
        "versions": {"python": python_version()} | {package: _version(package) for package in PACKAGES},
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "about": dict(found.about),
        "summary": [{**point, "accuracy": asdict(point["accuracy"])} for point in points],
        "rows": [dict(row) for row in found.rows],
    }


def write_numbers(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the rows of a record as NAME.csv, and all of it as NAME.json; each file appears whole or not at all.

    Cells of the CSV that have no value are empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = record["rows"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = folder / f"{record['figure']}.csv"
    with replacing(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    data = folder / f"{record['figure']}.json"
    write_json(data, plain(record))
    return [table, data]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
