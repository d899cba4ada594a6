"""A user's search as an experiment of NNI, whose trials have troubles of every kind; and which processes are NNI's."""

from __future__ import annotations

from pathlib import Path

import psutil

SEARCHING = '''
"""A search over three groups of two channels, in which the last of a step is always the best."""
import torch
from secateur import greedy_plan
from secateur.records import ChannelGroup, Member, ScoreTable
from worths import WEIGHTS, worth

class Channels:
    name, unit = "channels", "channels"
    def __call__(self, widths):
        return float(sum(widths.get(name, 2) for name in WEIGHTS))

groups = {name: ChannelGroup(name, 2, (Member(name, "producer", ((0,), (1,))),)) for name in WEIGHTS}
scores = ScoreTable({name: torch.tensor([1.0, 2.0]) for name in WEIGHTS})

def search(in_trials, budget="67%"):
    return greedy_plan(groups, scores, Channels(), budget, in_trials(worth()), round_to=1)
'''

WORTHS = '''
"""What a candidate is worth, without torch; in trials, some do not survive their first try."""
import os, time
from pathlib import Path

WEIGHTS = {"a": 0.5, "b": 0.1, "c": 0.3}

def worth():
    return lambda kept: 1.0 - sum(WEIGHTS[name] * (2 - len(channels)) for name, channels in kept.items())

def troubled():
    def of(kept):
        first = Path(f"tried-{'-'.join(sorted(kept))}")
        if not first.exists():
            first.touch()
            if sorted(kept) == ["a"]:
                os._exit(3)
            if sorted(kept) == ["c"]:
                time.sleep(1000)
        return worth()(kept)
    return of

def hopeless():
    def of(kept):
        raise MemoryError(f"no memory for {sorted(kept)}")
    return of
'''

EXPERIMENT = """
experimentName: three_groups
trialCommand: {command}
trialConcurrency: {concurrency}
searchSpace: {{}}
tuner:
  name: SecateurGreedy
  classArgs: {{search: "searching:search", output: out, timeout: {timeout}, retries: {retries}}}
trainingService: {{platform: local}}
"""


MARK = "SECATEUR_TEST"


def processes_of(mark: str) -> dict[int, str]:
    """Return the processes that were started with this mark in their environment: process id -> command."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def write_experiment(
    folder: Path, worth: str, *, concurrency: int = 1, timeout: float = 60, retries: int = 2, before: str = ""
) -> Path:
    """Write experiment.yml, whose trials judge a candidate by `worth` after the shell command `before`."""
    command = f"{before}python -m secateur_nni.experiments.candidate worths:{worth}"
    text = EXPERIMENT.format(command=command, concurrency=concurrency, timeout=timeout, retries=retries)
    path = folder / "experiment.yml"
    path.write_text(text, encoding="utf-8")
    return path
