"""The stage behind fine-tuning that gives the filters fewer bits: planned, trained, stored twice, compared, judged."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

import secateur_onnx
from secateur.batches import rebatch
from secateur.channel_graph import zero_masked
from secateur.checkpoint import MODEL_FILE
from secateur.evaluation import accuracy
from secateur.feature_maps import collect_scores
from secateur.modes import placed
from secateur.quantization import (
    BitPlan,
    bit_plan,
    calibrated,
    fake_quantized,
    largest_uniform,
    quantize_network,
    quantized_bytes,
    save_quantized,
    uniform_bits,
)
from secateur.quantization.quantizer import MOST
from secateur.records import PruningPlan, ScoreTable
from secateur_cli.settings.quantize_schema import QuantizeConfig
from secateur_cli.stages.job import Job
from secateur_cli.wording import with_room
from secateur_onnx.few_bits.quantized import check_weights

QUANTIZED, QUANTIZED_ONNX = "model.quantized.safetensors", "model.quantized.onnx"
EXAMPLE = 64  # images that say how far rounded activations may be apart
ORDERS: dict[str, Any] = {"di": "scores", "reversed": "reversed", "random": "random"}


def needs_scores(settings: QuantizeConfig | None) -> bool:
    """Return whether DI decides who keeps more bits."""
    return settings is not None and settings.order in ("di", "reversed")


def plan_bits(settings: QuantizeConfig, model: nn.Module, scores: ScoreTable, *, seed: int) -> BitPlan:
    """Return the bits of every filter. The size depends on no score: with none, a size out of reach is refused too.

    Raises:
        BudgetError: no assignment is as small as the size; the smallest is named.
        ScoreError: scores of another structure.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
        >>> settings = QuantizeConfig(bits=(4, 2), shares=(0.5, 0.5))
        >>> sorted(plan_bits(settings, net, ScoreTable({}), seed=0).bits["1"].tolist())
        [2, 2, 4, 4]
    """

    def measured(plan: BitPlan) -> int:
        return quantized_bytes(model, plan)

    size, rule = settings.size_bytes, settings.thresholds
    if settings.order == "uniform":
        if size is None:
            return uniform_bits(model, settings.bits[0], ends=settings.ends, thresholds=rule)
        return largest_uniform(model, size, measured, ends=settings.ends, thresholds=rule)
    return bit_plan(
        model,
        scores,
        levels=settings.bits,
        shares=settings.shares,
        size=size,
        measured=measured,
        order=ORDERS[settings.order],
        ends=settings.ends,
        seed=seed,
        thresholds=rule,
    )


def check_layers(model: nn.Module) -> None:
    """Refuse before any work layers that cannot have fewer bits, whatever is decided of them.

    Raises:
        NetworkError: there are none, they share a weight or compute it, or weights that no ONNX file has in few bits.
    """
    bits = uniform_bits(model, MOST)
    bits.check(model)
    check_weights(model, bits)


def give_fewer_bits(job: Job, plan: PruningPlan, pruned: nn.Module) -> None:
    """Quantize the pruned network, store it packed and as ONNX, prove that file, and judge it; if that is asked for."""
    settings = job.config.quantize
    if settings is None:
        return

    def judged(model: nn.Module, title: str) -> float:
        with placed(job.config.device, model):
            share = accuracy(model, job.progress.track(job.data.test, f"judging: {title}"))
        job.progress.say(f"{title}: {share:.1%} of the held-out images right")
        return share

    def work() -> dict[str, Any]:
        scores = ScoreTable({})
        if needs_scores(settings):
            watched = job.progress.track(job.data.calibration, "scoring filters by DI")
            with placed(job.config.device, pruned):
                scores = collect_scores(pruned, watched, "di")
        bits = plan_bits(settings, pruned, scores, seed=job.config.seed)
        if settings.activations is not None:
            with placed(job.config.device, pruned):
                bits = calibrated(
                    pruned, bits, job.data.calibration, bits=settings.activations, samples=settings.samples
                )
        shares = {"rounded": judged(quantize_network(pruned, bits)[0], "fewer bits, rounded")}
        trained, history = copy.deepcopy(pruned), None
        with fake_quantized(trained, bits) as thresholds:
            if settings.training is not None:
                history = job.train(
                    *(trained, settings.training, "fine-tuning with fewer bits"),
                    after_step=lambda: zero_masked(trained, plan),
                )
        rounded, _ = quantize_network(trained, bits, thresholds)
        if history is not None:
            shares["trained"] = judged(rounded, "fewer bits, fine-tuned")
        size = save_quantized(trained, bits, job.workspace.path(QUANTIZED), thresholds)
        return {
            **_about(settings, bits, pruned),
            "float_bytes": job.workspace.path(MODEL_FILE).stat().st_size,
            "file_bytes": size,
            "accuracy": shares,
            "fine_tuning": history,
            **_exported(job, plan, trained, bits, thresholds),
        }

    job.facts["quantization"] = fact = job.once("quantization", work)
    packed, onnx = fact["file_bytes"], fact["onnx"]["file_bytes"]
    job.progress.say(f"{fact['bits_a_weight']:.2f} bits a weight: {packed:,} bytes packed, {onnx:,} bytes as ONNX")
    if larger := with_room(fact):
        kinds = ", ".join(f"{bits} bits as {kind}" for bits, kind in larger.items())
        job.progress.say(f"the ONNX file stores {kinds}: ONNX has numbers of 2, 4, 8 and 16 bits alone")
    for bits, reason in fact["wider"].items():
        job.progress.say(f"warning: {bits} bits are stored as {fact['stored'][bits]} in the ONNX file: {reason}")
    for layer, reason in fact["left"].items():
        job.progress.say(f"warning: the weights of {layer} take 32 bits in the ONNX file: {reason}")


def _about(settings: QuantizeConfig, bits: BitPlan, model: nn.Module) -> dict[str, Any]:
    counts = {name: own.bincount().tolist() for name, own in bits.bits.items()}
    return {
        "order": settings.order,
        "levels": bits.settings["levels"],
        "shares": bits.settings.get("shares"),
        "thresholds": bits.thresholds,
        "allowed_bytes": settings.size_bytes,
        "bits_a_weight": bits.average(model),
        "filters": {name: {b: n for b, n in enumerate(own) if n} for name, own in counts.items()},
        "activations": {name: [to.bits, to.threshold, to.signed] for name, to in bits.activations.items()},
    }


def _exported(job: Job, plan: PruningPlan, model: nn.Module, bits: BitPlan, thresholds: Any) -> dict[str, Any]:
    """Write the ONNX file, compare it with torch on the held-out images, and look how it is executed."""
    about = secateur_onnx.plan_metadata(plan)
    about |= {"bits_a_weight": bits.average(model), "thresholds": bits.thresholds}
    path = job.workspace.path(QUANTIZED_ONNX)
    example = next(rebatch(job.data.calibration, None, samples=EXAMPLE))[0] if bits.activations else job.data.example
    done = secateur_onnx.export_quantized(model, bits, example, path, thresholds=thresholds, metadata=about)
    batches = job.progress.track(job.data.test, "comparing ONNX Runtime with torch")
    parity = secateur_onnx.check_parity(done.model, path, batches, tolerance=done.tolerance).require()
    form: secateur_onnx.Form = "few bits and activations" if bits.activations else "few bits"
    executed: dict[str, Any] = {form: secateur_onnx.execution_table(path, form)}
    if not bits.activations:
        executed["few bits, unpacked"] = secateur_onnx.execution_table(path, "few bits, unpacked")
    return {
        "onnx": done.file.to_json(),
        "stored": {str(b): kind for b, kind in done.stored.items()},
        "wider": {str(b): reason for b, reason in done.wider.items()},
        "left": dict(done.left),
        "parity": parity.to_json(),
        "execution": executed,
    }
