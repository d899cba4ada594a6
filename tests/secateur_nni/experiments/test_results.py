"""Trials joined with the parameters that they really had, the front, and the tables."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import ConfigError
from secateur_nni.experiments.results import Trial, flattened, front, join, read_trials, table, write_trials


def job(name: str, number: int, *, status: str = "SUCCEEDED") -> Any:
    had = SimpleNamespace(parameter_id=number, parameters={"x": number})
    return SimpleNamespace(
        trialJobId=name, sequenceId=number, status=status, hyperParameters=[had], startTime=1000, endTime=3000
    )


def metric(parameter: int, data: Any, *, kind: str = "FINAL", sequence: int = 0) -> Any:
    return SimpleNamespace(parameterId=str(parameter), type=kind, sequence=sequence, data=data)


def test_trials_have_the_parameters_that_their_metrics_name() -> None:
    """The first died before it asked: each later one had the parameters that NNI shows beside the one before."""
    jobs = [job("a", 0, status="FAILED"), job("b", 1), job("c", 2, status="RUNNING")]
    metrics = {
        "b": [metric(0, 0.5), metric(0, 0.2, kind="PERIODICAL", sequence=1), metric(0, 0.1, kind="PERIODICAL")],
        "c": [metric(1, 0.3, kind="PERIODICAL")],
    }
    dead, second, third = join(jobs, metrics)
    assert (dead.parameters, dead.result, dead.metrics) == (None, None, {})
    assert (second.parameters, second.result, second.intermediate, second.seconds) == ({"x": 0}, 0.5, (0.1, 0.2), 2.0)
    assert (third.parameters, third.result) == ({"x": 1}, None)


def test_what_failed_has_no_metrics() -> None:
    failed = Trial("a", 0, "FAILED", {}, {"default": -1e9, "error": "RuntimeError: no"})
    odd = Trial("b", 1, "SUCCEEDED", {}, {"default": math.nan, "accuracy": 0.5, "flag": True, "folder": "x"})
    assert failed.metrics == {}
    assert odd.metrics == {"accuracy": 0.5}


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_front_is_what_no_trial_beats(points: list[tuple[int, int]]) -> None:
    trials = [Trial(str(i), i, "SUCCEEDED", {}, {"cost": c, "worth": w}) for i, (c, w) in enumerate(points)]
    found = [(t.metrics["cost"], t.metrics["worth"]) for t in front(trials, cost="cost", worth="worth")]
    unbeaten = {(c, w) for c, w in points if not any(x <= c and y >= w and (x, y) != (c, w) for x, y in points)}
    assert set(found) == unbeaten
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(found))


def test_tables_hold_every_parameter_and_metric() -> None:
    nested = {"criterion": {"_name": "di", "rho": 0.1}, "delta": 0.02}
    trials = [
        Trial("a", 0, "SUCCEEDED", nested, {"accuracy": 0.9, "macs": 5}, (), 2.0),
        Trial("b", 1, "FAILED", None, None),
    ]
    assert table(trials, best=trials[:1]).splitlines() == [
        "trial,number,status,seconds,criterion,rho,delta,metric.accuracy,metric.macs,front",
        "a,0,SUCCEEDED,2.0,di,0.1,0.02,0.9,5.0,1",
        "b,1,FAILED,,,,,,,0",
    ]
    assert flattened(nested) == {"criterion": "di", "rho": 0.1, "delta": 0.02}


def test_trials_there_and_back(tmp_path: Path) -> None:
    trials = [Trial("a", 0, "SUCCEEDED", {"x": 1}, {"default": 0.5}, [0.1], 2.0)]
    write_trials(trials, tmp_path)
    assert read_trials(tmp_path) == trials
    (tmp_path / "trials.json").write_text("[1", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_trials(tmp_path)
    with pytest.raises(ConfigError, match=r"not the folder of an experiment: it holds no trials\.json"):
        read_trials(tmp_path / "none")
