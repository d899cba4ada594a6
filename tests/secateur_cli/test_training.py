"""The keys of the trainings reach them, the report says so, and a stopped training goes on from its last epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runs_for_tests import User, contents, results
from secateur import load_pruned
from secateur_cli.inputs.epochs import Epochs
from secateur_cli.inputs.images import Pixels
from secateur_cli.inputs.sources import call
from secateur_cli.report.training_section import recipe_in_words
from secateur_cli.settings.schema import FineTuneConfig
from secateur_cli.stages import job

WAYS = (
    "fine_tune={epochs: 3, learning_rate: 0.05, optimizer: adamw, schedule: steps, milestones: [2], distillation: 0.4, "
    "freeze: 0.25, mixup: 0.2, average: 0.9, precision: bfloat16, warmup_epochs: 1}",
)
THREE_EPOCHS = ("fine_tune.epochs=3", "fine_tune.average=0.9")


def test_all_keys_reach_the_training_and_the_report(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []
    train = job.fine_tune

    def watch(*arguments: Any, **options: Any) -> Any:
        given.append(options)
        return train(*arguments, **options)

    monkeypatch.setattr(job, "fine_tune", watch)
    report = user.call(tmp_path / "run", *WAYS)
    recipe, teacher, frozen = (given[1][key] for key in ("recipe", "teacher", "freeze"))
    assert (recipe.optimizer, recipe.milestones, recipe.distillation, recipe.average) == ("adamw", (2,), 0.4, 0.9)
    assert teacher.first.out_channels == 8
    assert {layer: len(filters) for layer, filters in frozen.items()} == {"first": 1, "second": 2}
    assert "teacher" not in given[0]
    assert len(report["fine_tuning"]["epochs"]) == 3
    assert [path.name for path in (tmp_path / "run" / "stages").iterdir() if "epochs" in path.name] == []
    code, _, _ = user.command(tmp_path / "run", *WAYS)  # which writes the page
    assert code == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "By AdamW at a learning rate of 0.05, falling after epochs 2; 40.0% of the loss by the logits" in page


def test_frozen_filters_are_those_of_the_recovered_network(user: User, tmp_path: Path) -> None:
    output = tmp_path / "run"
    user.call(output, "fine_tune.freeze=1", "fine_tune.learning_rate=0.5", "fine_tune.weight_decay=0.1")
    trained = load_pruned(lambda: _small(user), output)
    before = load_file(output / "stages" / "recovered.safetensors")
    assert torch.equal(trained.first.weight, before["first.weight"])
    assert torch.equal(trained.second.bias, before["second.bias"])
    assert not torch.equal(trained.norm.weight, before["norm.weight"])


def _small(user: User) -> Any:
    return call("secateur_user_networks:Small", {}, folder=user.folder)


@pytest.fixture(scope="module")
def whole(user: User, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("whole") / "run"
    return output, user.call(output, *THREE_EPOCHS)


@pytest.mark.parametrize("stop", [2, 10])
def test_a_stopped_training_goes_on_from_its_last_epoch(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Path, dict[str, Any]], stop: int
) -> None:
    """Four batches an epoch; nothing of a finished epoch is done again."""
    (undisturbed, expected), output = whole, tmp_path / "run"
    train, steps = job.Job.train, list[int]()

    def stopping(self: Any, model: Any, settings: Any, title: str, *, after_step: Any = None, **more: Any) -> Any:
        def step() -> None:
            steps.append(1)
            if title == "fine-tuning" and len(steps) == 8 + stop:
                raise KeyboardInterrupt
            if after_step is not None:
                after_step()

        return train(self, model, settings, title, after_step=step, **more)

    monkeypatch.setattr(job.Job, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        user.call(output, *THREE_EPOCHS)
    steps.extend([0] * 100)  # no second stop
    before = len(steps)
    report = user.call(output, *THREE_EPOCHS)
    assert len(steps) - before == 12 - 4 * ((stop - 1) // 4)
    assert results(output) == results(undisturbed)
    losses = [[e["loss"] for e in r["fine_tuning"]["epochs"]] for r in (report, expected)]
    assert losses[0] == losses[1]


def test_kept_epochs_of_another_network_are_left_behind(user: User, finished: tuple[Path, Any], tmp_path: Path) -> None:
    (undisturbed, expected), output = finished, tmp_path / "run"
    (output / "stages").mkdir(parents=True)
    record = json.loads((undisturbed / "run.json").read_text())
    (output / "run.json").write_text(json.dumps(record | {"stages": {}}))
    (output / job.CHECKPOINT).write_bytes(b"something else")
    assert user.call(output)["accuracy"] == expected["accuracy"]
    assert results(output) == results(undisturbed)
    assert job.CHECKPOINT not in contents(output)


def test_maps_at_block_ends_need_blocks(user: User, tmp_path: Path) -> None:
    code, _, complained = user.command(tmp_path / "run", "fine_tune.feature_weight=1")
    assert code == 2
    assert "fine_tune.feature_weight: no module of the network ends a residual block" in complained
    assert not (tmp_path / "run").exists()


def test_an_epoch_is_known_by_its_number() -> None:
    images = Pixels(torch.arange(10.0).reshape(10, 1, 1, 1), torch.arange(10), levels=1.0)
    epochs = Epochs(images, 4, (0.0,), (1.0,), training=True)
    orders = [torch.cat([labels for _, labels in epochs]).tolist() for _ in range(3)]
    epochs.set_epoch(1)
    assert torch.cat([labels for _, labels in epochs]).tolist() == orders[1] != orders[0]


def test_recipes_of_earlier_reports_say_what_they_hold() -> None:
    assert recipe_in_words({"epochs": 1, "learning_rate": 0.1}) == "At a learning rate of 0.1."
    assert recipe_in_words({"epochs": 1}) == ""


@pytest.mark.parametrize(
    ("epochs", "falls"),
    [(150, "falling after epochs 50, 100"), (100, "falling after epochs 50"), (7, "which never falls")],
)
def test_milestones_that_a_shorter_training_never_meets_are_not_told(epochs: int, falls: str) -> None:
    settings = FineTuneConfig.model_validate({"like": "clr_rnf", "epochs": epochs}).model_dump(mode="json")
    assert recipe_in_words(settings).startswith(f"By SGD at a learning rate of 0.01, {falls}; batch norm")
