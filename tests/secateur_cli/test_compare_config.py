"""What a comparison can be told, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from secateur.errors import ConfigError
from secateur_cli.comparison.cells import cells_of, latency_name
from secateur_cli.comparison.contenders import house_and_name, varies
from secateur_cli.comparison.results import _record
from secateur_cli.comparison.schema import CompareRun
from secateur_cli.comparison.setting import Setting
from secateur_cli.settings.config import load_config

CONFIG = """
network: {build: secateur.networks:digits_resnet}
data: {source: digits}
compare: {criteria: [hrank, "torch-pruning:taylor", "nni:slim"], budgets: [50%, {parameters: 40%}]}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "compare.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def load(path: Path, *settings: str) -> CompareRun:
    return load_config(path, overrides=settings, kind=CompareRun)


def test_defaults_and_short_forms(path: Path) -> None:
    compare = load(path).compare
    assert [contender.full_label for contender in compare.criteria] == [
        "hrank (secateur)",
        "taylor (Torch-Pruning)",
        "slim (NNI)",
    ]
    assert [budget.given for budget in compare.budgets] == [{"macs": "50%"}, {"parameters": "40%"}]
    assert compare.searches == ("uniform", "curves")
    assert compare.seeds == (0, 1, 2)
    assert compare.stages == ("cut", "recalibrated", "compensated")


def test_stages_stand_in_the_order_of_a_run(path: Path) -> None:
    """The last one decides who leads, so that the order in which they are listed must not."""
    assert load(path, "compare.stages=[compensated,recalibrated,cut]").compare.stages == (
        "cut",
        "recalibrated",
        "compensated",
    )


def test_cells_go_seed_by_seed(path: Path) -> None:
    cells = cells_of(load(path))
    assert len(cells) == 3 * 2 * 2 * 3
    assert [cell.seed for cell in cells] == [0] * 12 + [1] * 12 + [2] * 12
    assert cells[0].name == "seed 0, hrank (secateur), uniform, 50% of the MACs"
    assert cells[6].budget_name == "40% of the parameters"


def test_names_are_shared_only_where_nothing_depends_on_the_seed(path: Path) -> None:
    cells = cells_of(load(path, "compare.criteria=[l1,hrank]", "compare.budgets=[50%]"))
    plans = {criterion: {c.plan for c in cells if c.contender.name == criterion} for criterion in ("l1", "hrank")}
    assert {name: len(found) for name, found in plans.items()} == {"l1": 1 + 3, "hrank": 3 + 3}
    assert len({c.scores for c in cells}) == 1 + 3
    first, *_, last = cells
    kept = {"conv1": (0, 1)}
    assert first.accuracy("cut", kept) == last.accuracy("cut", kept)
    assert first.accuracy("compensated", kept) != last.accuracy("compensated", kept)


def test_trained_networks_are_shared_unless_the_scores_decide_what_stays_frozen(path: Path) -> None:
    kept = {"conv1": (0, 1)}
    names = [
        {cell.accuracy("fine-tuned", kept) for cell in cells_of(load(path, "compare.seeds=[0]", f"fine_tune={how}"))}
        for how in ("{freeze: 0}", "{freeze: 0.5}")
    ]
    assert [len(found) for found in names] == [1, 3]


def test_a_cell_that_could_not_be_timed_says_why(path: Path) -> None:
    config = load(path, "compare.latency=true", "compare.stages=[cut]")
    cell, setting = cells_of(config)[0], SimpleNamespace(config=config, groups={})
    facts: dict[str, Any] = {
        cell.plan: {"kept": {}, "ties": {}, "seconds": 0.1},
        cell.accuracy("cut", {}): {"accuracy": 0.5},
    }
    for known, reason in (({}, "not measured yet"), ({f"{cell.refusal}: no": {"reason": "no"}}, "no")):
        assert _record(cast(Setting, setting), facts | known, cell, {})["not_measured"] == reason
    timed = facts | {latency_name({}): {"comparisons": []}}
    assert _record(cast(Setting, setting), timed, cell, {})["not_measured"] is None


def test_the_schedule_leaves_out_cells_paths_and_defaults(path: Path) -> None:
    plain = load(path).schedule()
    assert plain == load(path, "compare.seeds=[7]", "compare.searches=[greedy]", "threads=2").schedule()
    assert plain == load(path, "plan.round_to=8").schedule()
    assert plain == load(path, "network.weights=elsewhere.safetensors").schedule()
    assert plain != load(path, "plan.round_to=4").schedule()
    assert plain != load(path, "recover.samples=10").schedule()


def test_the_file_of_a_run_and_that_of_a_comparison_are_told_apart(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compare\.yaml says what to compare .*: give it to `secateur compare`"):
        load_config(path)
    run = tmp_path / "run.yaml"
    run.write_text("network: {build: a:b}\ndata: {source: digits}\nplan: {budget: {macs: 50%}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"compare: missing; a comparison says what is compared"):
        load(run)


def test_smoke_keeps_one_criterion_of_each_house(path: Path) -> None:
    smoke = load(path, "compare.criteria=[hrank,l1,'nni:l1','nni:l2','torch-pruning:fpgm']").smoke()
    assert [c.name for c in smoke.compare.criteria] == ["hrank", "torch-pruning:fpgm", "nni:l1"]
    assert len(smoke.compare.budgets) == len(smoke.compare.searches) == len(smoke.compare.seeds) == 1
    assert smoke.data.limit == 64
    assert smoke.score.samples == smoke.recover.samples == 32


@pytest.mark.parametrize(
    ("name", "house", "depends"),
    [
        ("l1", "secateur", False),
        ("random", "secateur", True),
        ("di", "secateur", True),
        ("taylor", "secateur", True),
        ("reconstruction", "secateur", True),
        ("torch-pruning:lamp", "Torch-Pruning", False),
        ("torch-pruning:random", "Torch-Pruning", True),
        ("nni:fpgm", "NNI", False),
        ("nni:slim", "NNI", True),
    ],
)
def test_houses(name: str, house: str, depends: bool) -> None:
    assert house_and_name(name)[0] == house
    assert varies(name) is depends


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["plan.budget.macs=40%"], r"plan\.budget: a comparison has several; they stand in compare\.budgets"),
        (["plan.search=greedy"], r"plan\.search: .* compare\.searches"),
        (["score.criterion=di"], r"score\.criterion: .* compare\.criteria"),
        (["plan.rescore=true"], r"plan\.rescore: not in a comparison"),
        (["plan.greedy_from=80%"], r"plan\.greedy_from: not in a comparison"),
        (["plan.variant=edge"], r"plan\.variant: not in a comparison"),
        (["recover=sketch", "fine_tune=null"], "recover: sketch: not in a comparison"),
        (["fine_tune={like: hrank}"], r"fine_tune\.layer_by_layer: not in a comparison"),
        (["quantize={size: 1MB}"], "quantize: not in a comparison"),
        (["onnx.int8=true"], r"onnx\.int8: not in a comparison"),
        (["compare.criteria=[hrnk]"], r"compare\.criteria\.0: unknown criterion 'hrnk'; did you mean 'hrank'"),
        (["compare.criteria=[l1,l1]"], r"criteria: l1 \(secateur\): the same twice"),
        (["compare.criteria=[]"], "must hold at least one entry"),
        (["compare.criteria=5"], "must be a mapping with the keys name, options, samples"),
        (["compare.criteria=['amc:l1']"], "nothing called 'amc'; a name begins with torch-pruning:, nni: or has no"),
        (["compare.criteria=['nni:level']"], "single weights"),
        (["compare.criteria=['torch-pruning:obdc']"], "fails on every convolutional network"),
        (
            ["compare.criteria=[{name: 'torch-pruning:lamp', options: {q: 1}}]"],
            "has no option 'q'; it takes p, group_reduction",
        ),
        (["compare.criteria=[{name: hrank, samples: 0}]"], r"samples: 0: must be greater than 0"),
        (["compare.budgets=[150%]"], "must lie above 0% and below 100%"),
        (["compare.budgets=[{latency: 50%}]"], "latency is measured in a comparison"),
        (["compare.searches=[refine]"], "'refine' is not allowed"),
        (["compare.seeds=[1,1]"], "seeds: 1: the same twice"),
        (["compare.seeds=3"], r"compare\.seeds: must be a list of seeds such as \[0, 1, 2\], or \[3\] for that one"),
        (["compare.budgets=[50%, 50.0%]"], "budgets: .*50.0%.*: the same twice"),
        (["compare.budgets=[60M, 60000000]"], "budgets: .*60000000.*: the same twice"),
        (["compare.budgets=[{latency: 2.5ms}]"], "latency is measured in a comparison"),
        (["compare.stages=[trained]"], "'trained' is not allowed"),
        (["fine_tune=null", "compare.stages=[fine-tuned]"], "needs a schedule, but fine_tune is null"),
        (["compare.sedes=[1]"], "unknown key; did you mean 'seeds'"),
        (["compare=null"], "must be a mapping with the keys criteria, searches"),
    ],
)
def test_bad_input(path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(path, *settings)
