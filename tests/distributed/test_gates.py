"""Two processes learn the gates that one learns at the same global batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import processes_for_tests as work
import processes_training_for_tests as training
from processes_for_tests import Processes
from secateur.errors import DataError

WAYS: list[dict[str, Any]] = [{}, {"stages": [["0"], ["3"]]}, {"batch_average": False, "binarise": False}]


@pytest.mark.parametrize("way", WAYS, ids=["all", "layer by layer", "a code an image"])
def test_two_processes_learn_the_codes_of_one(processes: Processes, way: dict[str, Any]) -> None:
    codes, kept, losses, weights = training.learn_gates(0, 1, way)
    one, other = processes.run(training.learn_gates, 2, way)
    assert one == other
    for name, code in codes.items():
        assert one[0][name] == pytest.approx(code, abs=1e-4)
    assert one[1] == kept
    assert one[2] == pytest.approx(losses, rel=1e-4)
    assert one[3] == pytest.approx(weights, rel=1e-2, abs=1e-4)


def test_in_half_the_bits_the_processes_agree(processes: Processes) -> None:
    """Not with one process: they round sums of other images."""
    one, other = processes.run(training.learn_gates, 2, {"precision": "float16", "epochs": 1})
    assert one == other


def test_two_processes_go_on_from_a_checkpoint_to_the_same_numbers(processes: Processes, tmp_path: Path) -> None:
    file, stages = str(tmp_path / "gates.safetensors"), WAYS[1]
    whole = processes.run(training.learn_gates, 2, stages)
    assert all(isinstance(e, InterruptedError) for e in processes.run(training.learn_gates, 2, stages, file, 55))
    assert processes.run(training.learn_gates, 2, stages, file) == whole


def test_all_hear_of_what_goes_wrong(processes: Processes) -> None:
    for error in processes.run(training.learn_gates_badly, "batches"):
        assert isinstance(error, DataError)
        assert "the processes have 4, 2 batches of an epoch" in str(error)
    for error in processes.run(training.learn_gates_badly, "diverges"):
        assert isinstance(error, DataError)
        assert "training diverged" in str(error)
    assert processes.run(work.find_ranks) == [[0, 10], [0, 10]]
