"""GPUs of an experiment on this machine: what NNI's scheduler makes of a trialGpuNumber, refused before it waits."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import nni_node
import pytest

from secateur.errors import ConfigError
from secateur_nni.experiments import setting
from secateur_nni.experiments.manager import running
from secateur_nni.experiments.setting import check_gpus, load_experiment

ASKED = """
trialCommand: python trial.py
trialConcurrency: 1
trialGpuNumber: {number}
searchSpace: {{}}
tuner: {{name: TPE}}
trainingService: {{platform: local, useActiveGpu: true, maxTrialNumberPerGpu: {each}}}
"""
SCHEDULER = """
require('common/globals/unittest').resetGlobals();
const scheduler = require('common/trial_keeper/task_scheduler/scheduler');
const gpus = Array.from({length: %d}, (_, index) => ({index}));
scheduler.UnitTestHelpers.mockGpuInfo({gpuNumber: gpus.length, gpus, processes: []});
(async () => {
    const tasks = new scheduler.TaskScheduler();
    await tasks.init();
    console.log(JSON.stringify(await tasks.schedule('experiment', 'trial', %s)));
    process.exit(0);
})()
"""


def written(folder: Path, number: int, each: int) -> Path:
    path = folder / "experiment.yml"
    path.write_text(ASKED.format(number=number, each=each), encoding="utf-8")
    return path


def refused(folder: Path, number: int, each: int) -> str:
    """Return why an experiment whose trials ask for so many GPUs, each with so many trials, is refused, or nothing."""
    try:
        check_gpus(load_experiment(written(folder, number, each)))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("here", "number", "each", "starts"),
    [(1, 1, 1, False), (1, 1, 2, True), (2, 1, 1, True), (2, 2, 1, False), (2, 2, 2, True)],
)
def test_trials_that_nni_never_starts_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: int, number: int, each: int, starts: bool
) -> None:
    monkeypatch.setattr(setting, "gpu_count", lambda: here)
    folder = Path(nni_node.__file__).parent
    command = [str(folder / "node"), "-e", SCHEDULER % (here, number / each)]
    done = subprocess.run(command, cwd=folder, env={"NODE_PATH": "."}, capture_output=True, text=True, check=True)
    assert (json.loads(done.stdout) is not None) == starts, "NNI has mended its scheduler: check_gpus may go"
    told = refused(tmp_path, number, each)
    assert ("leave it out" in told) != starts
    if not starts:
        where = "here is 1" if here == 1 else f"here are {here}"
        assert told.startswith(
            f"trialGpuNumber: {number}: NNI starts such trials only where there are more than {here}"
        )
        assert where in told


def test_an_experiment_whose_trials_would_not_start_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting, "gpu_count", lambda: 1)
    config = load_experiment(written(tmp_path, 1, 1))
    with pytest.raises(ConfigError, match="trialGpuNumber"), running(config, folder=tmp_path / "experiment"):
        pytest.fail("it has started")
    assert not (tmp_path / "experiment").exists()


def test_a_machine_without_gpus_starts_trials_that_ask_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting, "gpu_count", lambda: 0)
    assert refused(tmp_path, 0, 1) == ""
    assert "more than 0.5 GPUs, and here are 0" in refused(tmp_path, 1, 2)


def test_gpus_are_counted_as_nni_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from nni.tools.nni_manager_scripts import collect_gpu_info

    def three(detail: bool) -> object:
        return type("SystemInfo", (), {"gpu_number": 3})

    monkeypatch.setattr(collect_gpu_info, "collect", three)
    assert setting.gpu_count() == 3
    monkeypatch.setattr(collect_gpu_info, "collect", lambda detail: None)  # as without a driver
    assert setting.gpu_count() == 0
