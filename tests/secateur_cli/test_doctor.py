"""`secateur doctor`: what it prints at any width, what it returns, and that it runs where it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runs_for_tests import User, give
from secateur.findings import Finding
from secateur_cli.commands import doctor as command
from secateur_cli.doctor.environment import Environment

SOUND = [Finding("onnx", "1.23.2")]
CLASH = Finding(
    "ONNX Runtime",
    "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both installed; the files are those of onnxruntime 1.32.0",
    "error",
    "they write into one folder, so that the one installed last decides, without a word, whether a device can be used",
    ("pip uninstall -y onnxruntime onnxruntime-gpu", f'pip install "onnxruntime-gpu[cuda,cudnn]>=1.28" {"x" * 60}'),
)
SLOW = Finding("[bold]numba[/bold] :warning:", "not installed", "warning", "slower", ("pip install numba",))


@pytest.fixture
def installation(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Return the findings of the installation, to be filled by the test, in place of those of this machine."""
    findings: list[Finding] = []
    monkeypatch.setattr(command, "installed_packages", dict)
    monkeypatch.setattr(command, "read_environment", lambda packages: Environment("3.11", packages))
    monkeypatch.setattr(command, "read_installation", lambda packages: None)
    monkeypatch.setattr(command, "diagnose_environment", lambda here: [])
    monkeypatch.setattr(command, "diagnose_nni", lambda here: [])
    monkeypatch.setattr(command, "diagnose", lambda here: findings)
    return findings


@pytest.mark.parametrize(
    ("findings", "code", "verdict"),
    [
        (SOUND, 0, "no error, no warning in 1 checks"),
        ([*SOUND, SLOW], 0, "1 warning in 2 checks"),
        ([CLASH, SLOW, CLASH], 1, "2 errors, 1 warning in 3 checks"),
    ],
)
def test_the_exit_code_is_that_of_the_worst(
    installation: list[Finding], findings: list[Finding], code: int, verdict: str
) -> None:
    installation.extend(findings)
    found, said, complained = give("doctor")
    assert (found, complained) == (code, "")
    assert said.splitlines()[-1] == verdict


@pytest.mark.parametrize("columns", [80, 140])
def test_commands_stand_whole_on_lines_of_their_own_at_any_width(installation: list[Finding], columns: int) -> None:
    installation.extend([*SOUND, CLASH, SLOW])
    said = give("doctor", columns=columns)[1]
    lines = said.splitlines()
    for line in (*CLASH.mend, *SLOW.mend):
        assert line in [line.strip() for line in lines]
    told = [line for line in lines if line.strip() not in CLASH.mend]
    assert max(map(len, told)) <= columns
    assert "…" not in said
    words = " ".join(said.split())
    assert "so that the one installed last decides, without a word, whether a device can be used." in words
    assert SLOW.check in said


def test_data_instead_of_tables(installation: list[Finding], user: User) -> None:
    installation.extend([CLASH, SLOW])
    code, said, _ = give("doctor", "--json")
    told: dict[str, Any] = json.loads(said)
    assert code == 1
    assert told == {"worst": "error", "installation": [CLASH.to_json(), SLOW.to_json()]}
    broken = ("--set", "network.build=secateur_user_networks:NoSuch", "--set", "data.source=nowhere:load")
    code, said, _ = give("doctor", str(user.config), "--json", *broken)
    found = json.loads(said)["network"]
    assert [finding["check"] for finding in found] == ["network", "data"]
    assert (code, {finding["severity"] for finding in found}) == (1, {"error"})


def test_the_traceback_of_what_fails(installation: list[Finding], user: User) -> None:
    settings = ("--set", "network.build=secateur_user_networks:NoSuch", "--set", "data.source=nowhere:load")
    assert "Traceback" not in give("doctor", str(user.config), *settings)[2]
    assert "Traceback" in give("doctor", str(user.config), *settings, "--traceback")[2]


def test_a_setting_that_is_none(installation: list[Finding], user: User) -> None:
    code, said, complained = give("doctor", str(user.config), "--set", "plan.bugdet.macs=50%")
    assert (code, said) == (2, "")
    assert "did you mean 'budget'?" in complained


def test_it_runs_where_it_is_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "secateur_cli", "doctor", "--json"], capture_output=True, text=True, cwd=tmp_path
    )
    told = json.loads(done.stdout)
    assert done.returncode == (1 if told["worst"] == "error" else 0)
    found = {finding["check"]: finding for finding in told["installation"]}
    assert {"Python", "torch", "torchvision", "torch-pruning", "onnx", "ONNX Runtime", "provider cpu"} <= found.keys()
    assert found["provider cpu"]["what"] == "ran a convolution"
    assert list(tmp_path.iterdir()) == []


def test_a_command_line_that_cannot_start_says_so_in_a_line(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from secateur_cli.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: secateur cannot start: ")
    assert "torch" in done.stderr
    assert done.stderr.endswith("`pip check` names what is missing or does not fit\n")
