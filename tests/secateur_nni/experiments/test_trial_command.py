"""The command of the trials: what bash cannot begin is refused before NNI lets every trial fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nni.experiment import ExperimentConfig

from secateur.errors import ConfigError
from secateur_nni.experiments import setting
from secateur_nni.experiments.setting import check_command


def local(command: str) -> ExperimentConfig:
    return ExperimentConfig("local", trial_command=command)


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("pythn trial.py", "pythn"),
        ("python3.x11 trial.py", "python3.x11"),
        ("A=1 B= pythn trial.py", "pythn"),
        ("pythn; true", "pythn"),
    ],
)
def test_program_that_is_not_there(command: str, program: str) -> None:
    with pytest.raises(ConfigError, match=f"trialCommand: '{program}' is not found on this machine"):
        check_command(local(command))


@pytest.mark.parametrize(
    "command",
    [
        "source env/bin/activate && python trial.py",
        "cd sub && python trial.py",
        "export A=1; python trial.py",
        "exec python trial.py",
        "set -e; python trial.py",
        "if true; then python trial.py; fi",
        "time python trial.py",
        "{ python trial.py; }",
        "(cd sub; python trial.py)",
        "A=1 python trial.py",
        "A=1; python trial.py",
        "PATH=/where/it/is pythn trial.py",
        "A='x y' python trial.py",
        "'python' trial.py",
        "$PYTHON trial.py",
        "./trial.sh",
        "go() { python trial.py; }; go",
    ],
)
def test_what_the_shell_of_the_trials_begins_with(command: str) -> None:
    check_command(local(command))


def test_no_shell_for_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting, "trial_path", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match="trials of this machine are started by bash, which is not found on it"):
        check_command(local("python trial.py"))


def test_program_beside_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials find the programs of this environment first, whether it is activated or not."""
    (tmp_path / "bash").symlink_to(str(shutil.which("bash")))
    monkeypatch.setenv("PATH", str(tmp_path))
    check_command(local("python trial.py"))
