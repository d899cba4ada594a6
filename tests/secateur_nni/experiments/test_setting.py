"""An experiment's YAML file, and what would keep NNI from starting: refused at once, in words."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from secateur.errors import ConfigError, MissingDependencyError, ProcessError
from secateur.installed import Package
from secateur_nni import locks
from secateur_nni.experiments import manager
from secateur_nni.experiments.manager import free_port, last_words, refuse_busy, running
from secateur_nni.experiments.setting import greedy_arguments, load_experiment

WELL = """
trialCommand: python trial.py
trialConcurrency: 1
searchSpace: {x: {_type: choice, _value: [1, 2]}}
tuner: {name: TPE}
trainingService: {platform: local}
"""
OURS = {"search": "a:b", "output": "out"}


def written(folder: Path, text: str) -> Path:
    path = folder / "experiment.yml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_count_from_the_file(tmp_path: Path) -> None:
    config = load_experiment(written(tmp_path, WELL))
    assert Path(config.canonical_copy().trial_code_directory) == tmp_path
    assert greedy_arguments(config) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trialConcurrency", "trialConcurency", "trialConcurency: unknown key; did you mean 'trialConcurrency'?"),
        ("trialConcurrency: 1", "trialConcurrency: 0", "trialConcurrency: 0: must be a whole number of at least 1"),
        ("trialConcurrency: 1", "trialConcurrency: yes", "trialConcurrency: True: must be a whole number"),
        ("trialCommand: python trial.py", "", "trialCommand: missing; it must be given"),
        ("searchSpace: {x: {_type: choice, _value: [1, 2]}}", "", "searchSpace: missing"),
        ("{platform: local}", "{platform: nowhere}", "NNI refuses the configuration"),
        ("{name: TPE}", "{nam: TPE}", "NNI refuses the configuration"),
        (
            "{name: TPE}",
            "{name: TPE}\nadvisor: {name: BOHB}",
            "advisor: NNI no longer uses it; leave it out, and give tuner",
        ),
        ("trialConcurrency: 1", "trialConcurrency: 1\nuse_annotation: true", "use_annotation: NNI no longer uses it"),
        ("{name: TPE}", "[", "line 7, column 1: not YAML"),
        (WELL, "- 1", "must be a mapping with keys of NNI such as trialCommand"),
    ],
)
def test_bad_files(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in WELL
    with pytest.raises(ConfigError) as raised:
        load_experiment(written(tmp_path, WELL.replace(old, new)))
    assert message in str(raised.value)
    assert "experiment.yml" in str(raised.value)


def test_bad_file_spoils_no_other(tmp_path: Path) -> None:
    """NNI forgets the folder of a file that it reads, but not of one that it refuses."""
    with pytest.raises(ConfigError, match="NNI refuses the configuration"):
        load_experiment(written(tmp_path, WELL.replace("{platform: local}", "{platform: local, gpus: 1}")))
    load_experiment(written(tmp_path, WELL))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load_experiment(tmp_path / "none.yml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"search": "a:b"}, "output: missing; SecateurGreedy needs search and output"),
        (OURS | {"retry": 1}, "retry: unknown; allowed: search, output, arguments, retries"),
    ],
)
def test_bad_arguments_of_the_tuner(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    config = load_experiment(written(tmp_path, WELL))
    config.tuner.name, config.tuner.class_args = "SecateurGreedy", arguments
    with pytest.raises(ConfigError, match=message):
        greedy_arguments(config)


@pytest.mark.parametrize("name", ["SecateurGreedy", "secateurgreedy", "SECATEURGREEDY"])
def test_name_of_the_tuner_in_any_case(tmp_path: Path, name: str) -> None:
    """NNI knows its tuners so, and starts ours."""
    config = load_experiment(written(tmp_path, WELL))
    config.tuner.name, config.tuner.class_args = name, dict(OURS)
    assert greedy_arguments(config) == OURS


def start(folder: Path, **given: Any) -> None:
    with running(load_experiment(written(folder, WELL)), folder=folder / "experiment", **given):
        pytest.fail("it has started")


def test_busy_port(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(ConfigError, match=f"the port {port} is busy; choose another, or none"):
            start(tmp_path, port=port)
    assert not (tmp_path / "experiment").exists()


@pytest.mark.parametrize("port", [0, -1, 70000])
def test_ports_that_are_none(port: int) -> None:
    with pytest.raises(ConfigError, match="it must be from 1 to 65534"):
        refuse_busy(port)


def test_output_of_a_search_that_cannot_be_written(tmp_path: Path) -> None:
    """The search could say nowhere that it has failed, and the experiment would be waited for for ever."""
    (tmp_path / "out").touch()
    ours = "{name: SecateurGreedy, classArgs: {search: 'a:b', output: out/plan}}"
    config = load_experiment(written(tmp_path, WELL.replace("{name: TPE}", ours)))
    with (
        pytest.raises(ConfigError, match=r"tuner.classArgs.output: .*out/plan cannot be written \(Not a directory\)"),
        running(config, folder=tmp_path / "experiment"),
    ):
        pytest.fail("it has started")
    assert not (tmp_path / "experiment").exists()


def test_proxy_that_swallows_localhost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:80")
    with pytest.raises(ConfigError, match=r"would go to the proxy of HTTP_PROXY.*export no_proxy=localhost"):
        start(tmp_path)
    assert not (tmp_path / "experiment").exists()


def test_filelock_in_which_nni_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"nni": Package("nni", "3.0", ("filelock <3.12",)), "filelock": Package("filelock", "3.12.0")}
    monkeypatch.setattr(locks, "installed_packages", lambda: here)
    with pytest.raises(MissingDependencyError, match=r'3\.12\.0 is installed; from 3\.12 on.* "filelock<3\.12"'):
        start(tmp_path)
    assert not (tmp_path / "experiment").exists()


def test_windows_cannot_start_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_experiment(written(tmp_path, WELL))
    monkeypatch.setattr(manager, "sys", SimpleNamespace(platform="win32"))
    with (
        pytest.raises(ConfigError, match=r"trainingService: platform: local: .* Windows has no bash"),
        running(config, folder=tmp_path / "experiment"),
    ):
        pytest.fail("it has started")
    assert not (tmp_path / "experiment").exists()


def test_machines_elsewhere_need_pkg_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise MissingDependencyError("nnictl needs pkg_resources, and setuptools 84.2.1 has none")

    monkeypatch.setattr(manager, "check_nnictl", refuse)
    key = tmp_path / "key"
    key.touch()
    there = f"{{platform: remote, machineList: [{{host: there, user: me, sshKeyFile: {key}}}]}}"
    text = WELL.replace("{platform: local}", there) + "nniManagerIp: 127.0.0.1\n"
    with (
        pytest.raises(MissingDependencyError, match="setuptools 84"),
        running(load_experiment(written(tmp_path, text)), folder=tmp_path / "experiment"),
    ):
        pytest.fail("it has started")


@pytest.mark.parametrize("service", ["local", "remote"])
def test_home_in_paths_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    """NNI resolves paths once more, when it starts its manager and the home is another."""
    me = tmp_path / "me"
    (me / "code").mkdir(parents=True)
    (me / "space.yml").write_text("x: {_type: choice, _value: [1, 2]}\n", encoding="utf-8")
    (me / "key").touch()
    monkeypatch.setenv("HOME", str(me))
    text = WELL.replace("searchSpace: {x: {_type: choice, _value: [1, 2]}}", "searchSpaceFile: ~/space.yml")
    text += "trialCodeDirectory: ~/code\nnniManagerIp: 127.0.0.1\n"
    if service == "remote":
        there = "{platform: remote, machineList: [{host: there, user: me, sshKeyFile: ~/key}]}"
        text = text.replace("{platform: local}", there)
    told: list[Any] = []

    def start(_action: str, _name: str, config: Any, *_: Any) -> None:
        told.append(config.json())
        raise RuntimeError("enough")

    monkeypatch.setattr(manager.launcher, "start_experiment", start)
    config = load_experiment(written(tmp_path, text))
    before = config.json()
    with pytest.raises(ProcessError, match="enough"), running(config, folder=tmp_path / "out"):
        pytest.fail("it has started")
    assert config.json() == before
    assert told[0]["trialCodeDirectory"] == str(me / "code")
    assert told[0]["searchSpace"]["x"]["_value"] == [1, 2]
    if service == "remote":
        assert told[0]["trainingService"]["machineList"][0]["sshKeyFile"] == str(me / "key")


@pytest.mark.nni
def test_manager_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "STARTUP", 0)
    monkeypatch.setattr(manager.launcher, "_start_rest_server", lambda *_: subprocess.Popen([sys.executable, "-c", ""]))
    with pytest.raises(ProcessError, match="NNI's manager did not start: ConnectionError"):
        start(tmp_path, port=free_port())


def test_last_words_are_the_errors_of_the_logs(tmp_path: Path) -> None:
    log = tmp_path / "abc" / "log" / "dispatcher.log"
    log.parent.mkdir(parents=True)
    log.write_text("INFO well\nERROR one\nConfigError: two\nINFO well\n", encoding="utf-8")
    log.with_name("nnimanager.log").write_text("ERROR a\nERROR b\n", encoding="utf-8")
    (tmp_path / "_latest").symlink_to(tmp_path / "abc")  # by NNI, to the experiment's own folder
    words = "ERROR one / ConfigError: two / ERROR a / ERROR b"
    assert last_words(tmp_path) == f"; its logs in {tmp_path} say: {words}"
    assert last_words(tmp_path, lines=1) == f"; its logs in {tmp_path} say: ConfigError: two / ERROR b"


WITHOUT_NNI = """
import sys
sys.modules["nni"] = None
from typer.testing import CliRunner
from secateur_cli.main import app
result = CliRunner().invoke(app, ["nni", "run", "experiment.yml"])
print(result.exit_code, result.output)
"""


def test_without_nni_the_command_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_NNI], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2 error: NNI 3.0 cannot be imported")
    assert 'pip install "secateur[nni]"' in done.stdout
