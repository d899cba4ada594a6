"""CLR-RNF's allocation and AutoPruner in a comparison: what they measure, how they go on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from comparisons_for_tests import SEARCHES, full_comparison
from runs_for_tests import User, write_user
from secateur import accuracy, apply_plan, channel_groups
from secateur.cost import cost_model
from secateur.scoring import scores_by_name
from secateur.search import convolution_cost, cross_layer_plan
from secateur.weights import load_weights
from secateur_cli.comparison import plots
from secateur_cli.comparison.cells import cells_of
from secateur_cli.comparison.document import render_comparison
from secateur_cli.comparison.schema import CompareRun
from secateur_cli.inputs.data import Data, load_data
from secateur_cli.inputs.sources import build_network
from secateur_cli.settings.config import load_config

CONFIG = """
network: {build: secateur_user_networks:Small}
data: {source: secateur_user_data:load}
train: {epochs: 5, learning_rate: 0.1}
plan: {round_to: 2, exponent: 0.5}
fine_tune: {epochs: 1}
threads: 1
compare:
  criteria: [rnf]
  searches: [uniform, cross_layer]
  budgets: [60%]
  seeds: [0, 1]
  stages: [cut, recalibrated, compensated, fine-tuned]
"""


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user with a comparison to make."""
    user = write_user(tmp_path_factory.mktemp("learnt"))
    user.config.write_text(CONFIG, encoding="utf-8")
    return user


def compare(user: User, output: Path, *settings: str, flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
    return user.command(output, *settings, name="compare", flags=flags, columns=100)


def report(output: Path) -> Any:
    return json.loads((output / "comparison.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(owner: User, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an undisturbed comparison, and what it printed. Only to be read."""
    output = tmp_path_factory.mktemp("finished") / "comparison"
    code, printed, complained = compare(owner, output)
    assert code == 0, printed + complained
    return output, printed


def parts_of(owner: User, output: Path, *, seed: int) -> tuple[nn.Module, Data]:
    """The dense network of a comparison, and the images of a seed."""
    config = load_config(owner.config, kind=CompareRun)
    network = build_network(config.network, owner.folder).eval()
    load_weights(network, output / "dense.safetensors")
    return network, load_data(config.data, folder=owner.folder, seed=seed, split_seed=config.seed)


def cell_of(output: Path, name: str, search: str, seed: int) -> Any:
    cells = report(output)["cells"]
    return next(c for c in cells if (c["name"], c["search"], c["seed"]) == (name, search, seed))


def test_a_cell_of_cross_layer_is_what_its_parts_give_by_hand(owner: User, finished: tuple[Path, str]) -> None:
    network, data = parts_of(owner, finished[0], seed=0)
    groups = channel_groups(network, data.example)
    macs = cost_model("macs", network, data.example, groups)
    plan = cross_layer_plan(
        *(groups, scores_by_name(network, data.calibration, "rnf", groups=groups), macs, "60%"),
        weights={name: network.get_submodule(name).weight for name in ("first", "second")},
        unit_costs={
            "first": convolution_cost(1, 8, kernel=9, positions=64),
            "second": convolution_cost(8, 16, kernel=9, positions=64, bias=True),
        },
        exponent=0.5,
        round_to=2,
    )
    cell, uniform = (cell_of(finished[0], "rnf", search, 0) for search in ("cross_layer", "uniform"))
    assert cell["macs"] == plan.cost_after
    assert cell["accuracy"]["cut"] == accuracy(apply_plan(network, plan), data.test)
    assert cell["plan"] != uniform["plan"]


def test_a_plan_by_cross_layer_depends_on_the_seed_only_where_the_scores_do(
    owner: User, finished: tuple[Path, str]
) -> None:
    config = load_config(owner.config, kind=CompareRun, overrides=["compare.criteria=[rnf,hrank]"])
    cells = [cell for cell in cells_of(config) if cell.search == "cross_layer"]
    assert [len({c.plan for c in cells if c.contender.name == name}) for name in ("rnf", "hrank")] == [1, 2]
    row = next(r for r in report(finished[0])["rows"] if (r["criterion"], r["search"]) == ("rnf", "cross_layer"))
    assert row["plan_seconds"]["count"] == row["macs"]["count"] == 1
    assert row["accuracy"]["cut"]["count"] == 1


def test_a_search_that_refuses_says_why(owner: User, tmp_path: Path) -> None:
    """The second layer has no batch norm, so that the first one alone would have to meet the budget."""
    settings = ("compare.criteria=[l1,bn_scale]", "compare.seeds=[0]", "compare.budgets=[20%]", "compare.stages=[cut]")
    assert compare(owner, tmp_path / "out", *settings)[0] == 0
    assert cell_of(tmp_path / "out", "l1", "cross_layer", 0)["not_measured"] is None
    why = cell_of(tmp_path / "out", "bn_scale", "cross_layer", 0)["not_measured"]
    assert "the lowest cost that can be reached is" in why


def test_every_search_has_its_marker_and_line_and_is_named() -> None:
    assert {*SEARCHES} == {*plots.SEARCHES}
    styles = [{key: style[key] for key in ("marker", "linestyle")} for style in plots.SEARCHES.values()]
    assert len({style["marker"] for style in styles}) == len({style["linestyle"] for style in styles}) == 4
    page = render_comparison(full_comparison())
    assert "diamonds, dots and dashes: one ranking of the weights of all layers." in page
    assert "50% of the MACs, cross_layer" in page
