"""Searches that train: in the command, in the report, killed and gone on with, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runs_for_tests import User, contents, give, results
from secateur import load_pruned
from secateur.checkpoint import load_plan
from secateur.errors import ConfigError
from secateur.gates import PRESETS, GateRecipe, autopruner
from secateur_cli.inputs.sources import call
from secateur_cli.settings.config import load_config
from secateur_cli.settings.learning_schema import AutoPrunerConfig
from secateur_cli.stages import learning
from secateur_onnx import read_metadata

GATES = ("plan.search=autopruner", "plan.autopruner={epochs: 2, granularity: layer, learning_rate: 0.05}")
LEARNT = ("stages/learnt.safetensors", "stages/learnt.json")


@pytest.fixture(scope="module")
def finished(user: User, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("autopruner") / "run"
    code, said, complained = user.command(output, *GATES)
    assert (code, complained) == (0, "")
    return output, said


def test_a_run_shows_what_the_gates_have_learnt(finished: tuple[Path, str], user: User) -> None:
    output, said = finished
    assert "  stage 2 of 2, epoch 2 of 2: loss " in said
    assert "the codes keep" in said
    assert "batch norm is measured afresh, and nothing is compensated" in said
    report = json.loads((output / "report.json").read_text())
    found, plan = report["learning"], load_plan(output)
    assert [(e["stage"], e["number"]) for e in found["epochs"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert [(g["group"], g["kept"]) for g in found["gates"]] == list(plan.widths.items())
    assert plan.cost_after <= plan.budget
    assert plan.settings["search"] == "autopruner"
    assert plan.settings["recipe"]["learning_rate"] == 0.05
    assert plan.settings["stages"] == [["first"], ["second"]]
    about = read_metadata(output / "model.onnx")
    assert (about["search"], "criterion" in about, "variant" in about) == ("autopruner", False, False)
    page = (output / "report.html").read_text()
    assert "<h1>Small, pruned by autopruner</h1>" in page
    assert "What the gates have learnt" in page
    assert "those that a gate has learnt to keep" in page
    assert "says each channel is worth" not in page  # no score has chosen them
    code, shown, _ = give("plan", "show", str(output))
    assert code == 0
    assert "learnt.second.binary" in shown
    assert "autopruner plan" in said
    assert not any("epochs" in path.name for path in (output / "stages").iterdir())


def test_what_is_cut_are_the_weights_that_were_trained_along(finished: tuple[Path, str], user: User) -> None:
    output, _ = finished
    plan, learnt = load_plan(output), load_file(output / LEARNT[0])
    recovered = load_file(output / "stages" / "recovered.safetensors")
    first, second = (list(plan[name]) for name in ("first", "second"))
    assert torch.equal(recovered["second.weight"], learnt["second.weight"][second][:, first])
    dense = load_file(output / "stages" / "dense.safetensors")
    assert not torch.equal(learnt["second.weight"], dense["second.weight"])
    pruned = load_pruned(lambda: call("secateur_user_networks:Small", {}, folder=user.folder), output)
    assert pruned.second.out_channels == plan.widths["second"]


@pytest.mark.parametrize("stop", [3, 13])
def test_a_killed_run_goes_on_from_its_last_epoch(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: tuple[Path, str], stop: int
) -> None:
    """Four batches an epoch, two stages of two."""
    (undisturbed, _), output, steps = finished, tmp_path / "run", list[int]()
    train = autopruner.autoprune

    def watched(*arguments: Any, on_step: Any, **options: Any) -> Any:
        def step(done: int, total: int) -> None:
            steps.append(done)
            if len(steps) == stop:
                raise KeyboardInterrupt
            on_step(done, total)

        return train(*arguments, on_step=step, **options)

    monkeypatch.setattr(learning, "autoprune", watched)
    assert user.command(output, *GATES, name="search")[0] == 130
    assert not any((output / name).exists() for name in LEARNT)
    code, _, _ = user.command(output, *GATES, name="search")
    assert code == 0
    assert steps[stop:] == list(range(1 + 4 * ((stop - 1) // 4), 17))
    for name in LEARNT:
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes()
    assert load_plan(output) == load_plan(undisturbed)


def test_a_search_stops_with_the_plan_and_a_run_goes_on_from_it(
    user: User, tmp_path: Path, finished: tuple[Path, str]
) -> None:
    (undisturbed, _), output = finished, tmp_path / "run"
    code, _, complained = user.command(output, *GATES, name="search")
    assert (code, complained) == (0, "")
    assert load_plan(output) == load_plan(undisturbed)
    before = contents(output)[LEARNT[0]]
    code, _, _ = user.command(output, *GATES)
    assert code == 0
    assert contents(output)[LEARNT[0]] == before
    assert results(output) == results(undisturbed)


def test_stages_are_those_of_the_maps_and_all_learn_at_once_by_default(user: User, tmp_path: Path) -> None:
    settings = ("plan.search=autopruner", "network.build=secateur_user_networks:Residual", "train.epochs=1")
    for granularity, stages in (("stage", 1), ("layer", 2)):
        gates = f"plan.autopruner={{epochs: 1, granularity: {granularity}}}"
        code, _, complained = user.command(tmp_path / granularity, *settings, gates, name="search")
        assert (code, complained) == (0, "")
        assert len(load_plan(tmp_path / granularity).settings["stages"]) == stages


def test_ablations_are_asked_for_and_told(user: User, tmp_path: Path) -> None:
    gates = "plan.autopruner={epochs: 1, batch_average: false, binarise: false}"
    code, _, _ = user.command(tmp_path / "run", "plan.search=autopruner", gates, "recover=none", "fine_tune=null")
    assert code == 0
    assert "without mini-batch pooling and without binarisation." in (tmp_path / "run" / "report.html").read_text()


def test_the_keys_are_those_of_the_recipe() -> None:
    assert AutoPrunerConfig().recipe(seed=3) == GateRecipe(seed=3)
    assert AutoPrunerConfig(preset="resnet50").recipe(seed=0) == PRESETS["resnet50"]
    given = AutoPrunerConfig(preset="vgg16", epochs=5, alpha=(0.2, 4), pull=False).recipe(seed=0)
    assert (given.epochs, given.alpha, given.pull, given.learning_rate) == (5, (0.2, 4.0), None, 1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("plan.autopruner={preset: vgg11}",), "plan.autopruner.preset: 'vgg11' is not allowed; allowed: 'vgg16', "),
        (("plan.autopruner={epochs: 0}",), "plan.autopruner.epochs: 0: must be greater than 0"),
        (("plan.autopruner={alpha: [2, 1]}",), "alpha must be two numbers > 0, the first not above the second"),
        (("plan.autopruner={pull: true}",), "must be a number greater than 0, or false for a lambda that stays"),
        (("plan.autopruner={speed: 1}",), "plan.autopruner.speed: unknown key"),
        (("plan.search=uniform", "plan.autopruner={epochs: 2}"), "autopruner: a key of search: autopruner, but the se"),
    ],
)
def test_keys_that_are_refused(user: User, changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(user.config, overrides=("plan.search=autopruner", *changes))
    assert message in str(caught.value)


def test_what_takes_no_gate_is_refused_before_any_work(user: User, tmp_path: Path) -> None:
    build, mask = "network.build=secateur_user_networks:Residual", "plan.residual=mask"
    code, _, complained = user.command(tmp_path / "run", "plan.search=autopruner", build, mask, "fine_tune=null")
    assert (code, (tmp_path / "run").exists()) == (2, False)
    assert "search: autopruner: the channels of 'stem' are only masked" in complained
    code, _, complained = user.command(tmp_path / "run", "plan.search=autopruner", "plan.autopruner={most: 10}")
    assert (code, (tmp_path / "run").exists()) == (2, False)
    assert "8 channels take 64 weights to select from; at most 10 are allowed" in complained


def test_a_smoke_run_learns_for_an_epoch(user: User) -> None:
    small = load_config(user.config, overrides=GATES).smoke()
    assert small.plan.autopruner is not None
    assert (small.plan.autopruner.epochs, small.plan.autopruner.granularity) == (1, "all")
    assert small.plan.autopruner.learning_rate == 0.05


def test_a_training_that_diverges_stops_with_its_step_and_keeps_the_last_good_epoch(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four batches an epoch; the weights are spoilt once the first epoch is kept."""
    train, told = autopruner.autoprune, list[int]()

    def spoiling(*arguments: Any, on_epoch: Any, **options: Any) -> Any:
        def spoil(epoch: Any) -> None:
            on_epoch(epoch)
            told.append(epoch.number)
            if len(told) == 1:
                monkeypatch.setattr(
                    "secateur.gates.learning.functional.cross_entropy", lambda *_: torch.tensor(torch.nan)
                )

        return train(*arguments, on_epoch=spoil, **options)

    monkeypatch.setattr(learning, "autoprune", spoiling)
    code, _, complained = user.command(tmp_path / "run", *GATES, name="search")
    assert code == 2
    assert "the loss is nan at step 5 of 8: training diverged" in complained
    assert (tmp_path / "run" / "stages" / "epochs.safetensors").is_file()
    assert not (tmp_path / "run" / LEARNT[0]).exists()
    monkeypatch.undo()
    assert user.command(tmp_path / "run", *GATES, name="search")[0] == 0
