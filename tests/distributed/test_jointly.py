"""Processes exchange what they found or how they failed, stay in step, and never wait for ever."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import processes_for_tests as work
from processes_for_tests import Processes
from secateur.distributed import jointly, part_of
from secateur.errors import ConfigError, ProcessError


def test_alone_is_the_part_itself() -> None:
    assert jointly(lambda: 3, None, what="three") == [3]
    with pytest.raises(ZeroDivisionError):
        jointly(lambda: 1 // 0, None, what="nothing")
    assert part_of(100, None, batch_size=8) == 100


def test_every_process_gets_the_parts_of_all_by_rank(processes: Processes) -> None:
    assert processes.run(work.find_ranks) == [[0, 10], [0, 10]]


def test_what_fails_in_one_process_is_told_to_all_and_they_go_on(processes: Processes) -> None:
    inputs, labels = work.images()
    one, other = processes.run(work.fail_and_go_on)
    assert one[0] == (
        "ProcessError: the accuracy: process 1 failed: DataError: labels must lie in 0..4, the outputs of the network; "
        "found 0..77"
    )
    assert other[0] == "DataError: labels must lie in 0..4, the outputs of the network; found 0..77"
    assert one[1] == other[1] == work.accuracy(work.network(), [(inputs, labels)])


def test_what_cannot_be_sent_is_the_failure_of_its_process(processes: Processes) -> None:
    one, other = processes.run(work.send_what_cannot_be_sent)
    assert isinstance(one, ProcessError)
    assert "process 1 failed" in str(one)
    assert "pickle" in str(one)
    assert "pickle" in str(other)
    assert processes.run(work.find_ranks) == [[0, 10], [0, 10]]


def test_processes_that_hold_other_networks_or_want_something_else_are_told_so(processes: Processes) -> None:
    for error in processes.run(work.find_accuracy_of_different_networks):
        assert isinstance(error, ProcessError)
        assert "the accuracy: process 1 differs from process 0 in: weights;" in str(error)
    for error in processes.run(work.find_accuracy_of_different_structures):
        assert isinstance(error, ProcessError)
        assert "process 0 in: structure of the network, weights;" in str(error)
    for error in processes.run(work.find_something_else):
        assert str(error) == "process 0 wants the accuracy, process 1 wants scores by 'hrank'"


def test_a_group_must_hold_this_process(processes: Processes) -> None:
    one, other = processes.run(work.ask_a_group_of_others)
    assert one == [0]
    assert isinstance(other, ConfigError)
    assert "that this process belongs to" in str(other)


@pytest.mark.parametrize(
    ("samples", "batch_size", "parts"),
    [
        (10, None, [5, 5]),
        (11, None, [6, 5]),
        (1, None, [1, 0]),
        (1280, 128, [640, 640]),
        (1000, 128, [512, 384]),
        (100, 128, [100, 0]),
    ],
)
def test_parts_are_equal_and_in_whole_batches(
    processes: Processes, samples: int, batch_size: int | None, parts: list[int]
) -> None:
    assert processes.run(work.find_parts, samples, batch_size) == parts


def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    """One process comes later than its group's timeout, then it ends, which is noticed long before any timeout."""
    with Processes(tmp_path) as running:
        for function in (work.dawdle, work.die):
            assert running.run(work.find_ranks) == [[0, 10], [0, 10]]
            start = time.monotonic()
            error = running.run(function)[0]
            assert time.monotonic() - start < 20
            assert isinstance(error, ProcessError), error
            assert "the ranks: another process has ended, or is later than the timeout" in str(error)
