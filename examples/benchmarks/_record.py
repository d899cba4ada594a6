"""What benchmarks over seeds share: figures in a file of lines, which several processes may write, and their table."""

from __future__ import annotations

import argparse
import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from secateur_cli.intervals import mean

USUAL = "bfloat16"  # what was trained in where a stage names no precision


@dataclass
class Record:
    """The figures by seed, row and stage: the key of a row is the seed, a space, and the row's name."""

    path: Path
    device: str = "cpu"
    rows: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for line in self.path.read_text().splitlines() if self.path.is_file() else ():
            entry = json.loads(line)
            self.rows.setdefault(entry["row"], {})[entry["stage"]] = entry["value"]

    def put(self, key: str, stage: str, value: float) -> None:
        self.rows.setdefault(key, {})[stage] = value
        where = {"torch": torch.__version__, "device": self.device}
        entry = {"row": key, "stage": stage, "value": round(value, 4), **where}
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(f"seed {key}: {stage} {value:.2f}", flush=True)

    def of(self, key: str) -> dict[str, float]:
        return self.rows.get(key, {})

    def over_seeds(self, name: str, stage: str) -> list[float]:
        return [row[stage] for key, row in self.rows.items() if key.partition(" ")[2] == name and stage in row]


def record_of(given: argparse.Namespace, default: Path) -> Path:
    """Return the file that is named, else the default; of a smoke run one that is not there yet and goes at its end."""
    if given.record is not None or not given.smoke:
        return given.record or default
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    return Path(folder) / "smoke.jsonl"


def stage_of(epochs: int, precision: str, *, usual: int, images: int | None = None) -> str:
    """Return under which name the accuracy after a training is recorded.

    In it is what differs from the rows that came first: another number of epochs than the `usual` one, fewer images in
    an epoch, another precision than bfloat16.
    """
    length = "" if epochs == usual else f" {epochs}x"
    return "trained" + length + (f" {images:,}" if images else "") + ("" if precision == USUAL else f" in {precision}")


def trainings(record: Record) -> list[str]:
    """Return the names of all trainings that are recorded."""
    return sorted({stage for row in record.rows.values() for stage in row if stage.startswith("trained")})


def table(record: Record, names: Sequence[str], stages: Sequence[str], *, counts: Sequence[str] = ()) -> None:
    """Print the mean over the seeds and half of its 95% t-interval; of `counts`, before the stages, the mean alone."""
    width = max([40, *(len(name) + 2 for name in names)])
    wide = max([16, *(len(stage) + 2 for stage in stages)])
    print(f"\n{'':{width}}" + "".join(f"{c:>9}" for c in counts) + "".join(f"{stage:>{wide}}" for stage in stages))
    for name in names:
        cells = [f"{_mean(record.over_seeds(name, count), reach=False):>9}" for count in counts]
        cells += [f"{_mean(record.over_seeds(name, stage), reach=True):>{wide}}" for stage in stages]
        print(f"{name:{width}}" + "".join(cells))


def _mean(values: list[float], *, reach: bool) -> str:
    found = mean(values)
    if found is None:
        return ""
    spread = "" if found.reach is None or not reach else f" ±{found.reach:.2f}"
    return f"{found.value:.{2 if reach else 0}f}{spread}"


def part(text: str) -> tuple[int, int]:
    """Return the number, from 0, and the count of the parts in "K/N"."""
    number, _, parts = text.partition("/")
    if not 1 <= int(number) <= int(parts):
        raise ValueError(text)
    return int(number) - 1, int(parts)
