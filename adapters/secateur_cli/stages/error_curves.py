"""The stage before the searches that begin with error curves: what each width of each group would cost its readers."""

from __future__ import annotations

import math
from typing import Any

from secateur.files import write_json
from secateur.modes import placed
from secateur.records import ScoreTable
from secateur.scoring import reconstruction_scores
from secateur_cli.settings.schema import RecoverConfig
from secateur_cli.stages.job import Job
from secateur_cli.stages.recovery import MEMORY, calibration_images

CURVES = "stages/curves.json"


def error_curves(job: Job, scores: ScoreTable) -> ScoreTable | None:
    """Return the error curves of the criterion; None where the search begins without.

    They are its own scores, if these are such; else the errors in their order, once found kept in the folder.
    """
    if not begins_with_curves(job):
        return None
    score = job.config.score
    if score.criterion == "reconstruction" and score.options.get("relative", True):
        return scores

    def work() -> dict[str, Any]:
        samples = calibration_images(RecoverConfig(method="compensate"), job.data.example)
        watched = job.progress.track(
            job.data.calibration, "error curves", total=math.ceil(samples / job.config.data.batch_size)
        )
        with placed(job.config.device, job.model):
            found = reconstruction_scores(job.model, job.groups, watched, samples=samples, memory=MEMORY, order=scores)
        write_json(job.workspace.path(CURVES), found.to_json())
        return {"images": found.settings["samples"]}

    job.once("error curves", work)
    curves = ScoreTable.from_json(job.workspace.read(CURVES))
    for group, reason in curves.settings["skipped"].items():
        job.progress.say(f"warning: {group} has no error curve, and stays as it is: {reason}")
    return curves


def begins_with_curves(job: Job) -> bool:
    """Return whether the search of a job begins with error curves."""
    return job.search in ("curves", "refine") or (job.search == "greedy" and job.config.plan.greedy_from is not None)
