"""A run that was killed goes on from its checkpoint to the same numbers, bit for bit, or says why it cannot."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from secateur.errors import CheckpointError, DataError
from secateur.records import PruningPlan
from secateur.training import Epoch, History, fine_tune, snapshots
from secateur.training.random_states import random_states, restore_random_states
from training_for_tests import blobs, net, same, state

WAYS: list[dict[str, Any]] = [
    {"average": 0.9, "mixup": 0.3, "clip_norm": 1.0},
    {"optimizer": "adamw", "learning_rate": 0.01, "schedule": "steps", "milestones": (2.5,), "recalibrate": 40},
    {"distillation": 0.5, "precision": "bfloat16"},
    {"precision": "float16", "clip_norm": 1.0},
]


class Noisy:
    """Batches with noise from the generators of numpy and Python, in an order from torch's or from its own.

    Of the kind "miscounted" there is one more than its length says, as of iterable data sets with several workers.
    """

    def __init__(self, kind: str) -> None:
        data = TensorDataset(*(torch.cat(part) for part in zip(*blobs(), strict=True)))
        own = torch.Generator().manual_seed(5) if kind == "own" else None
        self._loader = DataLoader(data, batch_size=16, shuffle=True, generator=own)
        self.generator = own
        self._length = len(self._loader) - (kind == "miscounted")

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, labels in self._loader:
            yield inputs + random.random() + float(np.random.rand()), labels


def run(
    *, kind: str = "global", stop: int | None = None, way: dict[str, Any], **options: Any
) -> tuple[nn.Module, History]:
    """Train for four epochs, or until `stop` steps are done."""
    random.seed(3)
    np.random.seed(3)
    model, teacher = net(), net(seed=1) if "distillation" in way else None

    def step(done: int, _total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    settings = {"epochs": 4, "learning_rate": 0.2} | way
    return model, fine_tune(model, Noisy(kind), blobs(), teacher=teacher, on_step=step, **settings, **options)


def without_times(history: History) -> list[tuple[int, float, float | None]]:
    return [(e.number, e.loss, e.accuracy) for e in history.epochs]


@pytest.mark.parametrize("way", WAYS, ids=["average", "adamw", "teacher", "float16"])
@pytest.mark.parametrize("kind", ["global", "own", "miscounted"])
def test_a_run_that_was_stopped_ends_in_the_same_numbers(tmp_path: Path, way: dict[str, Any], kind: str) -> None:
    file = tmp_path / "run.safetensors"
    model, history = run(kind=kind, way=way)
    for stop in (2, 7, 14):  # in the first epoch, in the middle of the second, and of the fourth
        with pytest.raises(KeyboardInterrupt):
            run(kind=kind, way=way, stop=stop, checkpoint=file)
    random.seed(99)
    resumed, again = run(kind=kind, way=way, checkpoint=file)
    assert same(resumed, state(model))
    assert without_times(again) == without_times(history)
    assert again.chosen == history.chosen
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    done, at_once = run(kind=kind, way=way, checkpoint=file, stop=1)  # takes no step any more
    assert same(done, state(model))
    assert at_once == again


def test_the_scale_of_the_loss_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is so large at first that steps are left out until it has come down."""
    large = {"init_scale": 2.0**24}
    monkeypatch.setattr(
        "secateur.training.steps.scaler_of", lambda device, _: torch.amp.GradScaler(device.type, **large)
    )
    way, file = {"precision": "float16"}, tmp_path / "run.safetensors"
    whole, _ = run(way=way)
    with pytest.raises(KeyboardInterrupt):
        run(way=way, stop=14, checkpoint=file)
    assert same(run(way=way, checkpoint=file)[0], state(whole))


def test_sigkill_at_any_time(tmp_path: Path) -> None:
    """The process is killed while it trains and writes; the next one goes on, and ends as one that was left alone."""
    file, seen = tmp_path / "run.safetensors", tmp_path / "seen"
    code = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from secateur.training import fine_tune
from training_for_tests import blobs, net
torch.set_num_threads(1)
def tell(epoch): open({str(seen)!r}, "a").write(f"{{epoch.number}}\\n")
fine_tune(net(), blobs(), blobs(), epochs=100, learning_rate=0.01, checkpoint={str(file)!r}, on_epoch=tell)
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ))
    try:
        deadline = time.monotonic() + 60
        while not (seen.exists() and len(seen.read_text().splitlines()) >= 5):
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    epochs: list[Epoch] = []
    resumed, whole = net(), net()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fine_tune(resumed, blobs(), blobs(), epochs=100, learning_rate=0.01, checkpoint=file, on_epoch=epochs.append)
        fine_tune(whole, blobs(), blobs(), epochs=100, learning_rate=0.01)
    finally:
        torch.set_num_threads(threads)
    assert [e.number for e in epochs] == list(range(1, 101))
    assert same(resumed, state(whole))


def test_the_checkpoint_is_that_of_the_last_good_epoch(tmp_path: Path) -> None:
    file, model, good = tmp_path / "run.safetensors", nn.Sequential(nn.Linear(2, 3)), list[bytes]()

    def poison(epoch: Epoch) -> None:
        good.append(file.read_bytes())
        if epoch.number == 2:
            with torch.no_grad():
                model[0].weight[0] = torch.inf

    with pytest.raises(DataError, match="at step 7 of 12"):
        fine_tune(model, blobs(), epochs=4, on_epoch=poison, checkpoint=file)
    assert file.read_bytes() == good[1]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    fine_tune(net(), blobs(), epochs=1, checkpoint=file)
    before = file.read_bytes()
    wider = nn.Sequential(nn.Linear(2, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.1), nn.Linear(9, 3))
    cases: list[tuple[nn.Module, dict[str, Any], str]] = [
        (wider, {}, "structure of the network was"),
        (net(seed=1), {}, "weights at the start was"),
        (net(), {"learning_rate": 0.5}, "learning_rate was 0.01, is 0.5"),
        (net(), {"teacher": net(seed=1)}, "teacher was None"),
        (net(), {"plan": PruningPlan((), {}, "none", 0.0, 0.0, 0.0)}, "plan was None, is '"),
        (net(), {"freeze": {"0": [1]}}, r"frozen filters was \{\}, is \{'0': \[1\]\}"),
    ]
    for model, changes, words in cases:
        untouched = state(model)
        with pytest.raises(CheckpointError, match=words):
            fine_tune(model, blobs(), epochs=1, checkpoint=file, **changes)
        assert same(model, untouched)
        assert file.read_bytes() == before


def test_every_generator_goes_on_where_it_was() -> None:
    data = range(6)
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(5))
    loader, cpu = DataLoader(data, batch_sampler=BatchSampler(sampler, 2, False)), torch.device("cpu")

    def draws() -> tuple[list[list[int]], float, float]:
        return [batch.tolist() for batch in loader], np.random.randn(), random.gauss(0, 1)

    draws()  # and the second number of each pair of normal ones is held back
    states = random_states(loader, cpu)
    first = draws()
    restore_random_states(states, loader, cpu)
    assert draws() == first


def test_a_checkpoint_in_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "FORMAT", 1)
        fine_tune(net(), blobs(), epochs=1, checkpoint=file)
    with pytest.raises(CheckpointError, match="has format 1; this version reads format 2"):
        fine_tune(net(), blobs(), epochs=1, checkpoint=file)


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    other, cut, text = tmp_path / "other.safetensors", tmp_path / "cut.safetensors", tmp_path / "text.safetensors"
    save_file({"weight": torch.ones(2)}, other)
    fine_tune(net(), blobs(), epochs=1, checkpoint=cut)
    cut.write_bytes(cut.read_bytes()[:-20])
    text.write_text("{}")
    for file, words in ((other, "no checkpoint of a training run"), (cut, "truncated"), (text, "not a safetensors")):
        with pytest.raises(CheckpointError, match=words):
            fine_tune(net(), blobs(), epochs=1, checkpoint=file)
