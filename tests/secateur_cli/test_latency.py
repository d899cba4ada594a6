"""A budget of latency by the command: what it may be, how it is met, told and gone on with."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur_onnx.latency.latency
from runs_for_tests import User
from secateur.checkpoint import load_plan
from secateur.errors import ConfigError, MissingDependencyError, NetworkError
from secateur_cli.settings.config import load_config
from secateur_cli.stages import latency, preparation
from secateur_onnx.latency import whole_runs

BUDGET = "plan.budget={latency: 70%, provider: cpu, batch: 4}"


@pytest.fixture(autouse=True)
def layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer times by a formula: those of a network so small are all alike. Whole networks are timed for real."""
    monkeypatch.setattr(
        secateur_onnx.latency.latency, "time_layers", lambda _, pairs, **__: [0.01 + 0.001 * i * o for i, o in pairs]
    )


def measurements(folder: Path) -> list[tuple[str, float]]:
    connection = sqlite3.connect(folder / "latency.sqlite")
    try:
        return connection.execute("SELECT name, value FROM measurements ORDER BY name").fetchall()
    finally:
        connection.close()


@pytest.mark.filterwarnings("ignore::secateur.errors.SecateurWarning")
def test_a_run_to_a_latency(user: User, tmp_path: Path) -> None:
    code, said, complained = user.command(tmp_path / "run", BUDGET, "fine_tune=null")
    assert (code, complained) == (0, "")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    found, plan = report["plan"]["settings"]["latency"], report["plan"]
    chosen = found["rounds"][found["chosen"]]
    assert plan["cost"] == "latency"
    assert plan["after"] / plan["before"] == pytest.approx(chosen["measured"]["share"])
    assert found["allowed"] == pytest.approx(0.7)
    assert found["met"] == (plan["after"] <= plan["budget"])
    assert found["where"]["batch"] == 4
    assert f"latency: measured {chosen['measured']['share']:.1%} of the dense time" in said
    assert {c["batch_size"] for c in report["onnx"]["benchmark"]["comparisons"]} == {1, 4}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Latency, predicted and measured" in page
    assert f"predicted {chosen['predicted']:.1%}, off by {chosen['error']:+.1%}" in page
    assert max(map(len, said[said.index("top-1, held out") :].splitlines())) <= 80


def test_a_search_that_goes_on_measures_nothing_again(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    settings = ("plan.search=greedy", "plan.budget={macs: 80%, latency: 90%}", "plan.delta=0.05")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(latency, "_with_place", stop)  # everything was measured, and nothing is recorded yet
        code, _, complained = user.command(output, *settings, name="search")
    assert code == 130, complained
    before = measurements(output)
    assert {name.split()[0] for name, _ in before} == {"layer", "whole"}
    monkeypatch.setattr(secateur_onnx.latency.latency, "time_layers", stop)
    monkeypatch.delattr(whole_runs, "benchmark")
    code, said, complained = user.command(output, *settings, name="search", flags=("--resume",))
    assert (code, complained) == (0, "")
    assert "the journal of the search holds" in said
    assert measurements(output) == before
    plan = load_plan(output)
    assert list(plan.spent) == ["macs", "latency"]
    assert plan.spent["macs"].after <= plan.spent["macs"].budget


@pytest.mark.parametrize(
    ("budget", "complaint"),
    [
        ("{latency: 60}", "plan.budget.latency: 60: must be a share of the dense network's time such as 60%"),
        ("{latency: 100%}", "plan.budget.latency: the budget '100%' is already met"),
        ("{latency: 0ms}", "plan.budget.latency: '0ms': must be a share"),
        ("{latency: 60%, batch: 0}", "plan.budget.batch: "),
        ("{latency: 60%, provider: cudo}", "plan.budget.provider: "),
        ("{macs: 50%, batch: 4}", "batch: only a budget of latency has them"),
        ("{batch: 4}", "no budget; give at least one of macs"),
    ],
)
def test_what_a_latency_may_not_be(user: User, budget: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(user.config, overrides=[f"plan.budget={budget}"])
    assert complaint in str(raised.value)


def test_what_a_latency_may_be(user: User) -> None:
    def given(budget: str) -> dict[str, object]:
        config = load_config(user.config, overrides=[f"plan.budget={budget}"])
        assert load_config(user.config, overrides=[f"plan.budget={budget}"]).canonical() == config.canonical()
        return dict(config.plan.budget.given)

    assert given("{latency: 2.5ms, macs: 50%}") == {"macs": "50%", "latency": 2.5}
    assert given("{latency: 60%, provider: cpu, batch: 1}") == {"latency": "60%"}


def test_what_cannot_be_timed_is_refused_before_any_work(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "check_export", latency.check_export)

    def refused(name: str, error: Exception, complaint: str) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(latency.secateur_onnx, name, refuse)
            code, _, complained = user.command(tmp_path / "run", BUDGET, name="search")
        assert (code, complaint in complained) == (2, True), complained
        assert not (tmp_path / "run").exists()

    refused("check_installation", MissingDependencyError("the package 'onnx' cannot be imported"), "'onnx' cannot")
    refused("export", NetworkError("the network cannot be exported to ONNX"), "cannot be exported")
    code, _, complained = user.command(
        tmp_path / "run", "plan.budget={latency: 60%}", "onnx.provider=tensorrt", name="search"
    )
    assert code == 2
    assert "a latency is not measured on 'tensorrt': give plan.budget.provider, one of cpu, cuda" in complained


def test_milliseconds_that_the_dense_network_takes_are_refused_before_any_work(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "check_export", latency.check_export)
    monkeypatch.setattr(whole_runs.WholeRuns, "__call__", lambda *_: whole_runs.WholeRun(1.0, 1.0, 1.0, 0.25))
    code, _, complained = user.command(tmp_path / "run", "plan.budget={latency: 0.25ms}", name="search")
    assert code == 2
    assert "the budget 0.25 ms is already met: the dense network costs 0.25 ms" in complained
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("budget", "timed"), [("{latency: 0.25ms, macs: 80%}", True), ("{latency: 70%}", True), ("{latency: 1ms}", False)]
)
def test_the_dense_network_is_not_timed_where_that_decides_nothing(
    user: User, monkeypatch: pytest.MonkeyPatch, budget: str, timed: bool
) -> None:
    done: list[str] = []
    monkeypatch.setattr(latency, "_whole_runs", lambda *_, **__: done.append("timed"))
    monkeypatch.setattr(latency.secateur_onnx, "export", lambda *_: done.append("exported"))
    config = load_config(user.config, overrides=[f"plan.budget={budget}"])
    latency.check_export(config, nn.Identity(), torch.zeros(1, 3), timed=timed)
    assert done == ["exported"]


def test_each_round_has_a_journal_of_its_own(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that end in a plan of an earlier one decide by another cost nevertheless."""

    def measured(self: whole_runs.WholeRuns, plan: object) -> whole_runs.WholeRun:
        share = 1.0 if plan is None else 0.2  # faster than any budget asks for, so that looser costs are tried
        return whole_runs.WholeRun(share, share, share, 1.0)

    monkeypatch.setattr(whole_runs.WholeRuns, "__call__", measured)
    settings = ("plan.search=greedy", "plan.budget={macs: 50%, latency: 60%}")
    code, said, complained = user.command(tmp_path / "run", *settings, name="search")
    assert (code, complained) == (0, "")
    assert said.count("measured 20.0% of the dense time") >= 2
    assert len(list((tmp_path / "run").glob("journal-*.sqlite"))) > said.count("  plan ")


@pytest.fixture
def at_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each plan takes half of the dense network's time."""

    def measured(_: whole_runs.WholeRuns, plan: object) -> whole_runs.WholeRun:
        share = 1.0 if plan is None else 0.5
        return whole_runs.WholeRun(share, share, share, 1.0)

    monkeypatch.setattr(whole_runs.WholeRuns, "__call__", measured)


@pytest.mark.usefixtures("at_half")
def test_channels_are_learnt_at_the_widths_of_a_latency(user: User, tmp_path: Path) -> None:
    settings = ("plan.search=autopruner", "plan.budget={latency: 51%}", "plan.autopruner={epochs: 1}")
    code, said, complained = user.command(tmp_path / "run", *settings, name="search")
    assert (code, complained) == (0, "")
    assert "latency: measured 50.0% of the dense time" in said
    plan = load_plan(tmp_path / "run")
    assert (list(plan.spent), plan.settings["search"]) == (["latency"], "autopruner")


@pytest.mark.usefixtures("at_half")
def test_layers_are_timed_once_for_all_searches(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[object] = []

    def time_layers(geometry: object, pairs: list[tuple[int, int]], **_: object) -> list[float]:
        timed.append(geometry)
        return [0.01 + 0.001 * i * o for i, o in pairs]

    monkeypatch.setattr(secateur_onnx.latency.latency, "time_layers", time_layers)
    code, said, complained = user.command(
        tmp_path / "run", "plan.search=[uniform,curves]", "plan.budget={latency: 51%}", name="search"
    )
    assert (code, complained) == (0, "")
    assert said.count("latency: measured 50.0% of the dense time") == 2
    assert len(timed) == len(set(timed)) == 2  # both convolutions are of one kind
    own = [measurements(tmp_path / "run" / search) for search in ("uniform", "curves")]
    assert own[0] == own[1]


@pytest.mark.usefixtures("at_half")
def test_a_greedy_search_begins_above_a_latency(user: User, tmp_path: Path) -> None:
    settings = ("plan.search=greedy", "plan.greedy_from=80%", "plan.budget={macs: 90%, latency: 51%}")
    code, said, complained = user.command(tmp_path / "run", *settings, name="search")
    assert (code, complained) == (0, "")
    assert "latency: measured 50.0% of the dense time" in said
    code, _, complained = user.command(tmp_path / "other", *settings, "plan.budget.latency=80%", name="search")
    assert code == 2
    assert "plan.greedy_from: 80%: the search has to begin above a budget" in complained
