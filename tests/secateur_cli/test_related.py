"""The related systems and the ablations in the main job: clusters, sketches, a global ranking, other channels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from runs_for_tests import User
from secateur import sketch_filters
from secateur.checkpoint import load_plan
from secateur.errors import ConfigError
from secateur.records import ScoreTable
from secateur_cli.inputs.sources import call
from secateur_cli.settings.config import load_config
from secateur_onnx import read_metadata

FEW = ("train.epochs=1", "fine_tune=null")
RANKING = ("plan.search=global_ranking", "plan.generations=12", *FEW)


def test_filters_become_equal_and_merge(user: User, tmp_path: Path) -> None:
    settings = ("plan.search=soft_clusters", "plan.soft_clusters={epochs: 3, learning_rate: 0.05}", *FEW)
    code, said, complained = user.command(tmp_path, *settings, "recover=none")
    assert (code, complained) == (0, "")
    assert "  epoch 3 of 3: loss " in said
    plan, report = load_plan(tmp_path), json.loads((tmp_path / "report.json").read_text())
    assert plan.cost_after <= plan.budget
    assert [c["kept"] for c in report["learning"]["clusters"]] == list(plan.widths.values())
    learnt, pruned = load_file(tmp_path / "stages" / "learnt.safetensors"), load_file(tmp_path / "model.safetensors")
    first, second = (list(plan[name]) for name in ("first", "second"))
    assert torch.equal(pruned["second.weight"], learnt["second.weight"][second][:, first])
    assert not learnt["second.weight"][:, list(plan.removed("first"))].any()
    page = (tmp_path / "report.html").read_text()
    assert "Filters that became equal" in page
    assert "<h1>Small, pruned by soft clusters</h1>" in page
    about = read_metadata(tmp_path / "model.onnx")
    assert (about["search"], "criterion" in about) == ("soft_clusters", False)


def test_filters_are_sketched(user: User, tmp_path: Path) -> None:
    code, said, complained = user.command(tmp_path, *FEW, "recover=sketch")
    assert (code, complained) == (0, "")
    assert "sketched 3 layers; they mean nothing before they are trained" in said
    dense = call("secateur_user_networks:Small", {}, folder=user.folder)
    dense.load_state_dict(load_file(tmp_path / "stages" / "dense.safetensors"))
    expected = sketch_filters(dense, load_plan(tmp_path)).model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load_file(tmp_path / "model.safetensors").items())
    assert "Filters sketched" in (tmp_path / "report.html").read_text()
    code, _, complained = user.command(tmp_path / "other", "plan.search=soft_clusters", "recover=sketch")
    assert (code, (tmp_path / "other").exists()) == (2, False)
    assert "recover: sketch makes new filters of all" in complained


def test_channels_are_ranked_by_evolution_and_a_second_call_judges_nothing(user: User, tmp_path: Path) -> None:
    code, _, complained = user.command(tmp_path, *RANKING, name="search")
    assert (code, complained) == (0, "")
    plan = load_plan(tmp_path)
    assert (plan.settings["search"], plan.settings["generations"]) == ("global_ranking", 12)
    assert plan.settings["worth"] >= plan.settings["plain"]
    assert plan.cost_after <= plan.budget
    (tmp_path / "stages" / "plan.json").unlink()
    code, said, _ = user.command(tmp_path, *RANKING, name="search", flags=("--resume",))
    assert code == 0
    assert "the journal of the search holds" in said
    assert load_plan(tmp_path) == plan


def test_one_command_runs_the_ablation_of_hrank(user: User, tmp_path: Path) -> None:
    variants = ("low", "edge", "random", "reverse")
    code, _, complained = user.command(tmp_path, f"plan.variant=[{', '.join(variants)}]", *FEW, name="search")
    assert (code, complained) == (0, "")
    plans = {variant: load_plan(tmp_path / variant) for variant in variants}
    assert len({tuple(plan.widths.items()) for plan in plans.values()}) == 1
    scores = ScoreTable.from_json(json.loads((tmp_path / "low" / "stages" / "scores.json").read_text()))["second"]
    order, k = scores.argsort(stable=True).tolist(), len(plans["low"].removed("second"))
    assert plans["low"].removed("second") == tuple(sorted(order[:k]))
    assert plans["reverse"].removed("second") == tuple(sorted(order[-k:]))
    assert plans["edge"].removed("second") == tuple(sorted(order[: k // 2] + order[len(order) - (k - k // 2) :]))
    assert plans["random"].kept != plans["low"].kept
    assert {plan.settings.get("variant") for plan in plans.values()} == set(variants)
    code, _, _ = user.command(tmp_path / "rates", "plan.search=rates", "plan.rates='[0.5]+[0.5]'",
                              "plan.variant=edge", *FEW, name="search")  # fmt: skip
    assert code == 0
    assert load_plan(tmp_path / "rates").settings["variant"] == "edge"


@pytest.mark.parametrize(
    ("variant", "criterion", "heading"),
    [("reverse", "hrank", "by hrank, reversed (an ablation)"), ("random", None, "at random (an ablation of hrank)")],
)
def test_an_ablation_is_not_told_as_the_method(
    user: User, tmp_path: Path, variant: str, criterion: str | None, heading: str
) -> None:
    code, _, _ = user.command(tmp_path, f"plan.variant={variant}", "train=null", "fine_tune=null", "recover=none")
    about = read_metadata(tmp_path / "model.onnx")
    assert (code, about.get("criterion"), about["variant"]) == (0, criterion, variant)
    page = (tmp_path / "report.html").read_text()
    assert f"<h1>Small, pruned {heading}</h1>" in page
    assert "an ablation: the method removes those of the lowest scores" in page
    assert "dashed line is the cut" not in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("plan.variant=lowest",), "plan.variant.0: 'lowest' is not allowed; allowed: 'low', 'reverse', "),
        (("plan.variant=[edge, edge]",), "variant: edge, edge: the same variant twice"),
        (
            ("plan.variant=edge", "plan.search=greedy"),
            "variant: a key of the searches uniform, rates, but the search is greedy",
        ),
        (("plan.soft_clusters={epochs: 2}",), "soft_clusters: a key of search: soft_clusters"),
        (("plan.search=soft_clusters", "plan.soft_clusters={average: 0.9}"), "are not equal in a moving average"),
        (("plan.search=global_ranking", "plan.generations=0"), "plan.generations: 0: must be greater than 0"),
        (
            ("recover=guess",),
            "recover.method: 'guess' is not allowed; allowed: 'none', 'recalibrate', 'compensate', 's",
        ),
    ],
)
def test_keys_that_are_refused(user: User, changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(user.config, overrides=changes)
    assert message in str(caught.value)
