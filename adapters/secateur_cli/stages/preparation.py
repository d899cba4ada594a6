"""Everything that can be wrong with a run, found out before any work is done or any file is written."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.batches import rebatch
from secateur.channel_graph import apply_plan, channel_groups
from secateur.channel_map import with_channel_maps
from secateur.cost import cost_model
from secateur.criteria import GROUP_CRITERIA, group_criterion
from secateur.errors import BudgetError, CheckpointError, ConfigError, DataError, NetworkError
from secateur.modes import evaluating, own_copy
from secateur.precision import check_precision
from secateur.records import ChannelGroups, PruningPlan, ScoreTable
from secateur.scoring import scores_by_name
from secateur.search.budget import allowed_cost
from secateur.search.problem import state_problem
from secateur.search.spending import state_spendings
from secateur.weights import tensors_of
from secateur_cli.failures import described
from secateur_cli.inputs.data import Data, load_data
from secateur_cli.inputs.epochs import seed_everything
from secateur_cli.inputs.sources import build_network, network_factory
from secateur_cli.progress import Progress
from secateur_cli.settings.config import resolve
from secateur_cli.settings.schema import PlanConfig, RunConfig, ScoreConfig, Search
from secateur_cli.stages.few_bits import check_layers, needs_scores, plan_bits
from secateur_cli.stages.identity import computes, images_of, weights_of_builder
from secateur_cli.stages.job import Job
from secateur_cli.stages.latency import check_export, check_latency, take_times
from secateur_cli.stages.learning import rehearse_learning
from secateur_cli.stages.prescribed import (
    PRESCRIBED,
    Setting,
    Shallow,
    prescribed_plan,
    read_shallow,
    read_shallow_plan,
)
from secateur_cli.stages.recovery import calibration_images
from secateur_cli.stages.timed_batches import check_batches
from secateur_cli.stages.trainings import rehearse_training, trainings
from secateur_cli.wording import amount
from secateur_cli.workspace import Workspace

COMMON = ("training", "software and machine", "accuracy: dense", "scores", "error curves")
"""The stages that the searches and variants of one configuration have in common."""


def prepare(
    config: RunConfig,
    search: Search,
    *,
    folder: Path,
    output: Path,
    progress: Progress,
    smoke: bool,
    files: Mapping[str, Sequence[str]],
    begun: float,
    beside: Workspace | None = None,
) -> Job:
    """Load network and data, and find out what can be wrong before any work is done or any file is written.

    Raises: SecateurError: see `secateur_cli.stages.pipeline.run_job`.
    """
    check_device(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    build, network = network_factory(config.network, folder), dict[str, str]()
    with progress.waiting("building the network"):
        model = build_network(config.network, folder).eval()
        if config.train is None and config.network.weights is None:
            network |= weights_of_builder(model, build, seed=config.seed)
    workspace = Workspace(output, run_settings(config, search, folder=folder, smoke=smoke), files=files, begun=begun)
    data = load_data(config.data, folder=folder, seed=config.seed)
    outputs = logits(model, data.example).shape[1]
    data = data.for_outputs(outputs)
    model = with_channel_maps(model, data.example)
    groups = channel_groups(model, data.example, ignore=config.plan.ignore, residual=config.plan.residual)
    costs = tuple(cost_model(name, model, data.example, groups) for name in config.plan.budget.counted)
    timed = config.plan.budget.latency is not None and "plan" not in workspace.stages
    if timed:
        check_latency(config)
    shallow = read_shallow(config.plan, data.example, folder)
    setting = rehearsed_setting(config, model, data.example, groups, shallow)
    rehearse_quantization(config, model, data.example)
    if "benchmark" not in workspace.stages:
        check_batches(config, model, data.example)
    scores = rehearse_scores(config, model, data.example)
    if "scores" not in workspace.stages:
        _check_held(config.score, data)
    for each in dict.fromkeys((search, *config.plan.search)):  # also those that follow in folders of their own
        rehearse_plan(config, each, scores, setting)
    if timed or ("onnx" in files and "onnx" not in workspace.stages):
        with progress.waiting("exporting to ONNX, to see whether it can be done"):
            check_export(config, model, data.example, timed=timed)
    with progress.waiting("looking at the images"):
        images = images_of(data, seed=config.seed)
        network |= computes(model, data, seed=config.seed)
    workspace.open(images, network)
    if beside is not None:
        take_times(workspace, beside)
    if beside is not None and workspace.take(COMMON, beside):
        progress.say(f"the dense network and its scores are those of the run in {beside.folder}")
    elif workspace.stages:
        progress.say(f"continuing the run in {output}; done so far: {', '.join(workspace.stages)}")
    if workspace.lost is not None:
        lost = output / workspace.lost
        what = "is not what was written" if lost.is_file() else "is gone"
        progress.say(f"{lost} {what}: making it again, and what follows from it")
    dense = ", ".join(amount(cost({}), cost.unit) for cost in setting.costs)
    number = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
    progress.say(f"{config.network.build}: {dense}, {number} of channels can be pruned")
    if data.classes is not None and data.classes < outputs:
        progress.say(f"warning: the network has {outputs} outputs, but the data only {data.classes} classes")
    facts: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "network": {
            "build": config.network.build,
            "weights": None if config.network.weights is None else str(config.network.weights),
            "skipped": dict(groups.skipped),
        },
        "data": dict(data.describe),
        "accuracy": [],
    }
    return Job(config, search, workspace, progress, build, model, data, groups, costs, shallow, facts)


def check_device(config: RunConfig) -> None:
    """Refuse a device that torch does not find, or that does not train as it is told to. Raises ConfigError."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device: cuda: torch finds no CUDA device here; `secateur doctor` may say why. Or device: cpu"
        )
    for name, settings in trainings(config).items():
        try:
            check_precision(torch.device(config.device), settings.precision)
        except ConfigError as error:
            raise ConfigError(f"{name}.precision: {error}") from error


def run_settings(config: RunConfig, search: Search, *, folder: Path, smoke: bool) -> dict[str, Any]:
    """Return what makes a run the same run: the configuration, the search, the weights in the file, the shallow plan.

    Raises:
        CheckpointError: the weights file cannot be read.
        PlanError: the plan of a shallow network cannot be read.
    """
    decides = config.canonical() | {"search": search, "smoke": smoke, "weights_sha256": _digest(config, folder)}
    if config.plan.shallow is not None:
        decides["shallow_plan"] = read_shallow_plan(config.plan.shallow, folder).fingerprint
    return decides


def logits(model: nn.Module, example: Tensor) -> Tensor:
    """Return the outputs of the network for a batch of the data.

    Raises: DataError: it does not run on it. NetworkError: it returns something else than finite logits (N, classes).
    """
    try:
        with evaluating(model), torch.no_grad():
            outputs = model(own_copy(model, example))
    except Exception as error:  # the user's network may raise anything
        raise DataError(
            f"the network does not run on the data, a batch of shape {tuple(example.shape)}: {described(error)}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise NetworkError(f"the network must return logits (N, classes) for a batch of the data; it returned {found}")
    if not bool(torch.isfinite(outputs).all()):
        raise NetworkError("the network returns NaN or infinite values for the first images of the data")
    return outputs


def rehearse_scores(config: RunConfig, model: nn.Module, example: Tensor) -> ScoreTable:
    """Return scores of two images, which mean nothing: to be refused now and not after the training.

    Raises: SecateurError: layers that the criterion cannot score.
    """
    settings = config.score
    quick = "random" if settings.criterion in GROUP_CRITERIA else settings.criterion  # these rank for minutes
    options = {} if quick != settings.criterion else settings.options
    batch = (example, torch.arange(len(example)) % 2)  # the scores mean nothing, so any two classes will do
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is worth saying comes again with all images
        return scores_by_name(model, [batch], quick, options=options, tap=settings.tap)


def _check_held(settings: ScoreConfig, data: Data) -> None:
    """Refuse images that the criterion holds in memory and that do not fit into half of it. Raises ConfigError.

    Cost: nothing where all that are asked for fit, else a pass over as many as do.
    """
    if settings.criterion not in GROUP_CRITERIA:
        return
    rule = group_criterion(settings.criterion, **settings.options)
    samples, room = settings.samples or rule.samples, rule.memory // 2 // data.example[0].nbytes
    if samples > room and sum(len(inputs) for inputs, _ in rebatch(data.calibration, None, samples=room + 1)) > room:
        raise ConfigError(
            f"score.samples: {samples:,} images of {tuple(data.example.shape[1:])} do not fit into the "
            f"{rule.memory // 2**21:,} MiB that {settings.criterion} holds them in; at most {room:,} do"
        )


def rehearse_quantization(config: RunConfig, model: nn.Module, example: Tensor) -> None:
    """Check the layers, and let DI score two images where it decides who keeps more bits.

    Raises: SecateurError: layers that cannot have fewer bits, or that DI cannot score.
    """
    if config.quantize is not None:
        check_layers(model)
    if needs_scores(config.quantize):
        rehearse_scores(config.model_copy(update={"score": ScoreConfig(criterion="di")}), model, example)


def rehearsed_setting(
    config: RunConfig, model: nn.Module, example: Tensor, groups: ChannelGroups, shallow: Shallow | None
) -> Setting:
    """Return what a search is rehearsed with: what a latency allows is known once layers have been timed."""
    budgets = config.plan.budget.counted or {"macs": "99.9%"}
    costs = tuple(cost_model(name, model, example, groups) for name in budgets)
    return Setting(model, example, groups, costs, budgets, shallow)


def rehearse_plan(config: RunConfig, search: Search, scores: ScoreTable, setting: Setting) -> None:
    """State the search's problem, to be refused now and not after the training.

    Raises: SecateurError: groups without scores, a budget that is met already or out of reach, a size that even the
        narrowest widths exceed, weights that cannot be saved or trained, images to recover on that do not fit into
        memory.
    """
    plan, model, costs = config.plan, setting.model, setting.costs
    state_spendings(costs, setting.budgets, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        if search in PRESCRIBED:
            narrowest = prescribed_plan(search, plan, scores, setting)
        if search != "rates":  # whose widths alone depend on no score
            problem = state_problem(
                setting.groups,
                scores,
                costs,
                setting.budgets,
                round_to=plan.round_to,
                min_keep=plan.min_keep,
                reduction="sum",
            )
            narrowest = problem.plan(problem.narrowest, {})
        _check_size(config, model, narrowest)
    rehearse_learning(search, plan, model, setting.groups, setting.example, method=config.recover.method)
    if search == "greedy" and plan.greedy_from is not None:
        _check_start(plan, setting)
    tensors_of(model)
    rehearse_training(config, search, model, setting.example)
    calibration_images(config.recover, setting.example)


def _check_size(config: RunConfig, model: nn.Module, narrowest: PruningPlan) -> None:
    if config.quantize is None or config.quantize.size is None:
        return
    try:
        plan_bits(config.quantize, apply_plan(model, narrowest), ScoreTable({}), seed=config.seed)
    except BudgetError as error:
        raise BudgetError(f"quantize.size: {error}, at the narrowest widths that the plan may have") from error


def _check_start(plan: PlanConfig, setting: Setting) -> None:
    begin, budgets = str(plan.greedy_from), plan.budget.given
    if isinstance(budgets.get("latency"), float):  # milliseconds: how many the dense network takes is not known yet
        return
    dense = {cost.name: cost({}) for cost in setting.costs} | {"latency": 1.0}
    if all(allowed_cost(begin, dense[name]) <= allowed_cost(budget, dense[name]) for name, budget in budgets.items()):
        raise ConfigError(
            f"plan.greedy_from: {plan.greedy_from}: the search has to begin above a budget, to have something to do"
        )


def _digest(config: RunConfig, folder: Path) -> str | None:
    """Return the hash of the weights file, so that replaced weights are another run."""
    if config.network.weights is None:
        return None
    try:
        with resolve(config.network.weights, folder).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"cannot read the weights {config.network.weights}: {error.strerror}; to take yours: "
            "--set network.weights=PATH"
        ) from error
