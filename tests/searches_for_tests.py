"""A real search of a small network that keeps a journal, killed again and again.

The evaluation counts itself in a file to which every process adds: one byte for each candidate that it begins to judge
to the end. `python searches_for_tests.py KIND FOLDER KILLS`
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from secateur.channel_graph import channel_groups
from secateur.cost import MacsCost
from secateur.evaluation import CandidateWorth, MaskedAccuracy
from secateur.files import write_json
from secateur.journal import Journal, identify
from secateur.protocols import Evaluate, Kept, Worth
from secateur.records import ScoreTable
from secateur.search import greedy_plan

CHUNKS = 3


class Counted:
    """The accuracy of a candidate; every candidate judged is counted."""

    def __init__(self, accuracy: MaskedAccuracy, count: Path) -> None:
        self.accuracy = accuracy
        self.count = count
        self.settings = {"measure": "accuracy"}

    def __call__(self, kept: Kept) -> float:
        with self.count.open("ab") as file:
            file.write(b".")
        return self.accuracy(kept)


class Racing:
    """A race of candidates; every one that is judged to the end is counted."""

    def __init__(self, worth: CandidateWorth, count: Path) -> None:
        self.worth = worth
        self.count = count
        self.settings = worth.settings

    def __call__(self, kept: Kept) -> float:
        return self.race([kept])[0].value

    def race(
        self,
        candidates: Sequence[Kept],
        *,
        known: Mapping[int, Worth] | None = None,
        record: Callable[[int, Worth], None] = lambda idx, worth: None,
    ) -> list[Worth]:
        def counted(idx: int, worth: Worth) -> None:
            if worth.exact:
                with self.count.open("ab") as file:
                    file.write(b".")
            record(idx, worth)

        return self.worth.race(candidates, known=known or {}, record=counted)


def make_network() -> nn.Module:
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    for before, after in ((1, 12), (12, 12), (12, 12), (12, 12)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)).eval()


def prepare(kind: str) -> Callable[[Path], None]:
    """Return a search that keeps its journal, its count and its plan in a folder."""
    net = make_network()
    images = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        net[-1].bias -= net(images).mean(0)  # so that each class is met
        labels = net(images).argmax(1)
    batches = list(zip(images.split(16), labels.split(16), strict=True))
    groups = channel_groups(net, images[:2])
    table = ScoreTable({name: torch.randperm(group.width).double() for name, group in groups.items()})
    cost = MacsCost(net, images[:2], groups)
    identity = identify(net, groups, batches, seed=3, settings={"kind": kind})
    masked = MaskedAccuracy(net, groups, batches)
    race = CandidateWorth(net, groups, batches, chunk=8)

    def search(folder: Path) -> None:
        count = folder / "count"
        inner: Evaluate = Counted(masked, count) if kind == "one by one" else Racing(race, count)
        with Journal.open(folder / "journal.sqlite", identity) as journal:
            plan = greedy_plan(
                groups,
                journal.scores("random", lambda: table),
                cost,
                "40%",
                journal.remembering(inner),
                delta=0.02,
                on_step=journal.decided,
                round_to=1,
            )
            journal.finished(plan)
        write_json(folder / "plan.json", plan.to_json())

    return search


def fork(work: Callable[[], None]) -> int:
    """Begin the work in a process of its own; return its id once it has begun."""
    told, tell = os.pipe()
    process = os.fork()
    if not process:
        try:
            os.write(tell, b".")
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.read(told, 1)
    os.close(told)
    os.close(tell)
    return process


def ended(process: int) -> bool:
    """Wait for a process; return whether it came to its end and was not killed before."""
    status = os.waitpid(process, 0)[1]
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
        raise RuntimeError("the search failed")
    return not os.WIFSIGNALED(status)


def killed(search: Callable[[Path], None], folder: Path, moments: Sequence[float]) -> int:
    """Begin a search again and again, each killed after so many seconds, the last not; return how many were."""
    for number, seconds in enumerate(moments):
        process = fork(lambda: search(folder))
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
        if ended(process):
            return number
    ended(fork(lambda: search(folder)))
    return len(moments)


def main(kind: str, folder: Path, kills: int) -> None:
    """Search undisturbed, twice at once on one journal, and killed at random moments, anew until there were so many."""
    torch.set_num_threads(1)
    search, dice, number = prepare(kind), random.Random(kind), 0
    for name in ("undisturbed", "together"):
        (folder / name).mkdir()
    begun = time.monotonic()
    ended(fork(lambda: search(folder / "undisturbed")))
    length = time.monotonic() - begun
    for process in [fork(lambda: search(folder / "together")) for _ in range(2)]:
        ended(process)
    while kills:
        number += 1
        here = folder / f"killed-{number}"
        here.mkdir()
        times = killed(search, here, [dice.uniform(0, length / 5) for _ in range(kills)])
        (here / "kills").write_text(str(times))
        kills -= times


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
