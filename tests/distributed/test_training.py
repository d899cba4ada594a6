"""Two processes train as one does at the same global batch, and stay in step when one of them fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import processes_for_tests as work
import processes_training_for_tests as training
from processes_for_tests import Processes
from secateur.errors import DataError, ProcessError


@pytest.mark.parametrize("uneven", [False, True])
def test_two_processes_give_the_loss_curve_of_one(processes: Processes, uneven: bool) -> None:
    losses, accuracies, weights = training.train(0, 1)
    one, other = processes.run(training.train, 2, uneven)
    assert one == other
    assert one[0] == pytest.approx(losses, rel=1e-5)
    assert one[1] == accuracies
    assert one[2] == pytest.approx(weights, rel=1e-4, abs=1e-6)
    assert losses[-1] < losses[0] * 0.9


def test_two_processes_go_on_from_a_checkpoint_to_the_same_numbers(processes: Processes, tmp_path: Path) -> None:
    file = str(tmp_path / "run.safetensors")
    whole = processes.run(training.train, 2)
    assert all(isinstance(error, InterruptedError) for error in processes.run(training.train, 2, False, file, 5))
    assert processes.run(training.train, 2, False, file) == whole
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]


def test_batch_norm_ends_everywhere_with_the_mean_of_the_statistics(processes: Processes) -> None:
    one, other = processes.run(training.train_with_batch_norm)
    assert one == other
    norms = [nn.BatchNorm2d(3), nn.BatchNorm2d(3)]
    for rank, norm in enumerate(norms):
        for inputs, _ in training.batches_of(rank, 2) * 3:
            norm(inputs)
    for name in ("running_mean", "running_var"):
        expected = torch.stack([getattr(norm, name) for norm in norms]).mean(0)
        assert one[1][f"0.{name}"] == pytest.approx(expected.tolist(), rel=1e-5)


def test_all_hear_of_what_one_does_wrong_and_go_on(processes: Processes) -> None:
    for error in processes.run(training.train_badly, "batches"):
        assert isinstance(error, DataError)
        assert "the processes have 2, 1 batches of an epoch" in str(error)
    one, other = processes.run(training.train_badly, "labels")
    assert isinstance(one, ProcessError)
    assert "process 1 failed: DataError: labels must lie in 0..4" in str(one)
    assert isinstance(other, DataError)
    for error in processes.run(training.train_badly, "network"):
        assert isinstance(error, ProcessError)
        assert "process 1 differs from process 0 in: weights" in str(error)
    for error in processes.run(training.train_badly, "diverges"):
        assert isinstance(error, DataError)
        assert "diverged" in str(error)
    assert processes.run(work.find_ranks) == [[0, 10], [0, 10]]


def test_a_process_that_ends_is_missed(tmp_path: Path) -> None:
    with Processes(tmp_path) as running:
        error = running.run(training.die_while_training)[0]
    assert isinstance(error, ProcessError), error
    assert "another process has ended" in str(error)


def test_two_processes_merge_the_clusters_of_one(processes: Processes) -> None:
    clusters, weights = training.merge_clusters(0, 1)
    one, other = processes.run(training.merge_clusters, 2)
    assert one == other
    assert one[0] == clusters
    assert one[1] == pytest.approx(weights, rel=1e-3, abs=1e-4)


def test_networks_in_data_parallel_are_pruned_layer_by_layer_and_teach(processes: Processes) -> None:
    one, other = processes.run(training.prune_layers_of_wrapped)
    assert one == other
    assert one[0] == 3
