"""NNI's remote training service for real: trials on a machine that is reached by ssh, here this one on loopback."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments_for_tests import MARK, write_experiment
from secateur import load_plan
from secateur_nni.experiments.following import follow
from secateur_nni.experiments.manager import free_port, running
from secateur_nni.experiments.setting import load_experiment
from secateur_nni.host import check_nnictl

pytestmark = [pytest.mark.nni, pytest.mark.thorough, pytest.mark.timeout(600)]

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
Subsystem sftp internal-sftp
SetEnv {variables}
"""
MACHINE = """
nniManagerIp: 127.0.0.1
trainingService:
  platform: remote
  machineList:
    - {{host: 127.0.0.1, port: {port}, user: {user}, sshKeyFile: {key}, pythonPath: {python}}}
"""


@pytest.fixture
def sshd(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Start an OpenSSH server on loopback; yield its port and the private key that it lets in."""
    program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    if program is None or shutil.which("ssh-keygen") is None:
        pytest.skip("there is no OpenSSH server (Debian: apt-get install openssh-server)")
    try:
        check_nnictl()
    except ImportError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    (folder / "home").mkdir()
    variables = {
        MARK: str(tmp_path),
        "HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.startswith("/")),
        "PIP_NO_INDEX": "1",  # NNI asks pip for an upgrade of itself there
        "OMP_NUM_THREADS": "1",
    }
    port = free_port()
    told = " ".join(f"{name}={value}" for name, value in variables.items())
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder, variables=told), encoding="utf-8")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                pytest.skip(f"the OpenSSH server does not start: {server.communicate()[1]}")
            time.sleep(0.1)
        yield port, folder / "user_key"
    finally:
        server.terminate()
        server.communicate()


def test_greedy_search_on_a_machine_reached_by_ssh(user: Path, sshd: tuple[int, Path]) -> None:
    port, key = sshd
    path = write_experiment(user, "worth", concurrency=2)
    python = Path(sys.executable).parent
    machine = MACHINE.format(port=port, user=getpass.getuser(), key=key, python=python)
    text = path.read_text(encoding="utf-8").replace("trainingService: {platform: local}", machine)
    path.write_text(text, encoding="utf-8")
    with running(load_experiment(path), folder=user / "experiment") as experiment:
        trials = follow(experiment, timeout=500)
    command = "import searching; print(searching.search(lambda worth, identity='': worth).fingerprint)"
    done = subprocess.run([sys.executable, "-c", command], cwd=user, capture_output=True, text=True, check=True)
    assert load_plan(user / "out").fingerprint == done.stdout.strip()
    assert {trial.status for trial in trials} == {"SUCCEEDED"}
    assert all(trial.metrics for trial in trials)
