"""NNI's manager: started with a home and a port of its own, and ended so that no process of it is left.

NNI keeps a list of all experiments of a user in `~/nni-experiments/.experiment`, by which `nnictl stop` finds them, and
registered algorithms beside the installation. Neither is touched: the manager gets a home in the experiment's folder,
and trials and tuner their user's home back.
"""

from __future__ import annotations

import copy
import os
import re
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from secateur.errors import ConfigError, MissingDependencyError, ProcessError
from secateur.files import write_json
from secateur_nni.experiments.setting import check_gpus, search_file, trial_path
from secateur_nni.experiments.tuner import BUILTIN_NAME, GreedyTuner
from secateur_nni.experiments.watching import MARK, watched
from secateur_nni.host import check_nnictl
from secateur_nni.locks import refuse_filelock
from secateur_nni.proxies import refuse_proxy

try:
    from nni.experiment import Experiment, ExperimentConfig, launcher, rest
    from nni.runtime import log
    from nni.tools.package_utils import AlgoMeta, get_algo_meta, register_algo_meta
except ImportError as error:
    raise MissingDependencyError(f'NNI 3.0 cannot be imported ({error}); pip install "secateur[nni]"') from error

RECORD = "experiment.json"
LOCAL = "localhost"
STARTUP = 40  # seconds that Node.js may take to start; NNI's own 3 are too few on a busy machine


@dataclass(frozen=True)
class Running:
    """An experiment whose manager runs.

    Attributes:
        experiment: NNI's object.
        folder: the experiment's: logs, database, trials.
        port: of the manager on this machine.
    """

    experiment: Experiment
    folder: Path
    port: int

    @property
    def url(self) -> str:
        """The address of NNI's web page."""
        return f"http://{LOCAL}:{self.port}"

    @property
    def ended(self) -> bool:
        """Whether the manager's process has ended, by itself or killed."""
        return _has_ended(self.experiment)


@contextmanager
def running(config: ExperimentConfig, *, folder: str | Path, port: int | None = None) -> Iterator[Running]:
    """Within the block, an experiment of NNI runs; after it no process of it does, even if this one was killed.

    Args:
        config: see `load_experiment`; it stays as it is, and its experimentWorkingDirectory is not used.
        folder: where the experiment keeps its files; made if missing. Neither there nor in the output of a search may
            another experiment run; `secateur nni run` sees to both, from Python it is the caller's to do.
        port: of the manager and its web page; None: one that is free.

    Raises:
        ConfigError: the port is busy, a proxy would take what is meant for localhost, the output of a search cannot
            be written, or trials are to run on this machine and it is one of Windows, or has too few GPUs for NNI to
            start them (see `check_gpus`).
        MissingDependencyError: filelock is too new for NNI, or the trials of other machines need pkg_resources, and
            there is none.
        ProcessError: the manager did not start, with what it said last.

    Example:
        >>> running.__name__
        'running'
    """
    platform = getattr(config.training_service, "platform", "hybrid")
    if platform == "local" and sys.platform == "win32":
        raise ConfigError(
            "trainingService: platform: local: trials of this machine are started by bash, and Windows has no bash; "
            "run the experiment on Linux, macOS or WSL"
        )
    refuse_proxy()
    refuse_filelock()
    check_gpus(config)
    if platform != "local":
        check_nnictl()
    folder = Path(folder).absolute()
    if port is None:
        port = free_port()
    else:
        refuse_busy(port)
    if (said := search_file(config)) is not None:
        make_output(said)
    (folder / "home" / "nni-experiments").mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(config)
    config.experiment_working_directory = str(folder)
    if platform == "local":
        config.trial_command = at_home(str(config.trial_command))
    experiment = Experiment(config.canonical_copy())  # NNI's own copy is made at the manager's home
    with watched(experiment.id):
        try:
            _start(experiment, folder, port)
            write_json(folder / RECORD, {"id": experiment.id, "port": port, "pid": os.getpid()})
            yield Running(experiment, folder, port)
        finally:
            _stop(experiment)


def free_port() -> int:
    """Return a port that is free, and so is the one after it, which NNI takes for machines elsewhere.

    Example:
        >>> 1024 < free_port() < 65536
        True
    """
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port
    raise ProcessError("no two ports in a row are free on this machine")


def refuse_busy(port: int) -> None:
    """Raise ConfigError where something listens at a port of this machine already.

    Example:
        >>> refuse_busy(free_port())
    """
    if not 0 < port < 65535:
        raise ConfigError(f"the port is {port}; it must be from 1 to 65534")
    with socket.socket() as test:
        if test.connect_ex(("127.0.0.1", port)) == 0:
            raise ConfigError(f"the port {port} is busy; choose another, or none, and a free one is taken")


def make_output(said: Path) -> None:
    """Make the output folder of a search, and remove what an earlier one has said there.

    Args:
        said: its search.json, by which alone an experiment learns that its search has failed.

    Raises:
        ConfigError: it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_output(Path(folder) / "out" / "search.json")
        ...     [path.name for path in Path(folder).rglob("*")]
        ['out']
    """
    try:
        said.parent.mkdir(parents=True, exist_ok=True)
        write_json(said, {})
        said.unlink()
    except OSError as error:
        raise ConfigError(f"tuner.classArgs.output: {said.parent} cannot be written ({error.strerror})") from error


def is_running(record: Mapping[str, Any]) -> bool:
    """Return whether the experiment that an experiment.json tells of still has its manager.

    Raises:
        ConfigError: a proxy would take what is meant for the manager.

    Example:
        >>> is_running({"id": "none", "port": free_port()})
        False
    """
    refuse_proxy()
    with suppress(Exception):  # whatever listens there, it is not the manager
        return bool(rest.get(int(record["port"]), "/experiment").get("id") == record["id"])
    return False


def at_home(command: str) -> str:
    """Return a trial's command with the user's home: the manager, whose child it is, has another.

    Example:
        >>> at_home("python trial.py").endswith("exec bash -c 'python trial.py'")
        True
    """
    return f"HOME={shlex.quote(str(Path.home()))} exec bash -c {shlex.quote(command)}"


def _start(experiment: Experiment, folder: Path, port: int) -> None:
    home = folder / "home"
    environment = {
        "HOME": str(home),
        MARK: experiment.id,
        "SECATEUR_USER_HOME": str(Path.home()),
        "NNI_CONFIG_DIR": str(home / "config"),
        "PATH": trial_path(),
    }
    before = {name: os.environ.get(name) for name in environment}
    ours, wait, stdout = launcher.Experiments, launcher._check_rest_server, log._handlers.get("_stdout_")
    os.environ.update(environment)
    log.silence_stdout()
    try:
        launcher.Experiments = partial(ours, home_dir=str(home / "nni-experiments"))
        launcher._check_rest_server = partial(wait, retry=STARTUP)
        if get_algo_meta(BUILTIN_NAME) is None:
            register_algo_meta(AlgoMeta.load(tuner_meta()))
        experiment.start(port)
    except Exception as error:
        raise ProcessError(
            f"NNI's manager did not start: {type(error).__name__}: {error}{last_words(folder)}"
        ) from error
    finally:
        launcher.Experiments, launcher._check_rest_server = ours, wait
        if stdout is not None:
            log.start_stdout_logging()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def tuner_meta() -> dict[str, Any]:
    """Return what `nnictl algo register --meta` reads to know GreedyTuner by its name.

    Example:
        >>> tuner_meta()["builtinName"]
        'SecateurGreedy'
    """
    return {
        "algoType": "tuner",
        "builtinName": BUILTIN_NAME,
        "className": f"{GreedyTuner.__module__}.{GreedyTuner.__name__}",
    }


def last_words(folder: Path, *, lines: int = 3) -> str:
    """Return the last errors in each of the logs of an experiment's folder, to be put behind a sentence.

    Example:
        >>> last_words(Path("/nowhere"))
        ''
    """
    found: list[str] = []
    logs = (path for path in folder.glob("*/log/*.log") if not path.parents[1].is_symlink())  # as NNI's _latest is
    for path in sorted(logs):
        with suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found += [line for line in text if re.search(r"ERROR|Error:", line)][-lines:]
    return f"; its logs in {folder} say: " + " / ".join(found) if found else ""


def _has_ended(experiment: Experiment) -> bool:
    return experiment._proc is None or experiment._proc.poll() is not None


def _stop(experiment: Experiment) -> None:
    """Have NNI end the manager, the tuner and the trials; the watcher sees to what is left."""
    quiet = log._handlers.get("_stdout_") is not None
    log.silence_stdout()
    if _has_ended(experiment):
        experiment._proc = None  # or NNI would ask it to end, and complain by pages that it does not answer
    try:
        experiment.stop()
    finally:
        if quiet:
            log.start_stdout_logging()
