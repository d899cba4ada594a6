"""The main job: a trained network in, a smaller ONNX model with its proof out. One function a stage, in order."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import secateur_onnx
from secateur.batches import rebatch
from secateur.channel_graph import apply_plan, verify_pruning
from secateur.checkpoint import load_pruned, save_pruned
from secateur.criteria import criterion
from secateur.evaluation import MaskedAccuracy
from secateur.feature_maps import collect_scores
from secateur.files import replacing, write_json
from secateur.modes import evaluating
from secateur.records import PruningPlan, ScoreTable
from secateur.recovery import recalibrate_batch_norm
from secateur.search import GreedyStep, format_cost, greedy_plan, parse_budget, uniform_plan
from secateur.weights import load_weights
from secateur_cli.job import Job, prepare
from secateur_cli.progress import Progress
from secateur_cli.schema import RunConfig, Search

DENSE_WEIGHTS = "stages/dense.safetensors"
SCORES = "stages/scores.json"
PLAN = "stages/plan.json"
DENSE_ONNX = "dense.onnx"
PRUNED_ONNX = "model.onnx"


def run_job(
    config: RunConfig, search: Search, *, folder: Path, output: Path, progress: Progress, smoke: bool = False
) -> dict[str, Any]:
    """Run every stage that the output folder does not hold yet, and return the report as plain data.

    Args:
        config: what to do.
        search: which of the configured searches decides the widths.
        folder: where relative paths and modules of the configuration are looked up.
        output: the folder of the run; continued if it holds the same run.
        progress: shows what happens.
        smoke: recorded, so that a smoke run is never taken for a real one.

    Raises:
        SecateurError: anything that the stages refuse; what was finished stays, nothing is half-written.
    """
    begun = time.monotonic()
    job = prepare(config, search, folder=folder, output=output, progress=progress, smoke=smoke)
    job.facts |= {"format": 1, "created": datetime.now(UTC).isoformat(timespec="seconds"), "smoke": smoke}
    train_dense(job)
    job.judge("dense", job.model)
    scores = score(job)
    plan = choose_widths(job, scores)
    pruned = remove_channels(job, plan)
    pruned = train_pruned(job, plan, pruned)
    export_both(job, plan, pruned)
    time_both(job)
    earlier = job.workspace.stages.get("seconds", 0.0) if job.workspace.continued else 0.0
    job.facts["seconds"] = earlier + time.monotonic() - begun
    job.workspace.done("seconds", job.facts["seconds"])
    return job.facts


def train_dense(job: Job) -> None:
    """Train the network where the configuration says so; otherwise it is taken as it comes."""
    if job.config.train is None:
        return
    path = job.workspace.path(DENSE_WEIGHTS)
    if "training" in job.workspace.stages:
        load_weights(job.model, path)
    else:
        history = job.train(job.model, job.config.train, "training the dense network")
        with replacing(path) as temporary:
            save_file({k: v.clone().contiguous() for k, v in job.model.state_dict().items()}, temporary)
        job.workspace.done("training", history)
    job.facts["training"] = job.workspace.stages["training"]


def score(job: Job) -> ScoreTable:
    """Collect the criterion over the feature maps of the training images."""
    path, settings = job.workspace.path(SCORES), job.config.score
    if "scores" not in job.workspace.stages:
        rule, begun = criterion(settings.criterion, **settings.options), time.monotonic()
        samples = settings.samples or rule.samples
        total = math.ceil(samples / job.config.data.batch_size)
        watched = job.progress.track(job.data.calibration, f"scoring: {rule.name}", total=total)
        table = collect_scores(job.model, watched, rule, tap=settings.tap, samples=samples)
        write_json(path, table.to_json())
        job.workspace.done("scores", {"seconds": time.monotonic() - begun})
    table = ScoreTable.from_json(json.loads(path.read_text(encoding="utf-8")))
    job.facts["scores"] = {"criterion": settings.criterion, "settings": dict(table.settings)}
    seconds = job.workspace.stages["scores"]["seconds"]
    images = table.settings["samples"]
    job.progress.say(f"scored {len(table)} layers by {settings.criterion} on {images:,} images in {seconds:.1f} s")
    return table


def choose_widths(job: Job, scores: ScoreTable) -> PruningPlan:
    """Spend the budget: how many channels each group keeps, and which."""
    path = job.workspace.path(PLAN)
    if "plan" not in job.workspace.stages:
        plan, steps = _search(job, scores)
        write_json(path, plan.to_json())
        job.workspace.done("plan", {"steps": steps})
    plan = PruningPlan.from_json(json.loads(path.read_text(encoding="utf-8")))
    if job.workspace.stages["plan"]["steps"]:
        job.facts["search"] = job.workspace.stages["plan"]
    job.facts["plan"] = {
        "search": job.search,
        "cost": plan.cost,
        "before": plan.cost_before,
        "after": plan.cost_after,
        "budget": plan.budget,
        "fingerprint": plan.fingerprint,
        "settings": dict(plan.settings),
        "groups": [
            {
                "name": group.name,
                "layers": [member.layer for member in group.producers],
                "width": group.width,
                "kept": len(plan[group.name]),
                "kept_channels": list(plan[group.name]),
                "ties": plan.ties.get(group.name, 0),
                "scores": group.combine(scores).tolist() if group.name in plan.kept else None,
            }
            for group in plan.groups
        ],
    }
    job.progress.say(
        f"{job.search} plan: {format_cost(plan.cost_after, 'MACs')} of {format_cost(plan.cost_before, 'MACs')} "
        f"({plan.cost_after / plan.cost_before:.1%}; allowed {format_cost(plan.budget, 'MACs')})"
    )
    return plan


def remove_channels(job: Job, plan: PruningPlan) -> nn.Module:
    """Cut the network, prove the cut right on the example, and measure batch norm afresh."""
    pruned = apply_plan(job.model, plan)
    verification = verify_pruning(job.model, pruned, plan, job.data.example)
    job.facts["verification"] = asdict(verification)
    dense, small = _counts(job, job.model), _counts(job, pruned)
    job.facts["cost"] = {name: {"before": dense[name], "after": small[name]} for name in dense}
    job.judge("channels removed", pruned)
    if job.config.recover == "recalibrate" and recalibrate_batch_norm(pruned, job.data.calibration):
        job.judge("batch norm recalibrated", pruned)
    return pruned


def train_pruned(job: Job, plan: PruningPlan, pruned: nn.Module) -> nn.Module:
    """Fine-tune, and write plan.json and model.safetensors."""
    if "model" in job.workspace.stages:
        pruned = load_pruned(job.build, job.workspace.folder)
    else:
        settings = job.config.fine_tune
        history = None if settings is None else job.train(pruned, settings, "fine-tuning")
        save_pruned(pruned, job.model, plan, job.workspace.folder)
        job.workspace.done("model", history)
    if job.workspace.stages["model"] is not None:
        job.facts["fine_tuning"] = job.workspace.stages["model"]
        job.judge("fine-tuned", pruned)
    return pruned


def export_both(job: Job, plan: PruningPlan, pruned: nn.Module) -> None:
    """Write both networks as ONNX, and prove on the held-out images that the pruned file computes the same."""
    workspace, provider = job.workspace, job.config.onnx.provider
    if "onnx" not in workspace.stages:
        job.progress.say("exporting to ONNX")
        about = {
            "secateur": job.facts["versions"]["secateur"],
            "criterion": job.config.score.criterion,
            "search": job.search,
            "plan": plan.fingerprint,
            "macs": f"{plan.cost_after:.0f} of {plan.cost_before:.0f}",
        }
        dense_file = secateur_onnx.export(job.model, job.data.example, workspace.path(DENSE_ONNX))
        path = workspace.path(PRUNED_ONNX)
        pruned_file = secateur_onnx.export(pruned, job.data.example, path, metadata=about)
        batches = job.progress.track(job.data.test, "comparing ONNX Runtime with torch")
        parity = secateur_onnx.check_parity(pruned, path, batches, provider=provider).require()
        files = {"dense": dense_file.to_json(), "pruned": pruned_file.to_json()}
        workspace.done("onnx", files | {"parity": parity.to_json()})
    parity_facts = workspace.stages["onnx"]["parity"]
    job.facts["onnx"] = dict(workspace.stages["onnx"])
    job.progress.say(
        f"ONNX Runtime ({provider}) against torch on {parity_facts['samples']:,} images: largest difference "
        f"{parity_facts['max_abs']:.1e}, mean {parity_facts['mean_abs']:.1e}, "
        f"same class for {parity_facts['top1_agreement']:.2%}"
    )


def time_both(job: Job) -> None:
    """Time the dense file against the pruned one in ONNX Runtime."""
    settings, workspace = job.config.onnx, job.workspace
    if "benchmark" not in workspace.stages:
        with job.progress.task("timing in ONNX Runtime") as advance:
            timed = secateur_onnx.benchmark(
                workspace.path(DENSE_ONNX),
                workspace.path(PRUNED_ONNX),
                batch_sizes=settings.batch_sizes,
                provider=settings.provider,
                threads=settings.threads,
                seconds=settings.seconds,
                seed=job.config.seed,
                on_progress=advance,
            )
        workspace.done("benchmark", timed.to_json())
    job.facts["onnx"]["benchmark"] = workspace.stages["benchmark"]


def _search(job: Job, scores: ScoreTable) -> tuple[PruningPlan, list[dict[str, Any]]]:
    config, cost = job.config.plan, job.cost
    budget, round_to, min_keep = config.budget.macs, config.round_to, config.min_keep
    if job.search == "uniform":
        return uniform_plan(job.groups, scores, cost, budget, round_to=round_to, min_keep=min_keep), []
    worth = MaskedAccuracy(job.model, job.groups, rebatch(job.data.validation, None, samples=config.images))
    dense = cost({})
    to_free = dense - parse_budget(budget, dense)
    steps: list[GreedyStep] = []
    with job.progress.task("greedy search, percent of the way") as advance:

        def watched(kept: Any) -> float:
            advance(min(int(100 * (dense - (steps[-1].cost if steps else dense)) / to_free), 99), 100)
            return worth(kept)

        plan = greedy_plan(
            job.groups,
            scores,
            cost,
            budget,
            watched,
            delta=config.delta,
            round_to=round_to,
            min_keep=min_keep,
            on_step=steps.append,
        )
    return plan, [asdict(step) for step in steps]


def _counts(job: Job, model: nn.Module) -> dict[str, float]:
    """Count the network itself, independently of the closed forms: MACs of one image, and parameters."""
    with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(job.data.example)
    return {
        "macs": counter.get_total_flops() / 2 / len(job.data.example),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
