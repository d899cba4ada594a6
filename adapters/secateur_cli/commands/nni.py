"""`secateur nni run CONFIG`, `status`, `export`: experiments of NNI, and what they found."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from secateur.errors import ConfigError, MissingDependencyError
from secateur_cli.claims import Claims
from secateur_cli.commands.telling import Trace, plain_console, telling
from secateur_cli.progress import Progress
from secateur_cli.settings.values import with_home

if TYPE_CHECKING:
    from secateur_nni.experiments.results import Trial

app = typer.Typer(no_args_is_help=True, help="Run experiments of NNI, and read what they found.")
UNFINISHED = "UNFINISHED"
Folder = Annotated[Path, typer.Argument(help="The folder of an experiment, as `secateur nni run` has said it.")]


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="NNI's YAML file of an experiment, as nnictl reads it.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the results of this experiment alone; runs/nni- and CONFIG's name by default.",
                     show_default=False),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port of NNI's web page; a free one by default.", show_default=False)
    ] = None,
    trace: Trace = False,
) -> None:  # fmt: skip
    """Run an experiment to its end, with its progress here and on NNI's web page, and leave no process behind."""
    with telling(trace=trace, stopped="stopped; NNI's processes have ended"):
        from secateur_nni.experiments.following import follow
        from secateur_nni.experiments.manager import running
        from secateur_nni.experiments.setting import check_command, code_folder, greedy_arguments, load_experiment

        settings = load_experiment(config)
        check_command(settings)
        arguments = greedy_arguments(settings)
        searching: AbstractContextManager[None] = nullcontext()
        if arguments is not None:
            _check_search(arguments, code_folder(settings), gpus=settings.tuner_gpu_indices)
            plan = code_folder(settings) / str(arguments["output"]) / "plan.json"
            searching = claimed(plan.parent, "search", "another tuner.classArgs.output")
        folder = with_home(output or Path("runs") / f"nni-{config.stem}")
        console = plain_console()
        progress = Progress(console)
        told: set[str] = set()

        def changed(trials: Sequence[Trial], search: dict[str, Any]) -> None:
            for trial in trials:
                if trial.seconds is not None and trial.name not in told:
                    told.add(trial.name)
                    progress.say(_line(trial))
            if arguments is None:
                advance(len(told), settings.max_trial_number or 0)
            else:
                advance(int(search.get("judged", 0)), 0)

        what = "trials" if arguments is None else "candidates"
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: NNI's processes must not stay
        with searching, alone(folder), running(settings, folder=folder, port=port) as experiment:
            progress.say(f"NNI's web page: {experiment.url}")
            with progress.task(what) as advance:
                trials = follow(experiment, on_change=changed)
        progress.say(f"{len(trials)} trials; results are in {folder}")
        if arguments is not None:
            progress.say(f"the plan is in {plan}")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within the block, no other experiment runs in a folder, which is made if it is missing.

    Raises:
        ConfigError: one runs there or has run there, or the folder cannot be written.
    """
    other = "another folder with --output"
    with claimed(folder, "experiment", other):
        if (folder / "trials.json").exists():
            raise ConfigError(f"{folder} holds an experiment already; choose {other}")
        yield


@contextmanager
def claimed(folder: Path, what: str, other: str) -> Iterator[None]:
    """Within the block, no other process does the same in a folder, which is made if it is missing.

    Args:
        folder: where it is done; the file lock in it is made.
        what: is done there.
        other: what to choose instead of the folder, to be put into an error.

    Raises:
        ConfigError: another process does it there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        claims = Claims(folder / "lock")
    except OSError as error:
        raise ConfigError(f"the output {folder} cannot be used ({error.strerror}); choose {other}") from error
    with claims, claims.claim(what) as ours:
        if not ours:
            raise ConfigError(f"another {what} runs in {folder}; wait for its end, or choose {other}")
        yield


@app.command()
def status(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of a table.")] = False,
    trace: Trace = False,
) -> None:
    """Print how far an experiment is, or how far it came: each trial with the parameters that it really had."""
    with telling(trace=trace):
        trials, page = _read(folder)
        if as_json:
            facts = [
                {"trial": trial.name, "status": trial.status, "parameters": trial.parameters, "metrics": trial.metrics}
                for trial in trials
            ]
            typer.echo(json.dumps({"page": page, "trials": facts}, indent=1))
            return
        console = plain_console()
        counts = {
            kind: sum(trial.status == kind for trial in trials) for kind in dict.fromkeys(t.status for t in trials)
        }
        told = ", ".join(f"{number} {kind.lower()}" for kind, number in counts.items()) or "no trials"
        ended = "the experiment was ended before they were" if counts.get(UNFINISHED) else "the experiment has ended"
        console.print(f"{told}; " + (f"NNI's web page: {page}" if page else ended), soft_wrap=True)
        for trial in trials:
            console.print(_line(trial), soft_wrap=True)


@app.command()
def export(
    folder: Folder,
    cost: Annotated[str, typer.Option(help="The number of the results that should be small.")] = "macs",
    worth: Annotated[str, typer.Option(help="The number that should be large.")] = "validation_accuracy",
    trace: Trace = False,
) -> None:
    """Write what the trials found as trials.csv, front.csv and front.svg, and print the front."""
    with telling(trace=trace):
        from secateur_nni.experiments.results import front, table, write_text

        trials, _ = _read(folder)
        best = front(trials, cost=cost, worth=worth)
        if not best:
            names = ", ".join(sorted({name for trial in trials for name in trial.metrics}))
            raise ConfigError(f"no trial has found both {worth} and {cost}; there are {names or 'no results'}")
        write_text(folder / "trials.csv", table(trials, best=best))
        write_text(folder / "front.csv", table(best, best=best))
        written = ["trials.csv", "front.csv"]
        try:
            from secateur_cli.report.front_plot import front_plot

            points = [
                (trial.metrics[cost], trial.metrics[worth]) for trial in trials if {cost, worth} <= trial.metrics.keys()
            ]
            line = [(trial.metrics[cost], trial.metrics[worth]) for trial in best]
            write_text(folder / "front.svg", front_plot(points, line, cost=cost, worth=worth))
            written.append("front.svg")
        except ImportError as error:
            raise MissingDependencyError(
                f"the tables are written; the plot is not ({error}); pip install matplotlib"
            ) from error
        shown = Table(cost, worth, "trial", "parameters")
        for trial in best:
            numbers = (f"{trial.metrics[name]:,.6g}" for name in (cost, worth))
            shown.add_row(*numbers, str(trial.number), _parameters(trial))
        console = plain_console()
        console.print(shown)
        console.print(f"written to {folder}: {', '.join(written)}", soft_wrap=True)


def _read(folder: Path) -> tuple[list[Trial], str | None]:
    """Return the trials of an experiment, and the address of its page while its manager runs."""
    from secateur_nni.experiments.manager import is_running
    from secateur_nni.experiments.results import read_trials

    try:
        record = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
        address = f"http://localhost:{record['port']}"
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{folder} is not the folder of an experiment of NNI") from None
    page = address if is_running(record) else None
    trials = read_trials(folder)
    return (trials if page else [_ended(trial) for trial in trials]), page


def _ended(trial: Trial) -> Trial:
    """Return a trial as it is once its manager is gone, which has ended it and could write that nowhere."""
    from secateur_nni.experiments.results import OUT

    if trial.status not in OUT:
        return trial
    return replace(trial, status=UNFINISHED if trial.result is None else "REPORTED")


def _check_search(arguments: dict[str, Any], folder: Path, *, gpus: object) -> None:
    """Refuse what a search of a run would refuse, before NNI is started, which shows its tuner no GPU but `gpus`."""
    if arguments["search"] == "secateur_cli.nni_search:plan_of_run":
        from secateur_cli.nni_search import run_to_search

        given = arguments.get("arguments") or {}
        if "config" not in given:
            raise ConfigError("tuner.classArgs.arguments: config: missing; the YAML file of a run")
        config = folder / str(given["config"])
        searched, _ = run_to_search(str(config))
        if searched.device == "cuda" and gpus is None:
            raise ConfigError(
                f"tunerGpuIndices: missing; {config} has device: cuda, and NNI lets its tuner see those GPUs alone "
                "that are named there; write [0]"
            )


def _line(trial: Trial) -> str:
    if trial.metrics:
        names = ("accuracy", "macs", "latency_ms", "worth", "default")
        shown = [name for name in names if name in trial.metrics and (name != "default" or len(trial.metrics) == 1)]
        found = ", ".join(f"{name} {trial.metrics[name]:,.4g}" for name in shown)
    else:
        error = trial.result.get("error") if isinstance(trial.result, dict) else None
        found = error or "no result"
    return f"trial {trial.number}: {trial.status.lower()}, {found}; {_parameters(trial)}"


def _parameters(trial: Trial) -> str:
    from secateur_nni.experiments.results import flattened

    if trial.parameters is None:
        return "parameters unknown"
    if "kept" in trial.parameters:
        widths = {group: len(channels) for group, channels in trial.parameters["kept"].items()}
        return ", ".join(f"{group} {width}" for group, width in widths.items()) or "the dense network"
    return ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in flattened(trial.parameters).items()
    )
