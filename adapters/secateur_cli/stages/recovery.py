"""The stage between cutting and training: accuracy back from unlabelled images, and kept in a file of its own."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from secateur.errors import ConfigError, SecateurWarning
from secateur.modes import placed
from secateur.records import PruningPlan
from secateur.recovery import compensate, recalibrate_batch_norm, sketch_filters
from secateur.weights import load_weights
from secateur_cli.settings.schema import RecoverConfig
from secateur_cli.stages.job import Job
from secateur_cli.wording import few_positions

RECOVERED = "stages/recovered.safetensors"
STAGES = {"recalibrate": "batch norm recalibrated", "compensate": "compensated", "sketch": "filters sketched"}
COMPENSATION_IMAGES, RECALIBRATION_IMAGES = 1000, 2000
MEMORY = 2**31  # bytes for compensation beside the forward pass, half of them for the images


def recover(job: Job, plan: PruningPlan, pruned: nn.Module) -> None:
    """Give `pruned` its accuracy back in place, by the method of the configuration, and judge it.

    A run that is continued finds the weights in their file and does not solve for them again.
    """
    method = job.config.recover.method
    if method == "none":
        return
    if job.config.fine_tune is not None and job.config.fine_tune.layer_by_layer:
        job.progress.say("nothing is recovered: the training layer by layer goes on from the network before the cut")
        return
    if method == "compensate" and job.learnt is not None:
        method = "recalibrate"
        job.progress.say(
            "the weights were trained without what goes: batch norm is measured afresh, and nothing is compensated"
        )

    def work() -> dict[str, Any]:
        begun = time.monotonic()
        how = {
            "compensate": lambda: _compensate(job, plan, pruned),
            "recalibrate": lambda: _recalibrate(job, pruned),
            "sketch": lambda: _sketch(job, plan, pruned),
        }
        with placed(job.config.device, job.model, pruned):
            found = how[method]()
        job.keep(pruned, RECOVERED)
        return {"method": method, **found, "seconds": time.monotonic() - begun}

    fact = job.once("recovery", work)
    load_weights(pruned, job.workspace.path(RECOVERED))
    job.facts["recovery"] = fact
    for line in _said(fact):
        job.progress.say(line)
    if _changed(fact):
        job.judge(STAGES[method], pruned)


def calibration_images(settings: RecoverConfig, example: Tensor) -> int:
    """Return how many images of the size of those in `example` (N, C, H, W) are read at most.

    Raises:
        ConfigError: more are asked for than compensation holds in memory.

    Example:
        >>> from torch import zeros
        >>> settings = RecoverConfig()
        >>> calibration_images(settings, zeros(2, 3, 32, 32)), calibration_images(settings, zeros(2, 3, 448, 448))
        (1000, 445)
    """
    if settings.method != "compensate":
        return settings.samples or RECALIBRATION_IMAGES
    room = max(1, MEMORY // 2 // example[0].nbytes)
    if settings.samples is not None and settings.samples > room:
        raise ConfigError(
            f"recover.samples: {settings.samples:,} images of {tuple(example.shape[1:])} do not fit into the "
            f"{MEMORY // 2**21:,} MiB that compensation holds them in; at most {room:,} do"
        )
    return settings.samples or min(COMPENSATION_IMAGES, room)


def _recalibrate(job: Job, pruned: nn.Module) -> dict[str, Any]:
    settings = RecoverConfig(method="recalibrate", samples=job.config.recover.samples)
    samples = calibration_images(settings, job.data.example)
    watched = job.progress.track(iter(job.data.calibration), "measuring batch norm")
    return {"images": recalibrate_batch_norm(pruned, watched, samples=samples)}


def _compensate(job: Job, plan: PruningPlan, pruned: nn.Module) -> dict[str, Any]:
    samples = calibration_images(job.config.recover, job.data.example)
    with job.progress.task("compensating, layer by layer") as advance, warnings.catch_warnings():
        # said in other words, and also when the run is continued
        warnings.filterwarnings("ignore", "fewer rows than unknowns", SecateurWarning)

        def before_layer(_: str, done: int, total: int) -> None:
            advance(done, total)

        return compensate(
            job.model, pruned, plan, job.data.calibration, samples=samples, memory=MEMORY, on_layer=before_layer
        ).to_json()


def _sketch(job: Job, plan: PruningPlan, pruned: nn.Module) -> dict[str, Any]:
    done = sketch_filters(job.model, plan)
    pruned.load_state_dict(done.model.state_dict())
    return done.to_json()


def _changed(fact: Mapping[str, Any]) -> bool:
    return fact["method"] == "sketch" or bool(fact["images"] and fact.get("layers", True))


def _said(fact: Mapping[str, Any]) -> list[str]:
    """Return what was done, and what to mind, in a line each."""
    if fact["method"] == "sketch":
        left = f"; {', '.join(fact['left'])} keep a selection" if fact["left"] else ""
        return [f"sketched {len(fact['taken'])} layers{left}; they mean nothing before they are trained"]
    on = f"on {fact['images']:,} images in {fact['seconds']:.1f} s"
    if fact["method"] == "recalibrate":
        return [f"measured batch norm afresh {on}" if _changed(fact) else "no batch norm that could be recalibrated"]
    lines = [f"compensated {len(fact['layers'])} layers {on}"]
    if fact["left"]:
        named = "; ".join(f"{layer} ({reason})" for layer, reason in fact["left"].items())
        lines.append(f"warning: not compensated, though their inputs changed: {named}")
    few = few_positions(fact["layers"])
    return [*lines, f"warning: {few}"] if few else lines
