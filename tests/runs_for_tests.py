"""A whole run in two seconds: the network, data and configuration of a user, written to a folder of theirs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from typer.testing import CliRunner

from secateur.findings import Finding
from secateur_cli.doctor.examination import Examination
from secateur_cli.doctor.network_findings import diagnose_network
from secateur_cli.main import app
from secateur_cli.progress import Progress
from secateur_cli.settings.config import load_config
from secateur_cli.settings.schema import Search
from secateur_cli.stages.pipeline import run_job

Finished = tuple[Path, dict[str, Any]]  # the folder and the report of a run
NETWORKS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.drop = nn.Conv2d(8, 16, 3, padding=1), nn.Dropout(0.2)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.head(self.drop(x.mean((2, 3))))

class Plain(Small):
    def __init__(self):
        super().__init__()
        self.norm = nn.Identity()

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.outer, self.outer_norm = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = torch.relu(x + self.outer_norm(self.outer(torch.relu(self.inner_norm(self.inner(x))))))
        return self.head(x.mean((2, 3)))

class Flat(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 3))
"""

DATA = """
import torch
from torch.utils.data import DataLoader, TensorDataset

def images(count, seed):
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    inputs = 0.3 * torch.randn(count, 1, 8, 8, generator=random)
    for image, label in zip(inputs, labels.tolist()):
        image[0, :, 2 * label] += 1.5
    return inputs, labels

def batches(count, seed, size=16):
    return list(zip(*(part.split(size) for part in images(count, seed))))

def load():
    train = DataLoader(TensorDataset(*images(64, 0)), batch_size=16, shuffle=True)
    return {"train": train, "validation": batches(32, 1), "test": batches(48, 2), "classes": 3}
"""

CONFIG = """
network: {build: secateur_user_networks:Small}
data: {source: secateur_user_data:load}
train: {epochs: 2, learning_rate: 0.05}
plan: {search: uniform, budget: {macs: 50%}, round_to: 2, worth: {images: 32}, delta: 0.1}
fine_tune: {epochs: 1}
onnx: {batch_sizes: [1], seconds: 0.05}
threads: 1
"""


@dataclass(frozen=True)
class User:
    """A folder with what a user has written."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "run.yaml"

    def call(self, output: Path, *settings: str, search: Search = "uniform") -> dict[str, Any]:
        """Run in this process, as the command does, and return the report."""
        config = load_config(self.config, overrides=settings)
        progress = Progress(Console(file=io.StringIO()))
        return run_job(config, search, folder=self.folder, output=output, progress=progress)

    def command(
        self,
        output: Path,
        *settings: str,
        name: str = "run",
        flags: tuple[str, ...] = (),
        config: Path | None = None,
        columns: int = 80,
    ) -> tuple[int, str, str]:
        """Give the command, in this process; return the exit code and what it printed and complained."""
        changes = [word for setting in settings for word in ("--set", setting)]
        return give(name, str(config or self.config), "--output", str(output), *changes, *flags, columns=columns)


def give(*words: str, columns: int = 80) -> tuple[int, str, str]:
    """Give a command, in this process; return the exit code and what it printed and complained."""
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": str(columns)})
    return done.exit_code, done.stdout, done.stderr


def examine(user: User, *settings: str, seconds: float = 60.0) -> dict[str, Finding]:
    """Return what the doctor finds in the network, by the names of the checks."""
    job = Examination(user.config, Progress(Console(file=io.StringIO())), overrides=settings)
    return {finding.check: finding for finding in diagnose_network(job, seconds=seconds)}


def write_user(folder: Path) -> User:
    """Write the modules and the configuration to `folder`."""
    for name, text in {
        "secateur_user_networks.py": NETWORKS,
        "secateur_user_data.py": DATA,
        "run.yaml": CONFIG,
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    return User(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder` with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


RESULTS = (
    "plan.json", "model.safetensors", "stages/dense.safetensors", "stages/scores.json", "stages/plan.json",
    "stages/recovered.safetensors",
)  # fmt: skip


def results(folder: Path) -> dict[str, bytes]:
    """Return the files that the seed alone decides."""
    return {name: data for name, data in contents(folder).items() if name in RESULTS}


def assert_same_end(output: Path, report: dict[str, Any], finished: Finished) -> None:
    """The results that the seed decides are those of the undisturbed run, byte for byte."""
    undisturbed, expected = finished
    assert results(output) == results(undisturbed)
    assert [path for path in contents(output) if path.endswith((".tmp", ".part"))] == []
    assert report["accuracy"] == expected["accuracy"]
    assert report["plan"] == expected["plan"]
    assert report["cost"] == expected["cost"]
    for side in ("dense", "pruned"):
        assert report["onnx"][side]["file_bytes"] == expected["onnx"][side]["file_bytes"]
