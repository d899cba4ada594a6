"""What may go wrong with a network and its configuration: each step of a run tried on two images, nothing written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import secateur_onnx
from secateur.channel_graph import channel_groups
from secateur.channel_map import with_channel_maps
from secateur.errors import NetworkError
from secateur.findings import Finding
from secateur.records import ChannelGroups, ScoreTable
from secateur_cli.doctor.examination import Examination
from secateur_cli.doctor.patience import patience
from secateur_cli.inputs.data import Data, load_data
from secateur_cli.inputs.sources import build_network, network_factory
from secateur_cli.settings.config import DataConfig, RunConfig, resolve
from secateur_cli.stages.latency import check_latency
from secateur_cli.stages.preparation import (
    check_device,
    logits,
    rehearse_plan,
    rehearse_quantization,
    rehearse_scores,
    rehearsed_setting,
)
from secateur_cli.stages.prescribed import read_shallow
from secateur_cli.stages.timed_batches import check_batches
from secateur_cli.wording import amount, tiny

PATIENCE = 300.0  # seconds for tracing; the networks that can be traced take a few
IMAGES = 16
NAMED = 12  # layers, where a reason holds for many
EXPECTED = ("its channels are the network's outputs", "asked to be left", "it has only one channel", "tied to")
RESIDUAL = "a residual stream"
DIFFER = ": the outputs differ by"
OTHER_CRITERIA = ("l1", "l2")
FREER = (
    ("plan.greedy_from=null",),
    ("plan.round_to=1",),
    ("plan.min_keep=1",),
    ("plan.round_to=1", "plan.min_keep=1"),
)
WHY_TRACED = (
    "every plan needs its groups of channels. The network must run on the example in eval mode, by operations that "
    "autograd sees; channel shuffles between grouped convolutions and window attention are known to stop Torch-Pruning"
)


def diagnose_network(job: Examination, *, seconds: float = PATIENCE) -> list[Finding]:
    """Return one finding for each step of a run that was tried: up to the export, without training or writing.

    Args:
        job: the configuration; its findings are those that are returned.
        seconds: how long Torch-Pruning may trace.

    Raises:
        ConfigError: the configuration itself cannot be read.

    Cost: builds the network, reads a few images, traces, scores two of them, exports: seconds, or a minute.
    """
    config, folder = job.config(), job.path.parent
    _placed(job, config)
    torch.manual_seed(config.seed)
    model = _built(job, config, folder)
    data = job.attempt("data", lambda: load_data(config.data, folder=folder, seed=config.seed, limit=IMAGES))
    example = _stand_in(config.data) if data is None else data.example
    if data is not None:
        job.note("data", f"{config.data.source}: {_data(data)}")
    else:
        _found(job, config.data, folder)
        if example is not None:
            job.note("example", f"random numbers of shape {tuple(example.shape)} in place of the data")
    if model is None or example is None:
        return job.findings
    outputs = job.attempt("forward", lambda: _outputs(model, example, data))
    if outputs is None:
        return job.findings
    job.note("forward", f"{tuple(example.shape)} to {outputs} outputs each")
    job.attempt("batch sizes", lambda: check_batches(config, model, example))
    mapped = _prunable(job, config, model, example, seconds=seconds)
    if mapped is not None:
        rehearse = partial(rehearse_quantization, config, mapped, example)
        job.attempt("quantize", rehearse, title="scoring two images for the bits")
    _deployable(job, config, model if mapped is None else mapped, example)
    return job.findings


def left_out(skipped: Mapping[str, str]) -> Iterator[Finding]:
    """Return one finding for each reason for which groups keep all their channels.

    Args:
        skipped: layer -> reason, as `channel_groups` gives them.

    Example:
        >>> [(f.severity, f.what) for f in left_out({"head": "its channels are the network's outputs"})]
        [('fine', "head: its channels are the network's outputs")]
    """
    layers_of: dict[str, list[str]] = {}
    for layer, reason in skipped.items():
        kind = RESIDUAL if reason.startswith(RESIDUAL) else reason.split(DIFFER)[0]
        layers_of.setdefault(kind, []).append(layer)
    for reason, layers in layers_of.items():
        named = ", ".join(layers[:NAMED]) + (f" and {len(layers) - NAMED} more" if len(layers) > NAMED else "")
        if reason.startswith((*EXPECTED, RESIDUAL)):
            yield Finding("left out", f"{named}: {reason}")
        else:
            why = "these layers keep all their channels, so that the others must pay for the budget alone"
            yield Finding("left out", f"{named}: {reason}", "warning", why)


def _placed(job: Examination, config: RunConfig) -> None:
    """Try where it is trained and timed."""
    job.attempt("device", lambda: check_device(config))
    job.attempt("onnx.provider", lambda: secateur_onnx.check_installation(provider=config.onnx.provider))
    job.attempt("plan.budget.latency", lambda: check_latency(config))


def _built(job: Examination, config: RunConfig, folder: Path) -> nn.Module | None:
    """Build the network; without its weights where they cannot be had, since its groups are the same."""
    model = job.attempt("network", network_factory(config.network, folder), title="building the network")
    if model is None:
        return None
    job.note("network", f"{config.network.build}: {_size(model)}")
    weights = config.network.weights
    if weights is None:
        job.note("weights", "still to be trained" if config.train else "those of its builder")
        return model.eval()
    loaded = job.attempt("weights", lambda: build_network(config.network, folder))
    if loaded is not None:
        job.note("weights", str(weights))
        return loaded.eval()
    if not resolve(weights, folder).is_file():
        job.mended_by("point to yours", job.command("network.weights=/path/to/weights.safetensors"))
    return model.eval()


def _prunable(
    job: Examination, config: RunConfig, model: nn.Module, example: Tensor, *, seconds: float
) -> nn.Module | None:
    """Try what comes before the surgery; return the network as it would be pruned, None where it cannot be."""

    def trace() -> tuple[nn.Module, ChannelGroups]:
        try:
            with patience(seconds):
                mapped = with_channel_maps(model, example)
                return mapped, channel_groups(mapped, example, ignore=config.plan.ignore, residual=config.plan.residual)
        except (TimeoutError, NetworkError) as error:  # what interrupts the trace itself comes as the cause
            late = error if isinstance(error, TimeoutError) else error.__cause__
            if not isinstance(late, TimeoutError):
                raise
            raise NetworkError(f"Torch-Pruning does not come to an end with this network: {late}") from late

    traced = job.attempt("Torch-Pruning", trace, why=WHY_TRACED, title="tracing the network with Torch-Pruning")
    if traced is None:
        return None
    mapped, groups = traced
    job.note("Torch-Pruning", _traced(groups))
    job.findings.extend(left_out(groups.skipped))
    scores = _scored(job, config, mapped, example)
    if scores is not None:
        _planned(job, config, mapped, example, groups, scores)
    return mapped


def _scored(job: Examination, config: RunConfig, model: nn.Module, example: Tensor) -> ScoreTable | None:
    name = config.score.criterion

    def score() -> ScoreTable:
        return rehearse_scores(config, model, example)

    scores = job.attempt("criterion", score, title="scoring two images")
    if scores is None:
        others = [(f"score.criterion={other}", "score.options={}") for other in OTHER_CRITERIA if other != name]
        job.remedy(others, lambda changed: rehearse_scores(changed, model, example))
        return None
    job.note("criterion", f"{name} scores {len(scores)} layer{'' if len(scores) == 1 else 's'}")
    return scores


def _planned(
    job: Examination, config: RunConfig, model: nn.Module, example: Tensor, groups: ChannelGroups, scores: ScoreTable
) -> None:
    def state(changed: RunConfig) -> bool:
        shallow = read_shallow(changed.plan, example, job.path.parent)
        setting = rehearsed_setting(changed, model, example, groups, shallow)
        for search in changed.plan.search:
            rehearse_plan(changed, search, scores, setting)
        return True

    counted, latency = config.plan.budget.counted, config.plan.budget.latency
    if job.attempt("plan", lambda: state(config), title="stating the budget"):
        told = ", ".join(f"{name} {budget}" for name, budget in counted.items())
        met = [f"the budget can be met: {told}"] if counted else []
        timed = [f"whether a latency of {latency} can be met, the run measures"] if latency else []
        job.note("plan", "; ".join(met + timed))
        return
    shares = [tuple(f"plan.budget.{name}={share}%" for name in counted) for share in range(5, 100, 5)]
    job.remedy([*FREER, *(shares if counted else ())], state)


def _deployable(job: Examination, config: RunConfig, model: nn.Module, example: Tensor) -> None:
    """Export into a folder that goes again, and compare the file with the network on the example."""
    provider = config.onnx.provider
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        made = job.attempt("export", lambda: secateur_onnx.export(model, example, path), title="exporting to ONNX")
        if made is None:
            return
        size = f"opset {made.opset}, {amount(made.file_bytes, 'B')}"
        if made.fallback_reason is None:
            job.note("export", f"one ONNX file, {size}")
        else:
            what = f"by torch's older exporter, {size}; the current one says: {made.fallback_reason}"
            job.note("export", what, "warning", "it works, but torch means to remove that exporter")
        check, batches = f"file on {provider}", [(example, None)]
        parity = job.attempt(
            check, lambda: secateur_onnx.check_parity(model, path, batches, provider=provider).require()
        )
        if parity is not None:
            job.note(check, f"computes the same, but for {tiny(parity.max_relative)} of the largest output")


def _found(job: Examination, config: DataConfig, folder: Path) -> None:
    """Give the last finding, that the data cannot be read, the command that finds or fetches it, where one can."""
    places = {"train": config.train, "test": config.test}
    absent = [
        f"data.{key}=/path/to/{key}/images"
        for key, path in places.items()
        if path is not None and not resolve(path, folder).exists()
    ]
    if absent:
        job.mended_by("point to yours", job.command(*absent))
    elif config.root is not None and not resolve(config.root, folder).exists():
        kind, root = config.source.upper(), str(resolve(config.root, folder))
        fetch = f'python -c "import torchvision; torchvision.datasets.{kind}({root!r}, download=True)"'
        job.mended_by("torchvision fetches it", fetch)


def _size(model: nn.Module) -> str:
    if any(is_lazy(parameter) for parameter in model.parameters()):
        return "it has its parameters once it has run"
    return amount(sum(parameter.numel() for parameter in model.parameters()), "parameters")


def _data(data: Data) -> str:
    classes = "" if data.classes is None else f", {data.classes} classes"
    return f"images of shape {tuple(data.example.shape[1:])}{classes}"


def _traced(groups: ChannelGroups) -> str:
    channels = sum(group.width for group in groups.values())
    number = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
    return f"traces it: {number} can be pruned, {channels:,} channels in all"


def _outputs(model: nn.Module, example: Tensor, data: Data | None) -> int:
    outputs = logits(model, example).shape[1]
    if data is not None:
        data.for_outputs(outputs)
    return outputs


def _stand_in(config: DataConfig) -> Tensor | None:
    """Return random images of the shape that the source has; None where only the data itself knows it."""
    shapes = {
        "digits": (1, 8, 8),
        "cifar10": (3, 32, 32),
        "cifar100": (3, 32, 32),
        "image-folder": (3, config.image_size, config.image_size),
    }
    shape = shapes.get(config.source)
    return None if shape is None else torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
