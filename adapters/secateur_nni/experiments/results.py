"""What the trials of an experiment have found: joined with the parameters that they really had, and the front.

NNI shows a trial beside parameters that it may not have had: with several trials at once they are handed out in the
order in which trials ask (nni_node/training_service/v3/compat.js; microsoft/nni issue 5726). A metric names its
parameters by id, so that is what is joined by.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secateur.errors import ConfigError
from secateur.files import replacing, write_json

TRIALS_FILE = "trials.json"
FAILED = ("FAILED", "SYS_CANCELED", "USER_CANCELED", "EARLY_STOPPED")
OUT = ("RUNNING", "WAITING", "UNKNOWN")


@dataclass(frozen=True)
class Trial:
    """What one trial of an experiment was and found.

    Attributes:
        name: NNI's id of the trial.
        number: in the order in which trials were begun, from 0.
        status: NNI's, such as SUCCEEDED.
        parameters: those that it ran with; None where it has reported nothing, for then nobody knows.
        result: its final result; None where there is none.
        intermediate: its intermediate results, in order.
        seconds: from start to end; None while it runs.
    """

    name: str
    number: int
    status: str
    parameters: Mapping[str, Any] | None
    result: Any
    intermediate: Sequence[Any] = field(default=())
    seconds: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the final result by name; empty where the trial failed."""
        result = self.result if isinstance(self.result, Mapping) else {"default": self.result}
        if self.result is None or "error" in result:
            return {}
        return {
            name: float(value)
            for name, value in result.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        }


def join(jobs: Iterable[Any], metrics: Mapping[str, Iterable[Any]]) -> list[Trial]:
    """Return the trials of an experiment, each with the parameters that its own metrics name.

    Args:
        jobs: of `nni.experiment.Experiment.list_trial_jobs`.
        metrics: of `get_job_metrics`.

    Example:
        >>> from types import SimpleNamespace as Of
        >>> def job(name, number):
        ...     had = Of(parameter_id=number, parameters={"x": number})
        ...     return Of(trialJobId=name, sequenceId=number, status="SUCCEEDED", hyperParameters=[had], startTime=0,
        ...               endTime=1000)
        >>> swapped = {"a": [Of(parameterId="1", type="FINAL", sequence=0, data=0.5)]}
        >>> [(trial.name, trial.parameters) for trial in join([job("a", 0), job("b", 1)], swapped)]
        [('a', {'x': 1}), ('b', None)]
    """
    jobs = list(jobs)
    given = {str(had.parameter_id): had.parameters for job in jobs for had in job.hyperParameters}
    trials = []
    for job in sorted(jobs, key=lambda job: int(job.sequenceId)):
        said = list(metrics.get(job.trialJobId, ()))
        ids = {str(metric.parameterId) for metric in said}
        final = [metric.data for metric in said if metric.type == "FINAL"]
        steps = sorted((m for m in said if m.type == "PERIODICAL"), key=lambda metric: int(metric.sequence))
        begun, ended = job.startTime, job.endTime
        trials.append(
            Trial(
                name=job.trialJobId,
                number=int(job.sequenceId),
                status=job.status,
                parameters=given.get(ids.pop()) if len(ids) == 1 else None,
                result=final[-1] if final else None,
                intermediate=tuple(metric.data for metric in steps),
                seconds=(ended - begun) / 1000 if begun and ended and ended > 0 else None,
            )
        )
    return trials


def front(trials: Sequence[Trial], *, cost: str, worth: str = "accuracy") -> list[Trial]:
    """Return the trials that no other beats: none is worth as much for less, or more for as much; cheapest first.

    Args:
        trials: any; those without the two numbers are left out.
        cost: name of the metric that should be small, such as macs or latency_ms.
        worth: name of the metric that should be large.

    Example:
        >>> def trial(number, accuracy, macs):
        ...     return Trial(str(number), number, "SUCCEEDED", {}, {"accuracy": accuracy, "macs": macs})
        >>> found = front([trial(0, 0.9, 50), trial(1, 0.8, 60), trial(2, 0.7, 40), trial(3, 0.7, 45)], cost="macs")
        >>> [each.number for each in found]
        [2, 0]
    """
    known = [trial for trial in trials if {cost, worth} <= trial.metrics.keys()]
    best: list[Trial] = []
    for trial in sorted(known, key=lambda t: (t.metrics[cost], -t.metrics[worth], t.number)):
        if not best or trial.metrics[worth] > best[-1].metrics[worth]:
            best.append(trial)
    return best


def table(trials: Sequence[Trial], *, best: Sequence[Trial] = ()) -> str:
    """Return the trials as CSV: number, status, seconds, each parameter, each metric, and whether on the front.

    Args:
        trials: the rows.
        best: those of the front.

    Example:
        >>> print(table([Trial("a", 0, "SUCCEEDED", {"x": 1}, {"default": 0.5}, (), 2.0)]).strip())
        trial,number,status,seconds,x,metric.default,front
        a,0,SUCCEEDED,2.0,1,0.5,0
    """
    rows = [
        {"trial": t.name, "number": t.number, "status": t.status, "seconds": t.seconds}
        | {key: _cell(value) for key, value in flattened(t.parameters or {}).items()}
        | {f"metric.{key}": value for key, value in t.metrics.items()}
        for t in trials
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row if not key.startswith("metric.")))
    columns += list(dict.fromkeys(key for row in rows for key in row if key.startswith("metric.")))
    names = {trial.name for trial in best}
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, "front"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"front": int(row["trial"] in names)} for row in rows)
    return text.getvalue()


def flattened(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters in which nested choices of NNI stand as their name, with what belongs to it beside it.

    Example:
        >>> flattened({"score.criterion": {"_name": "di", "score.options.rho": 0.1}, "plan.delta": 0.02})
        {'score.criterion': 'di', 'score.options.rho': 0.1, 'plan.delta': 0.02}
    """
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        if isinstance(value, Mapping) and "_name" in value:
            flat[key] = value["_name"]
            flat |= flattened({name: inner for name, inner in value.items() if name != "_name"})
        else:
            flat[key] = value
    return flat


def write_trials(trials: Sequence[Trial], folder: Path) -> None:
    """Write what the trials have found to the folder of an experiment, for when its manager has ended."""
    write_json(folder / TRIALS_FILE, [_finite(asdict(trial)) for trial in trials])


def read_trials(folder: Path) -> list[Trial]:
    """Return what `write_trials` has written. Raises ConfigError where there is nothing, or no such thing."""
    path = folder / TRIALS_FILE
    try:
        return [Trial(**record) for record in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        raise ConfigError(f"{folder} is not the folder of an experiment: it holds no {TRIALS_FILE}") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def _finite(data: Any) -> Any:
    """Return plain data in which numbers that JSON does not know are None."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
