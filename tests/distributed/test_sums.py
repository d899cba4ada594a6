"""Accuracy, scores and a whole search of two processes, each with a share of the images, are those of one with all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import processes_for_tests as work
import processes_summing_for_tests as summing
from processes_for_tests import Processes
from secateur import channel_groups, gradient_scores, recalibrate_batch_norm, reconstruction_scores
from secateur.criteria import CRITERIA, criterion, gradient_criterion
from secateur.errors import ConfigError, DataError, NetworkError, ProcessError
from secateur.feature_maps import collect_scores
from secateur.scoring import scores_by_name

SHARES = ("even", "uneven", "empty")


def table(json: dict[str, Any]) -> dict[str, Tensor]:
    return {layer: torch.tensor(scores, dtype=torch.float64) for layer, scores in json["scores"].items()}


@pytest.mark.parametrize("shares", SHARES)
def test_accuracy_is_exactly_that_of_one_process(processes: Processes, shares: str) -> None:
    found = processes.run(work.find_accuracy, shares)
    expected = work.accuracy(work.network(), [work.images()])
    assert found == [expected, expected]
    assert 0.5 < expected < 1


def test_a_wrapped_network_does_not_wait_in_its_forward_pass(processes: Processes) -> None:
    expected = work.accuracy(work.network(), [work.images()])
    assert processes.run(work.find_accuracy_of_wrapped, "uneven") == [expected, expected]


def test_no_image_anywhere_is_refused_by_all(processes: Processes) -> None:
    for error in processes.run(work.find_accuracy, "none"):
        assert isinstance(error, DataError)
        assert "there are no images to evaluate on" in str(error)
    for error in processes.run(summing.find_scores, "hrank", "none", {}):
        assert isinstance(error, DataError)
        assert "there is no image to read" in str(error)


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("name", sorted(name for name in CRITERIA if criterion(name).batch_size is None))
def test_scores_are_those_of_one_process(processes: Processes, name: str, shares: str) -> None:
    one, other = processes.run(summing.find_scores, name, shares, {})
    alone = collect_scores(work.network(), [work.images()], name).to_json()
    assert one == other
    assert one["settings"] == alone["settings"]
    for layer, expected in table(alone).items():
        tolerance = 0 if name == "hrank" else 1e-12
        torch.testing.assert_close(table(one)[layer], expected, rtol=tolerance, atol=tolerance)


def test_batches_of_one_size_are_made_within_each_share(processes: Processes) -> None:
    """24 images each: two batches of 10, and a rest of 4 that is left out."""
    one, other = processes.run(summing.find_scores, "di", "halves", {"batch_size": 10})
    inputs, labels = work.images()
    used = torch.cat([torch.arange(20), torch.arange(24, 44)])
    alone = collect_scores(work.network(), [(inputs[used], labels[used])], criterion("di", batch_size=10)).to_json()
    assert one == other
    assert one["settings"] == alone["settings"]
    assert one["settings"]["samples"] == 40
    for layer, expected in table(alone).items():
        torch.testing.assert_close(table(one)[layer], expected, rtol=1e-12, atol=1e-12)


def test_batches_of_several_sizes_are_refused_where_the_size_counts(processes: Processes) -> None:
    for error in processes.run(summing.find_scores, "di", "uneven", {"batch_size": 8}):
        assert isinstance(error, DataError)
        assert "they hold 6 in process 0, 8 in process 1 images" in str(error)
    one, other = processes.run(summing.find_scores, "di", "even", {"batch_size": 128})  # one batch of 24 in each
    assert one == other
    assert one["settings"]["batch_size"] == 24


def test_samples_are_shared_out(processes: Processes) -> None:
    one, other = processes.run(summing.find_scores, "hrank", "even", {}, 21)
    inputs, _ = work.images()
    alone = collect_scores(work.network(), [inputs], "hrank", samples=21).to_json()
    assert one == other == alone  # every second image each: together the first 21
    one, other = processes.run(summing.find_scores, "hrank", "even", {}, 1)  # nothing is left for the second process
    assert one == other
    assert one["settings"]["samples"] == 1


@pytest.mark.parametrize("shares", ["halves", "empty"])
def test_gradients_are_averaged_over_the_batches_of_all(processes: Processes, shares: str) -> None:
    one, other = processes.run(summing.find_scores_by_name, "taylor", shares, {"batch_size": 8})
    alone = gradient_scores(work.network(), [work.images()], gradient_criterion("taylor", batch_size=8)).to_json()
    assert one == other
    assert one["settings"] == alone["settings"]
    for layer, expected in table(alone).items():
        torch.testing.assert_close(table(one)[layer], expected, rtol=1e-5, atol=0)  # gradients are float32


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("options", [{}, {"labels": 0.3, "relative": False}], ids=["outputs", "classes"])
@pytest.mark.filterwarnings("ignore:fewer rows")
def test_equations_of_the_readers_add_up(processes: Processes, options: dict[str, Any], shares: str) -> None:
    """Every position is read, so that nothing is drawn."""
    one, other = processes.run(summing.find_scores_by_name, "reconstruction", shares, options)
    model, (inputs, labels) = work.network(), work.images()
    alone = reconstruction_scores(model, channel_groups(model, inputs[:2]), [(inputs, labels)], **options).to_json()
    assert one == other
    assert one["settings"] == alone["settings"]
    for layer, expected in table(alone).items():
        torch.testing.assert_close(table(one)[layer], expected, rtol=1e-5, atol=0)  # outputs are float32


def test_missing_labels_are_told_to_all(processes: Processes) -> None:
    one, other = processes.run(summing.find_scores_without_labels)
    assert isinstance(one, ProcessError)
    assert "process 1 failed: DataError: labels=0.5 reads labels" in str(one)
    assert isinstance(other, DataError)


@pytest.mark.parametrize("name", ["l1", "bn_scale"])
def test_criteria_over_weights_need_the_images_of_one_process_at_most(processes: Processes, name: str) -> None:
    one, other = processes.run(summing.find_scores_by_name, name, "empty", {})
    assert one == other == scores_by_name(work.network(), [work.images()], name).to_json()


@pytest.mark.parametrize("shares", ["halves", "empty"])
def test_batch_norm_gets_the_mean_over_the_batches_of_all(processes: Processes, shares: str) -> None:
    one, other = processes.run(summing.recalibrate, shares, 8)
    model, (inputs, _) = work.network(), work.images()
    count = recalibrate_batch_norm(model, inputs.split(8))
    assert one == other
    assert one[0] == count == work.IMAGES
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(torch.tensor(one[1][name], dtype=buffer.dtype), buffer, rtol=1e-5, atol=1e-6)


def test_batches_of_several_sizes_recalibrate_nothing(processes: Processes) -> None:
    for error in processes.run(summing.recalibrate, "uneven", 12):
        assert isinstance(error, DataError)
        assert "they hold 6 in process 0, 12 in process 1 images" in str(error)


def test_what_does_not_go_together_is_refused(processes: Processes) -> None:
    for error in processes.run(summing.find_scores_of_sizes, (8, 10)):
        assert isinstance(error, DataError)
        assert "(3, 8, 8) in process 0, (3, 10, 10) in process 1" in str(error)
    for error in processes.run(summing.find_scores_by_different_options):
        assert isinstance(error, ProcessError)
        assert "process 1 differs from process 0 in: options;" in str(error)
    for error in processes.run(summing.find_scores_by_what_does_not_add_up):
        assert isinstance(error, ConfigError)
        assert "the criterion 'last' has no merge(state, other)" in str(error)
    for error in processes.run(summing.recalibrate_what_adds_up_by_itself):
        assert isinstance(error, ConfigError)
        assert "a SyncBatchNorm adds up over processes by itself" in str(error)
    one, other = processes.run(summing.find_scores_of_a_layer_that_one_has)
    assert isinstance(one, ProcessError)
    assert "process 1 failed: NetworkError" in str(one)
    assert isinstance(other, NetworkError)


@pytest.mark.parametrize("shares", ["even", "uneven", "empty"])
def test_a_whole_greedy_search_finds_the_plan_of_one_process(processes: Processes, shares: str) -> None:
    one, other = processes.run(summing.search, shares)
    inputs, _ = work.images()
    alone = summing.plan_of([summing.relabelled(inputs)])
    assert one == other == alone
    assert alone["settings"]["evaluations"] > 5
    assert summing.plan_of([summing.relabelled(inputs[::2])])["kept"] != alone["kept"]  # which the images decide


def test_a_group_that_was_searched_with_is_let_go_of(processes: Processes) -> None:
    """The threads of a group that is still held when its process ends would abort it now and then."""
    assert processes.run(summing.search_and_let_go) == [True, True]
