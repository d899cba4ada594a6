"""Searches that are told the widths, a shallow network's plan or an exponent: in the command and by themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from runs_for_tests import User, give
from secateur.channel_graph import channel_groups
from secateur.checkpoint import load_plan
from secateur.cost import MacsCost, hrank_cost
from secateur.errors import ConfigError
from secateur.files import write_json
from secateur.networks import resnet56
from secateur.records import PruningPlan, ScoreTable
from secateur_cli.settings.plan_schema import PlanConfig
from secateur_cli.stages.prescribed import Setting, prescribed_plan


def searched(user: User, output: Path, *settings: str) -> PruningPlan:
    code, _, complained = user.command(output, *settings, name="search")
    assert (code, complained) == (0, "")
    return load_plan(output)


def refused(user: User, output: Path, *settings: str) -> str:
    """What the command complains of, with nothing written."""
    code, _, complained = user.command(output, *settings, name="search")
    assert (code, output.exists()) == (2, False)
    return complained


@pytest.mark.parametrize("rates", ["'[0.4]+[0.45]'", "{first: 0.4, second: 0.45}"])
def test_stated_rates_are_the_widths_whatever_rounding_is_asked_for(user: User, tmp_path: Path, rates: str) -> None:
    plan = searched(user, tmp_path / "run", "plan.search=rates", f"plan.rates={rates}", "plan.round_to=8")
    assert plan.widths == {"first": 5, "second": 9}  # 8 - 3 and 16 - 7
    # 64 places: 9 * 8 + 9 * 8 * 16 dense, 9 * 5 + 9 * 5 * 9 left; the head reads 16 and 9
    assert (plan.cost_before, plan.cost_after) == (64 * 1224 + 48, 64 * 450 + 27)
    assert plan.budget == plan.cost_before / 2
    assert plan.settings["rates"] == {"first": 0.4, "second": 0.45}
    code, said, _ = give("plan", "show", str(tmp_path / "run"))
    assert code == 0
    assert "rates.second" in said


def test_rates_above_the_budget_are_refused_with_what_they_cost(user: User, tmp_path: Path) -> None:
    given = ("plan.search=rates", "plan.rates='[0.4]+[0.4]'")
    complained = refused(user, tmp_path / "run", *given, "plan.budget={macs: 40%, parameters: 40%}")
    # 64 * (9 * 5 + 9 * 5 * 10) + 30; 45 + 2 * 5 + 450 + 10 + 30 + 3
    assert (
        "the rates lead to 31.71K MACs (40.5% of the dense network), above the budget '40%', which allows" in complained
    )
    assert "and to 548 parameters (42" not in complained


def test_a_size_that_the_widths_exceed_is_refused_before_the_training(user: User, tmp_path: Path) -> None:
    """Stated rates have no other widths than theirs, however little is to be kept; other searches the narrowest."""

    def smallest(*settings: str) -> int:
        complained = refused(user, tmp_path / "run", *settings, "quantize={size: 100B, bits: [4, 2]}")
        found = re.search(r"quantize.size: no assignment .* the smallest takes ([\d,]+) bytes, at the narr", complained)
        assert found is not None, complained
        return int(found[1].replace(",", ""))

    few, many = (smallest("plan.search=rates", f"plan.rates='[{rate}]+[{rate}]'") for rate in (0.75, 0.4))
    assert smallest("plan.search=cross_layer", "plan.round_to=1") < few < many


def test_rates_of_another_network_are_refused_by_layer(user: User, tmp_path: Path) -> None:
    complained = refused(user, tmp_path / "run", "plan.search=rates", "plan.rates=resnet56")
    assert "plan.rates: channels of 'conv1' cannot be pruned; rates can be given for first, second" in complained
    complained = refused(user, tmp_path / "run", "plan.search=rates", "plan.rates='[0.5]'")
    assert "plan.rates: there are 1 rates for 2 groups; give one for each, in this order: first, second" in complained


def test_the_published_rates_of_resnet56_cost_what_was_published() -> None:
    model, example = resnet56().eval(), torch.zeros(1, 3, 32, 32)
    groups = channel_groups(model, example, residual="mask")
    scores = ScoreTable({name: torch.arange(float(group.width)) for name, group in groups.items()})
    given = {"search": "rates", "rates": "resnet56", "residual": "mask"}
    setting = Setting(model, example, groups, [hrank_cost(model, example)], {"hrank": "50%"}, None)
    config = PlanConfig.model_validate(given | {"budget": {"hrank": "50%"}})
    plan = prescribed_plan("rates", config, scores, setting)
    assert (plan.cost_before, plan.cost_after) == (125485706, 62715530)
    assert plan.settings["mode"] == "hrank"
    joint = channel_groups(model, example)
    setting = Setting(model, example, joint, [hrank_cost(model, example)], {"hrank": "50%"}, None)
    with pytest.raises(ConfigError, match=r"plan\.rates: layers that share their 16 channels .* \(residual=\"mask\""):
        prescribed_plan("rates", config, scores, setting)


def test_a_shallow_network_s_plan_is_distilled(user: User, tmp_path: Path) -> None:
    teacher = searched(user, tmp_path / "shallow", "plan.rates='[0.25]+[0.75]'", "plan.search=rates")
    shallow = f"plan.shallow={{plan: {tmp_path / 'shallow'}, build: 'secateur_user_networks:Small'}}"
    settings = ("plan.search=distilled", shallow, "plan.round_to=1", "plan.budget.macs=70%")
    plan = searched(user, tmp_path / "deep", *settings)
    assert plan.settings["search"] == "distillation"
    assert plan.settings["teacher"] == teacher.fingerprint
    assert plan.settings["ratios"] == {"1 inner": 0.25, "2 inner": 0.75}  # the second is read behind the pool
    # 64 * (9 a + 9 a b) + 3 b, of 78384 70%: at 5 / 12 of the ratios a, b = 8, 11 cost 55329, at 6 / 12 7, 10 44382
    assert (plan.widths, plan.settings["factor"]) == ({"first": 7, "second": 10}, 0.5)
    complained = refused(
        user, tmp_path / "other", *settings, "network.build=secateur_user_networks:Residual", "plan.residual=skip"
    )
    assert "plan.shallow: the network has the stages [1], the teacher [1, 2]; they must be the same" in complained


def test_another_plan_in_the_shallow_network_s_place_is_another_run(user: User, tmp_path: Path) -> None:
    shallow, output = tmp_path / "shallow.json", tmp_path / "run"
    settings = ("plan.search=distilled", f"plan.shallow={{plan: {shallow}, build: 'secateur_user_networks:Small'}}")
    for rates, code in (("'[0.5]+[0.5]'", 0), ("'[0.25]+[0.75]'", 2)):
        plan = searched(user, tmp_path / f"rates{code}", "plan.search=rates", f"plan.rates={rates}")
        write_json(shallow, plan.to_json())
        found, _, complained = user.command(output, *settings, name="search")
        assert found == code
    assert "holds another run (shallow_plan: " in complained


def test_a_shallow_plan_that_does_not_fit_is_refused(user: User, tmp_path: Path) -> None:
    there, missing = tmp_path / "plan.json", tmp_path / "none.json"
    write_json(there, searched(user, tmp_path / "rates", "plan.search=rates", "plan.rates='[0.5]+[0.5]'").to_json())

    def complained(plan: Path, build: str) -> str:
        shallow = f"plan.shallow={{plan: {plan}, build: '{build}'}}"
        return refused(user, tmp_path / "run", "plan.search=distilled", shallow)

    assert f"plan.shallow.plan: no plan {missing}" in complained(missing, "secateur_user_networks:Small")
    assert "prunes 'first', which secateur_user_networks:Residual does not have" in complained(
        there, "secateur_user_networks:Residual"
    )
    assert "no module 'nowhere'" in complained(there, "nowhere:build")
    assert "plan.shallow.build: the network does not run on example inputs of shape (2, 1, 8, 8)" in complained(
        there, "secateur.networks:resnet20"
    )


def test_one_ranking_of_all_weights(user: User, tmp_path: Path) -> None:
    plan = searched(user, tmp_path / "run", "plan.search=cross_layer", "plan.exponent=0.5", "score.criterion=l1")
    assert plan.settings["search"] == "cross_layer"
    assert plan.settings["exponent"] == 0.5
    costs = {"first": 8 * 64 * (9 * 1 + 4), "second": 16 * 64 * (9 * 8 + 4 + 1)}  # four for norm and activation, a bias
    assert plan.settings["unit_costs"] == costs
    assert plan.cost_after <= plan.budget
    assert {width % 2 for width in plan.widths.values()} == {0}


def test_a_run_by_stated_rates_ends_in_a_report_that_says_so(user: User, tmp_path: Path) -> None:
    settings = ("plan.search=rates", "plan.rates='[0.5]+[0.5]'", "fine_tune=null", "recover=none")
    code, said, complained = user.command(tmp_path / "run", *settings)
    assert (code, complained) == (0, "")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [group["kept"] for group in report["plan"]["groups"]] == [4, 8]
    assert "rates plan" in said
    assert "stated share" in (tmp_path / "run" / "report.html").read_text()


def test_a_unit_of_a_residual_network_costs_its_block() -> None:
    """As published, but for the stem, which the published constants count with the first block."""
    model, example = resnet56().eval(), torch.zeros(1, 3, 32, 32)
    groups = channel_groups(model, example, residual="skip")
    scores = ScoreTable({name: torch.arange(float(group.width)) for name, group in groups.items()})
    setting = Setting(model, example, groups, [MacsCost(model, example, groups)], {"macs": "50%"}, None)
    found = {}
    for unit_cost in ("layers", "block"):
        given = {"search": "cross_layer", "residual": "skip", "unit_cost": unit_cost, "budget": {"macs": "50%"}}
        plan = prescribed_plan("cross_layer", PlanConfig.model_validate(given), scores, setting)
        costs = list(plan.settings["unit_costs"].values())
        found[unit_cost] = [cost / costs[0] for cost in costs]
    published = [0.9052] * 9 + [0.67278] + [0.89297] * 8 + [0.66667] + [0.88685] * 8
    assert found["block"] == pytest.approx([cost / 0.9052 for cost in published], abs=1e-5)
    assert found["layers"][9] == 0.5
