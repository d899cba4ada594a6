"""CLR-RNF's allocation and AutoPruner in a comparison: what they measure, how they go on, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from comparisons_for_tests import SEARCHES, cell_of, compare, full_comparison, report_of, write_owner
from runs_for_tests import User
from secateur import accuracy, apply_plan, channel_groups, fine_tune, recalibrate_batch_norm, uniform_plan
from secateur.cost import cost_model
from secateur.errors import ConfigError
from secateur.gates import GateRecipe, autoprune
from secateur.scoring import scores_by_name
from secateur.search import convolution_cost, cross_layer_plan
from secateur.training import Recipe
from secateur.weights import load_weights, save_weights
from secateur_cli.comparison import learning as learning_of_compare
from secateur_cli.comparison import plots
from secateur_cli.comparison.cells import Cell, cells_of
from secateur_cli.comparison.document import render_comparison
from secateur_cli.comparison.schema import CompareRun
from secateur_cli.inputs.data import Data, load_data
from secateur_cli.inputs.sources import build_network
from secateur_cli.settings.config import load_config
from secateur_cli.stages import learning

CONFIG = """
network: {build: secateur_user_networks:Small}
data: {source: secateur_user_data:load}
train: {epochs: 5, learning_rate: 0.1}
plan: {round_to: 2, exponent: 0.5}
fine_tune: {epochs: 1, distillation: 0.5}
threads: 1
compare:
  criteria: [{name: autopruner, options: {epochs: 2, learning_rate: 0.05}}, rnf]
  searches: [uniform, cross_layer]
  budgets: [60%]
  seeds: [0, 1]
  stages: [cut, recalibrated, compensated, fine-tuned]
"""
GATES = "compare.criteria=[{name: autopruner, options: {epochs: 2, learning_rate: 0.05}}]"
ALONE = (GATES, "compare.searches=[uniform]", "compare.seeds=[1]")


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user with a comparison to make."""
    return write_owner(tmp_path_factory.mktemp("learnt"), CONFIG)


@pytest.fixture(scope="module")
def finished(owner: User, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an undisturbed comparison, and what it printed. Only to be read."""
    output = tmp_path_factory.mktemp("finished") / "comparison"
    code, printed, complained = compare(owner, output)
    assert code == 0, printed + complained
    return output, printed


def parts_of(owner: User, output: Path, *, seed: int) -> tuple[nn.Module, Data]:
    """The dense network of a comparison, and the images of a seed."""
    config = load(owner)
    network = build_network(config.network, owner.folder).eval()
    load_weights(network, output / "dense.safetensors")
    return network, load_data(config.data, folder=owner.folder, seed=seed, split_seed=config.seed)


def load(owner: User, *settings: str) -> CompareRun:
    return load_config(owner.config, overrides=settings, kind=CompareRun)


def learnt_cells(owner: User) -> list[Cell]:
    return [cell for cell in cells_of(load(owner)) if cell.contender.learns]


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
    config = load(owner, "compare.criteria=[rnf,hrank]")
    cells = [cell for cell in cells_of(config) if cell.search == "cross_layer"]
    assert [len({c.plan for c in cells if c.contender.name == name}) for name in ("rnf", "hrank")] == [1, 2]
    row = next(r for r in report_of(finished[0])["rows"] if (r["criterion"], r["search"]) == ("rnf", "cross_layer"))
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


def test_the_cells_of_autopruner_are_what_its_parts_give_by_hand(owner: User, finished: tuple[Path, str]) -> None:
    network, data = parts_of(owner, finished[0], seed=1)
    groups = channel_groups(network, data.example)
    macs = cost_model("macs", network, data.example, groups)
    start = uniform_plan(groups, scores_by_name(network, data.calibration, "l1"), macs, "60%", round_to=2)
    gates = GateRecipe(epochs=2, learning_rate=0.05, seed=1)
    found = autoprune(network, groups, macs, data.train.fresh(), keep=start.widths, recipe=gates)
    pruned = apply_plan(found.model, found.plan)
    shares = {"cut": accuracy(pruned, data.test)}
    torch.manual_seed(1)
    recalibrate_batch_norm(pruned, data.calibration, samples=2000)
    shares |= dict.fromkeys(("recalibrated", "compensated"), accuracy(pruned, data.test))
    torch.manual_seed(1)
    recipe = Recipe(epochs=1, learning_rate=0.01, distillation=0.5, seed=1)
    fine_tune(pruned, data.train.fresh(), data.validation, recipe=recipe, teacher=network, plan=found.plan)
    shares["fine-tuned"] = accuracy(pruned.eval(), data.test)
    cell = cell_of(finished[0], "autopruner", "uniform", 1)
    assert cell["accuracy"] == shares
    assert cell["macs"] == found.plan.cost_after == start.cost_after
    assert cell["learnt_epochs"] == 2
    assert cell["plan_seconds"] > 0
    assert cell["ties"] is cell["score_seconds"] is cell["score_images"] is None
    kept = load_file(finished[0] / "learnt" / f"{learnt_cells(owner)[1].weights}.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in found.model.state_dict().items())


def test_it_has_cells_for_uniform_widths_alone_and_shares_its_accuracies_with_none(owner: User) -> None:
    ours, kept = learnt_cells(owner), {"first": (0, 1)}
    assert [(cell.search, cell.seed) for cell in ours] == [("uniform", 0), ("uniform", 1)]
    others = [cell for cell in cells_of(load(owner)) if not cell.contender.learns]
    assert {cell.search for cell in others} == {"uniform", "cross_layer"}
    longer = cells_of(load(owner, GATES.replace("epochs: 2", "epochs: 3")))
    for stage in ("cut", "fine-tuned"):
        names = {cell.accuracy(stage, kept) for cell in (*ours, *others, *longer)}
        assert len(names) == 2 + (1 if stage == "cut" else 2) + 2


def test_tables_csv_and_page_say_that_it_was_trained_before(finished: tuple[Path, str]) -> None:
    output, printed = finished
    said = "its network was trained along with its gates before the cut, for 2 epochs in "
    assert said in printed
    page = (output / "comparison.html").read_text(encoding="utf-8")
    assert said in page
    assert page.count("<svg") == 3
    with (output / "comparison.csv").open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["name"] == "autopruner"]
    assert [(line["search"], line["learnt_epochs"], line["ties"], line["score_seconds"]) for line in lines] == [
        ("uniform", "2", "", "")
    ] * 2
    assert "autopruner" not in page[page.index("What the scores of all layers take") : page.index("How it was done")]


def test_the_page_draws_a_learnt_network_against_cost(owner: User, tmp_path: Path) -> None:
    settings = (*ALONE[:2], "compare.seeds=[0]", "compare.stages=[cut]", "compare.budgets=[80%,60%]")
    assert compare(owner, tmp_path / "out", *settings)[0] == 0
    assert len([*(tmp_path / "out").glob("learnt/*")]) == 2
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "Accuracy against MACs" in page
    assert "What the scores of all layers take" not in page


@pytest.mark.parametrize("harm", ["gone", "another"])
def test_a_network_whose_file_is_lost_is_trained_anew(
    owner: User, tmp_path: Path, finished: tuple[Path, str], harm: str
) -> None:
    output = tmp_path / "out"
    assert compare(owner, output, *ALONE, "compare.stages=[cut]")[0] == 0
    (path,) = output.glob("learnt/*")
    before = path.read_bytes()
    path.unlink()
    if harm == "another":
        save_weights(parts_of(owner, output, seed=0)[0], path)
    code, printed, complained = compare(owner, output, *ALONE)
    assert code == 0, complained
    assert "is gone, or is not what was written: training anew" in printed
    assert path.read_bytes() == before
    found, undisturbed = (cell_of(folder, "autopruner", "uniform", 1) for folder in (output, finished[0]))
    assert found["accuracy"] == undisturbed["accuracy"]
    assert not [*(output / "training").iterdir()]


def test_a_network_that_is_another_when_trained_anew_is_not_measured(
    owner: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, weigh = tmp_path / "out", learning_of_compare.weights_hash
    assert compare(owner, output, *ALONE, "compare.stages=[cut]")[0] == 0
    (path,) = output.glob("learnt/*")
    path.unlink()
    monkeypatch.setattr(learning_of_compare, "weights_hash", lambda network: f"{weigh(network)} elsewhere")
    assert compare(owner, output, *ALONE)[0] == 0
    cell = cell_of(output, "autopruner", "uniform", 1)
    assert "trained anew it is another, as on a GPU, another device or number of threads" in cell["not_measured"]
    assert cell["accuracy"]["recalibrated"] is None
    assert not path.exists()
    monkeypatch.undo()
    assert compare(owner, output, *ALONE)[0] == 0
    assert cell_of(output, "autopruner", "uniform", 1)["not_measured"] is None


def test_a_killed_training_of_gates_goes_on_from_its_last_epoch(
    owner: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: tuple[Path, str]
) -> None:
    """Four batches an epoch, two epochs."""
    output, steps, train = tmp_path / "out", list[int](), learning.autoprune

    def watched(*arguments: Any, on_step: Any, **options: Any) -> Any:
        def step(done: int, total: int) -> None:
            steps.append(done)
            if len(steps) == 6:
                raise KeyboardInterrupt
            on_step(done, total)

        return train(*arguments, on_step=step, **options)

    monkeypatch.setattr(learning, "autoprune", watched)
    assert compare(owner, output, *ALONE)[0] == 130
    assert not [*output.glob("learnt/*")]
    assert compare(owner, output, *ALONE)[0] == 0
    assert steps == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    found, undisturbed = (cell_of(folder, "autopruner", "uniform", 1) for folder in (output, finished[0]))
    assert found["accuracy"] == undisturbed["accuracy"]


def test_what_takes_no_gate_says_so_and_the_others_go_on(owner: User, tmp_path: Path) -> None:
    criteria = "compare.criteria=[rnf, {name: autopruner, options: {most: 10}}]"
    code, printed, complained = compare(owner, tmp_path / "out", criteria, *ALONE[1:], "compare.stages=[cut]")
    assert code == 0, complained
    assert cell_of(tmp_path / "out", "rnf", "uniform", 1)["not_measured"] is None
    why = cell_of(tmp_path / "out", "autopruner", "uniform", 1)["not_measured"]
    assert "8 channels take 64 weights to select from; at most 10 are allowed" in why
    assert "not measured: autopruner most=10 (secateur)" in printed


def test_a_smoke_run_learns_for_an_epoch_beside_a_criterion_of_ours(owner: User) -> None:
    few = load(owner, "compare.searches=[cross_layer,uniform]").smoke().compare
    assert [contender.name for contender in few.criteria] == ["rnf", "autopruner"]
    assert few.criteria[1].options == {"epochs": 1, "granularity": "all", "learning_rate": 0.05}
    assert few.searches == ("uniform",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["compare.searches=[cross_layer,curves]"], "searches: autopruner learns its channels at uniform widths, and"),
        ([GATES.replace("epochs", "epcohs")], r"criteria\.0: options of autopruner: epcohs: unknown key; did you mean"),
        ([GATES.replace("epochs", "speed")], "autopruner: speed: unknown key; allowed: preset, granularity, epochs"),
        ([GATES.replace("2,", "0,")], "options of autopruner: epochs: 0: must be greater than 0"),
        ([GATES.replace("epochs: 2", "preset: vgg11")], "preset: 'vgg11' is not allowed; allowed: 'vgg16', 'resnet50'"),
        ([GATES.replace("epochs: 2", "alpha: [2, 1]")], "autopruner: alpha must be two numbers > 0, the first"),
        (["compare.criteria=[{name: autopruner, samples: 10}]"], "samples: autopruner trains on all training images"),
        (["plan.autopruner={epochs: 2}"], r"plan\.autopruner: .* options of autopruner in compare\.criteria"),
        (["fine_tune.freeze=0.5"], r"fine_tune\.freeze: goes by scores, which autopruner does not have"),
    ],
)
def test_bad_input(owner: User, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(owner, *settings)
