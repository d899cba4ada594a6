"""An experiment's YAML file: NNI's own keys, as `nnictl create --config` reads them, refused early and in words."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from secateur.errors import ConfigError, MissingDependencyError
from secateur_nni.experiments.tuner import BUILTIN_NAME, SEARCH_FILE, GreedyTuner

try:
    from nni.experiment import ExperimentConfig
    from nni.experiment.config.utils import unset_base_path
except ImportError as error:
    raise MissingDependencyError(f'NNI 3.0 cannot be imported ({error}); pip install "secateur[nni]"') from error

KEYS = [
    *("experimentName", "trialCommand", "trialCodeDirectory", "trialConcurrency", "trialGpuNumber", "maxTrialNumber"),
    *("maxExperimentDuration", "maxTrialDuration", "searchSpace", "searchSpaceFile", "tuner", "assessor"),
    *("trainingService", "nniManagerIp", "logLevel", "debug", "experimentWorkingDirectory", "sharedStorage"),
    *("tunerGpuIndices", "experimentType"),
]
INSTEAD = {"advisor": "tuner", "useannotation": "searchSpace"}  # NNI 3.0 refuses these wherever the others are given
PROGRAM = re.compile(r"\s*(?:(?!PATH=)\w+=[\w./:,@%+-]*\s+)*([\w.+-]+)(?=[\s;&|]|$)")
"""What begins a command with a plain word, assignments left out; it need not be a program, but a builtin or keyword."""
BY_ROLE = ("kubeflow", "frameworkcontroller")  # training services whose roles have a command each
NEEDED = ("trialCommand", "trialConcurrency", "tuner", "trainingService")


def load_experiment(path: str | Path) -> ExperimentConfig:
    """Return NNI's configuration of an experiment from a YAML file; paths in it count from its folder.

    Args:
        path: the file.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown (with the nearest), missing, or has a value that
            NNI refuses.

    Example:
        >>> import tempfile
        >>> text = "trialCommand: python t.py\\ntrialConcurrency: 1\\nsearchSpace: {}\\ntuner: {name: Random}\\n"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "experiment.yml"
        ...     _ = file.write_text(text + "trainingService: {platform: local}\\n")
        ...     load_experiment(file).trial_concurrency
        1
    """
    path = Path(path)
    settings = _read(path)
    unknown = [key for key in settings if _plain(key) not in map(_plain, KEYS)]
    if unknown:
        if (instead := INSTEAD.get(_plain(unknown[0]))) is not None:
            raise ConfigError(f"{path}: {unknown[0]}: NNI no longer uses it; leave it out, and give {instead}")
        near = difflib.get_close_matches(unknown[0], KEYS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(KEYS)}"
        raise ConfigError(f"{path}: {unknown[0]}: unknown key; {hint}")
    given = {_plain(key) for key in settings}
    service = next((value for key, value in settings.items() if _plain(key) == "trainingservice"), None)
    by_role = isinstance(service, dict) and service.get("platform") in BY_ROLE
    missing = [key for key in NEEDED if _plain(key) not in given and not (by_role and key == "trialCommand")]
    if missing:
        raise ConfigError(f"{path}: {', '.join(missing)}: missing; it must be given")
    if not {"searchspace", "searchspacefile"} & given:
        raise ConfigError(f"{path}: searchSpace: missing; where the tuner has none, as GreedyTuner, write {{}}")
    count = next(value for key, value in settings.items() if _plain(key) == "trialconcurrency")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"{path}: trialConcurrency: {count!r}: must be a whole number of at least 1")
    try:
        config = ExperimentConfig.load(path)
        config.validate()
    except Exception as error:  # NNI answers with bare assertions, type errors, attribute errors and others
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ConfigError(f"{path}: NNI refuses the configuration ({what})") from error
    finally:
        unset_base_path()  # NNI keeps that of a file that it refuses, and then reads no other
    return config


def greedy_arguments(config: ExperimentConfig) -> dict[str, Any] | None:
    """Return the arguments of GreedyTuner in an experiment's configuration; None where its tuner is another.

    Example:
        >>> from nni.experiment import AlgorithmConfig
        >>> config = ExperimentConfig(tuner=AlgorithmConfig(name="TPE"))
        >>> greedy_arguments(config) is None
        True
    """
    tuner = config.tuner
    ours = f"{GreedyTuner.__module__}.{GreedyTuner.__name__}"
    if tuner is None:
        return None
    named = str(tuner.name).lower() == BUILTIN_NAME.lower()  # as NNI looks names up
    if not named and tuner.class_name not in (ours, "secateur_nni.GreedyTuner"):
        return None
    arguments: dict[str, Any] = dict(tuner.class_args or {})
    missing = [name for name in ("search", "output") if name not in arguments]
    if missing:
        raise ConfigError(f"tuner.classArgs: {' and '.join(missing)}: missing; {BUILTIN_NAME} needs search and output")
    known = ("search", "output", "arguments", "retries", "timeout", "patience", "optimize_mode")
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise ConfigError(f"tuner.classArgs: {', '.join(unknown)}: unknown; allowed: {', '.join(known)}")
    return arguments


def search_file(config: Any) -> Path | None:
    """Return where the search of a GreedyTuner says how far it is; None where the tuner is another.

    Example:
        >>> from nni.experiment import AlgorithmConfig
        >>> search_file(ExperimentConfig(tuner=AlgorithmConfig(name="TPE"))) is None
        True
    """
    arguments = greedy_arguments(config)
    return None if arguments is None else code_folder(config) / str(arguments["output"]) / SEARCH_FILE


def code_folder(config: ExperimentConfig) -> Path:
    """Return the trialCodeDirectory of an experiment, from which the paths of its search count.

    Example:
        >>> from nni.experiment import AlgorithmConfig
        >>> config = ExperimentConfig("local", tuner=AlgorithmConfig(name="TPE"), search_space={}, trial_concurrency=1)
        >>> config.trial_command = "python trial.py"
        >>> code_folder(config) == Path.cwd().resolve()
        True
    """
    return Path(config.canonical_copy().trial_code_directory)


def check_command(config: ExperimentConfig) -> None:
    """Refuse a trialCommand that the shell of the trials cannot begin, where they run on this machine.

    The shell itself is asked, since a command may begin with one of its own (`source`, `cd`, `if`). What begins with no
    plain word, a path or a variable, say, is let pass.

    Raises:
        ConfigError: there is no such program, or no shell: NNI would let every trial fail.

    Example:
        >>> check_command(ExperimentConfig("local", trial_command="python trial.py"))
    """
    platform = getattr(config.training_service, "platform", None)
    begins = PROGRAM.match(str(config.trial_command or ""))
    if platform != "local" or begins is None:
        return
    path, program = trial_path(), begins[1]
    bash = shutil.which("bash", path=path)
    if bash is None:
        raise ConfigError("trialCommand: trials of this machine are started by bash, which is not found on it")
    asked = [bash, "-c", 'type -- "$1"', bash, program]
    if subprocess.run(asked, env=os.environ | {"PATH": path}, capture_output=True, check=False).returncode != 0:
        raise ConfigError(f"trialCommand: {program!r} is not found on this machine")


def check_gpus(config: ExperimentConfig) -> None:
    """Refuse a trialGpuNumber that the trials would wait for for ever, where they run on this machine.

    NNI 3.0 starts a trial only where the machine has *more* GPUs than the trial asks for (task_scheduler/scheduler.js):
    with one GPU, trials that ask for it never start.

    Raises:
        ConfigError: there are no more GPUs than that.

    Example:
        >>> from nni.experiment import AlgorithmConfig
        >>> config = ExperimentConfig("local", tuner=AlgorithmConfig(name="TPE"), search_space={}, trial_concurrency=1)
        >>> config.trial_command = "python trial.py"
        >>> check_gpus(config)
    """
    service: Any = config.canonical_copy().training_service  # where trialGpuNumber may also be given
    if getattr(service, "platform", None) != "local" or not service.trial_gpu_number:
        return
    asked = service.trial_gpu_number / service.max_trial_number_per_gpu
    here = gpu_count()
    if here <= asked:
        raise ConfigError(
            f"trialGpuNumber: {service.trial_gpu_number}: NNI starts such trials only where there are more than "
            f"{asked:g} GPUs, and here {'is 1' if here == 1 else f'are {here}'}; leave it out, and all trials see all "
            "GPUs"
        )


def gpu_count() -> int:
    """Return how many GPUs this machine has, as NNI counts them."""
    from nni.tools.nni_manager_scripts.collect_gpu_info import collect

    found = collect(False)
    return 0 if found is None else int(found.gpu_number)


def trial_path() -> str:
    """Return where trials of this machine look for programs: beside this Python first.

    Example:
        >>> trial_path().endswith(os.environ["PATH"])
        True
    """
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def _plain(key: Any) -> str:
    return str(key).lower().replace("_", "")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(f"{path}{where}: not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: must be a mapping with keys of NNI such as {', '.join(NEEDED)}")
    return settings
