"""The main job: a trained network in, a smaller ONNX model with its proof out. One function a stage, in order."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import secateur_onnx
from secateur.channel_graph import apply_plan, torch_pruning_macs, verify_pruning, zero_masked
from secateur.checkpoint import MODEL_FILE, PLAN_FILE, load_pruned, save_pruned
from secateur.modes import evaluating, own_copy
from secateur.records import PruningPlan, ScoreTable
from secateur.training import highest_filters, restart_batch_norm
from secateur_cli.progress import Progress
from secateur_cli.settings.schema import RunConfig, Search
from secateur_cli.stages import planning
from secateur_cli.stages.few_bits import QUANTIZED, QUANTIZED_ONNX, give_fewer_bits, plan_bits
from secateur_cli.stages.int8 import INT8_ONNX, write_int8
from secateur_cli.stages.job import Hooks, Job
from secateur_cli.stages.layer_by_layer import train_layer_by_layer
from secateur_cli.stages.planning import choose_widths, score, train_dense
from secateur_cli.stages.preparation import prepare
from secateur_cli.stages.recovery import RECOVERED, recover
from secateur_cli.workspace import Workspace

DENSE_ONNX = "dense.onnx"
PRUNED_ONNX = "model.onnx"
FILES = planning.FILES | {
    "recovery": (RECOVERED,),
    "model": (PLAN_FILE, MODEL_FILE),
    "onnx": (DENSE_ONNX, PRUNED_ONNX),
    "quantization": (QUANTIZED, QUANTIZED_ONNX),
    "int8": (INT8_ONNX,),
}


def run_job(
    config: RunConfig,
    search: Search,
    *,
    folder: Path,
    output: Path,
    progress: Progress,
    smoke: bool = False,
    hooks: Hooks | None = None,
    beside: Workspace | None = None,
) -> dict[str, Any]:
    """Run every stage that the output folder does not hold yet, and return the report as plain data.

    Args:
        config: what to do.
        search: which of the configured searches decides the widths.
        folder: where relative paths and modules of the configuration are looked up.
        output: the folder of the run; continued if it holds the same run.
        progress: shows what happens.
        smoke: recorded, so that a smoke run is never taken for a real one.
        hooks: what others do with the search as it goes.
        beside: a finished run of the same configuration by another search or variant; what they have in common is taken
            from there.

    Raises:
        SecateurError: anything that the stages refuse; what was finished stays, nothing is half-written.
    """
    begun = time.monotonic()
    secateur_onnx.check_installation(provider=config.onnx.provider)
    job = prepare(
        config,
        search,
        folder=folder,
        output=output,
        progress=progress,
        smoke=smoke,
        files=FILES,
        begun=begun,
        beside=beside,
    )
    job.hooks = hooks or job.hooks
    job.facts |= {"format": 1, "smoke": smoke}
    try:
        train_dense(job)
        say_where(job)
        job.judge("dense", job.model)
        scores = score(job)
        plan = choose_widths(job, scores)
        pruned = remove_channels(job, plan)
        if config.quantize is not None:  # a size out of reach is refused here, and not after the training
            plan_bits(config.quantize, pruned, ScoreTable({}), seed=config.seed)
        recover(job, plan, pruned)
        pruned = train_pruned(job, plan, pruned, scores)
        export_both(job, plan, pruned)
        time_both(job)
        give_fewer_bits(job, plan, pruned)
        write_int8(job, pruned, job.workspace.path(PRUNED_ONNX))
    finally:
        job.workspace.close()
    job.facts["seconds"] = job.workspace.seconds
    return job.facts


def versions() -> dict[str, str]:
    """Return the versions of what decides a result."""
    packages = ("secateur", "torch", "torch-pruning", "onnx")
    runtime = {"onnxruntime": str(secateur_onnx.describe_machine().onnxruntime)}
    return {"python": python_version()} | {name: version(name) for name in packages} | runtime


def say_where(job: Job) -> None:
    """Record when, by which software and on which machine the run was begun; say where the software is another now.

    The training of the dense network, if there is one, has come to its end by then: until then nothing is reported.
    """

    def work() -> dict[str, Any]:
        machine = secateur_onnx.describe_machine(provider=job.config.onnx.provider).to_json()
        return {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "machine": machine | {"threads": torch.get_num_threads()},
        }

    found = job.once("software and machine", work)
    job.facts |= found
    before = found["versions"]
    changed = [f"{name} {before[name]}, now {new}" for name, new in versions().items() if before.get(name, new) != new]
    if changed:
        job.progress.say(f"the report names the software that the run was begun with: {'; '.join(changed)}")


def remove_channels(job: Job, plan: PruningPlan) -> nn.Module:
    """Cut the network, and prove the cut right on the example."""
    pruned = apply_plan(job.source, plan)

    def work() -> dict[str, Any]:
        dense, small = _counts(job, job.model), _counts(job, pruned)
        return {
            "verification": asdict(verify_pruning(job.source, pruned, plan, job.data.example)),
            "cost": {name: {"before": dense[name], "after": small[name]} for name in dense},
        }

    job.facts |= job.once("removal", work)
    job.judge("channels removed", pruned)
    return pruned


def train_pruned(job: Job, plan: PruningPlan, pruned: nn.Module, scores: ScoreTable) -> nn.Module:
    """Fine-tune, write plan.json and model.safetensors, and return the network that lies there.

    Channels that the plan masks are set to zero after each step, since training would give them values again.
    """
    settings = job.config.fine_tune

    def silent() -> None:
        zero_masked(pruned, plan)

    def work() -> dict[str, Any] | None:
        history = None
        if settings is not None:
            if settings.layer_by_layer:
                trained, history = train_layer_by_layer(job, plan, settings)
                pruned.load_state_dict(trained.state_dict())
            else:
                if settings.restart_batch_norm:
                    restart_batch_norm(pruned)
                lesson: dict[str, Any] = {"teacher": job.model, "plan": plan} if settings.has_teacher else {}
                frozen = highest_filters(scores, settings.freeze, plan=plan)
                history = job.train(pruned, settings, "fine-tuning", after_step=silent, freeze=frozen, **lesson)
        save_pruned(pruned, job.build(), plan, job.workspace.folder)
        return history

    history = job.once("model", work)
    pruned = load_pruned(job.build, job.workspace.folder)
    if history is not None:
        job.facts["fine_tuning"] = history
        job.judge("fine-tuned", pruned)
    return pruned


def export_both(job: Job, plan: PruningPlan, pruned: nn.Module) -> None:
    """Write both networks as ONNX, and prove on the held-out images that the pruned file computes the same.

    The dense file, against which it is timed, is tried on the two images of the example.
    """
    workspace, provider = job.workspace, job.config.onnx.provider

    def work() -> dict[str, Any]:
        job.progress.say("exporting to ONNX")
        about = secateur_onnx.plan_metadata(plan)
        dense_file = secateur_onnx.export(job.model, job.data.example, workspace.path(DENSE_ONNX))
        secateur_onnx.check_parity(
            job.model, workspace.path(DENSE_ONNX), [job.data.example], provider=provider
        ).require()
        path = workspace.path(PRUNED_ONNX)
        pruned_file = secateur_onnx.export(pruned, job.data.example, path, metadata=about)
        batches = job.progress.track(job.data.test, "comparing ONNX Runtime with torch")
        parity = secateur_onnx.check_parity(pruned, path, batches, provider=provider).require()
        return {"dense": dense_file.to_json(), "pruned": pruned_file.to_json(), "parity": parity.to_json()}

    job.facts["onnx"] = dict(job.once("onnx", work))
    parity_facts = job.facts["onnx"]["parity"]
    job.progress.say(
        f"ONNX Runtime ({provider}) against torch on {parity_facts['samples']:,} images: largest difference "
        f"{parity_facts['max_abs']:.1e}, mean {parity_facts['mean_abs']:.1e}, "
        f"same class for {parity_facts['top1_agreement']:.2%}"
    )


def time_both(job: Job) -> None:
    """Time the dense file against the pruned one in ONNX Runtime."""
    settings, workspace, budget = job.config.onnx, job.workspace, job.config.plan.budget
    batch_sizes = settings.batch_sizes
    if budget.latency is not None and budget.batch not in batch_sizes:
        batch_sizes = (budget.batch, *batch_sizes)

    def work() -> dict[str, Any]:
        with job.progress.task("timing in ONNX Runtime") as advance:
            timed = secateur_onnx.benchmark(
                workspace.path(DENSE_ONNX),
                workspace.path(PRUNED_ONNX),
                batch_sizes=batch_sizes,
                provider=settings.provider,
                threads=settings.threads,
                seconds=settings.seconds,
                seed=job.config.seed,
                on_progress=advance,
            )
        return timed.to_json()

    job.facts["onnx"]["benchmark"] = job.once("benchmark", work)


def _counts(job: Job, model: nn.Module) -> dict[str, float]:
    """Count the network itself, independently of the closed forms: MACs of one image, by two counts, and parameters."""
    with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(own_copy(model, job.data.example))
    return {
        "macs": counter.get_total_flops() / 2 / len(job.data.example),
        "torch_pruning_macs": torch_pruning_macs(model, job.data.example),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
