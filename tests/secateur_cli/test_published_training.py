"""HRank's two trainings as recipes of the configuration: layer by layer, and HRankPlus's single one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runs_for_tests import User, results
from secateur.checkpoint import load_plan
from secateur.errors import ConfigError
from secateur.training import prune_layer_by_layer
from secateur.training.schedules import AUTOPRUNER, CLR_RNF, FILTER_SKETCH, HRANK, HRANK_PLUS, HRANK_PLUS_IMAGENET
from secateur_cli.settings.config import load_config
from secateur_cli.settings.schema import FineTuneConfig
from secateur_cli.settings.training_schema import PUBLISHED
from secateur_cli.stages import job, layer_by_layer

SHORT = ("fine_tune={like: hrank, epochs: 2, milestones: [1], learning_rate: 0.05}",)


def test_published_numbers_are_the_defaults_of_what_is_not_given() -> None:
    published: dict[str, tuple[Any, bool]] = {
        "hrank": (HRANK, False),
        "hrank_plus": (HRANK_PLUS, True),
        "hrank_plus_imagenet": (HRANK_PLUS_IMAGENET, True),
        "clr_rnf": (CLR_RNF, True),
        "filter_sketch": (FILTER_SKETCH, False),
        "autopruner": (AUTOPRUNER, False),
    }
    assert published.keys() == PUBLISHED.keys()
    for name, (recipe, restarted) in published.items():
        found = FineTuneConfig.model_validate({"like": name})
        ours = {key: getattr(found, key) for key in ("distillation", "temperature", "feature_weight")}
        assert found.recipe(seed=0) == recipe.revised(ours)
        assert (found.layer_by_layer, found.restart_batch_norm) == (name == "hrank", restarted)
    changed = FineTuneConfig.model_validate({"like": "hrank_plus", "epochs": 7, "restart_batch_norm": False})
    assert asdict(changed.recipe(seed=0)) == asdict(HRANK_PLUS) | {"epochs": 7, "distillation": 0.0}
    assert not changed.restart_batch_norm


def test_a_run_trains_layer_by_layer(user: User, tmp_path: Path) -> None:
    code, said, complained = user.command(tmp_path / "run", *SHORT)
    assert (code, complained) == (0, "")
    assert "nothing is recovered" in said
    assert "  round 2 of 2, without channels of second, " in said
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    found = report["fine_tuning"]
    assert [(e["epoch"], e["round"]) for e in found["epochs"]] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert [one["groups"] for one in found["rounds"]] == [["first"], ["second"]]
    assert [stage["stage"] for stage in report["accuracy"]] == ["dense", "channels removed", "fine-tuned"]
    assert "Layer by layer: 2 rounds" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "stages" / "rounds").exists()
    model = load_file(tmp_path / "run" / "model.safetensors")
    assert len(model["first.weight"]) == load_plan(tmp_path / "run").widths["first"]


def test_a_stopped_training_goes_on_from_its_last_epoch(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four batches an epoch; the stop is in the first epoch of the second round."""
    whole, output, steps = tmp_path / "whole", tmp_path / "run", list[int]()
    user.call(whole, *SHORT)

    def watched(*arguments: Any, on_step: Any, **options: Any) -> Any:
        def step(done: int, total: int) -> None:
            steps.append(done)
            if len(steps) == 10:
                raise KeyboardInterrupt
            on_step(done, total)

        return prune_layer_by_layer(*arguments, on_step=step, **options)

    monkeypatch.setattr(layer_by_layer, "prune_layer_by_layer", watched)
    with pytest.raises(KeyboardInterrupt):
        user.call(output, *SHORT)
    user.call(output, *SHORT)
    assert steps == [*range(1, 9), 1, 2, *range(1, 9)]
    assert results(output) == results(whole)


def test_batch_norm_begins_anew(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    train = job.fine_tune

    def watched(model: Any, *arguments: Any, **options: Any) -> Any:
        seen.append((model.norm.weight.tolist(), model.norm.running_mean.tolist()))
        return train(model, *arguments, **options)

    monkeypatch.setattr(job, "fine_tune", watched)
    user.call(tmp_path / "run", "fine_tune={like: hrank_plus, epochs: 1, milestones: [0.5]}", "train=null")
    assert seen == [([1.0] * len(seen[0][0]), [0.0] * len(seen[0][0]))]
    assert torch.isfinite(load_file(tmp_path / "run" / "model.safetensors")["norm.weight"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("fine_tune={like: hrank_minus}", "fine_tune.like: 'hrank_minus' is not allowed; allowed: 'hrank', "),
        ("fine_tune={like: [hrank]}", "fine_tune.like: ['hrank'] is not allowed; allowed: 'hrank', "),
        ("fine_tune={like: hrank, freeze: 0.2}", "freeze: not in a training layer by layer"),
        ("fine_tune={like: hrank_plus, layer_by_layer: true}", "restart_batch_norm: not in a training layer by layer"),
    ],
)
def test_keys_that_are_refused(user: User, change: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(user.config, overrides=(change,))
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match=r"fine_tune\.layer_by_layer: trains the network before the cut"):
        load_config(user.config, overrides=("fine_tune.layer_by_layer=true", "recover=sketch"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("recover=sketch", ", and recover: sketch makes other filters"),
        ("plan.search=[uniform, soft_clusters]", ", which search: soft_clusters has trained since"),
        ("plan.search=autopruner", ", which search: autopruner has trained since"),
    ],
)
def test_filters_are_not_frozen_by_scores_of_others(user: User, other: str, message: str) -> None:
    assert load_config(user.config, overrides=("fine_tune.freeze=0.2", "recover=compensate"))
    with pytest.raises(ConfigError, match=rf"fine_tune\.freeze: goes by the scores of filters.*{message}"):
        load_config(user.config, overrides=("fine_tune.freeze=0.2", other))
    assert load_config(user.config, overrides=("fine_tune.freeze=0", other))
