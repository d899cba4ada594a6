"""Until an experiment has come to its end: a manager that is slow to answer, and one that never will."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from nni.experiment import AlgorithmConfig, Experiment, ExperimentConfig

from secateur.errors import ProcessError
from secateur_nni.experiments import following
from secateur_nni.experiments.following import follow
from secateur_nni.experiments.manager import Running, _stop, free_port


class Manager:
    """An experiment whose manager gives some answers, one after the other, and then the last of them for ever."""

    config = ExperimentConfig(tuner=AlgorithmConfig(name="TPE"))

    def __init__(self, *answers: str | Exception, process: Any = None) -> None:
        self._answers, self._proc = list(answers), process

    def get_status(self) -> str:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def list_trial_jobs(self) -> list[Any]:
        return []

    def get_job_metrics(self) -> dict[str, Any]:
        return {}


def killed() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    process.kill()
    process.wait()
    return process


class Alive:
    """A process that goes on."""

    def poll(self) -> None:
        return None


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL", 0.01)


def test_an_answer_that_is_late_is_waited_for(tmp_path: Path) -> None:
    late = requests.exceptions.ReadTimeout("Read timed out.")
    manager = Manager("RUNNING", late, late, "DONE", process=Alive())
    assert follow(Running(manager, tmp_path, 1)) == []
    assert (tmp_path / "trials.json").read_text(encoding="utf-8").strip() == "[]"


def test_a_manager_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "SILENCE", 0.05)
    manager = Manager(requests.exceptions.ConnectionError("refused"), process=Alive())
    with pytest.raises(ProcessError, match=r"NNI's manager has not answered for 0 s \(refused\)"):
        follow(Running(manager, tmp_path, 1))


def test_a_manager_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "x" / "log").mkdir(parents=True)
    (tmp_path / "x" / "log" / "nnimanager.log").write_text("ERROR (main) out of memory\n", encoding="utf-8")
    process = killed()
    manager = Manager("RUNNING", requests.exceptions.ConnectionError("refused"), process=process)
    with pytest.raises(
        ProcessError, match=r"NNI's manager has ended; its logs in .* say: ERROR \(main\) out of memory"
    ):
        follow(Running(manager, tmp_path, 1))


def test_a_search_that_could_not_say_why(tmp_path: Path) -> None:
    manager = Manager("RUNNING", "ERROR", process=Alive())
    manager.config = ExperimentConfig("local", trial_command="true", trial_concurrency=1, search_space={})
    arguments = {"search": "a:b", "output": str(tmp_path)}
    manager.config.tuner = AlgorithmConfig(name="SecateurGreedy", class_args=arguments)
    with pytest.raises(ProcessError, match=rf"experiment failed, and its search has not said why in {tmp_path}"):
        follow(Running(manager, tmp_path, 1))


def test_a_manager_that_was_killed_is_not_asked_to_end(capfd: pytest.CaptureFixture[str]) -> None:
    experiment = Experiment(ExperimentConfig("local"))
    experiment._proc, experiment.port = killed(), free_port()
    _stop(experiment)
    assert capfd.readouterr() == ("", "")
