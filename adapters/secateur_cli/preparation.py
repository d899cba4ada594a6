"""Everything that can be wrong with a run, found out before any work is done or any file is written."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.channel_graph import channel_groups
from secateur.channel_map import with_channel_maps
from secateur.cost import cost_model
from secateur.criteria import GROUP_CRITERIA
from secateur.errors import CheckpointError, DataError, NetworkError
from secateur.modes import evaluating
from secateur.protocols import CostModel
from secateur.records import ChannelGroups
from secateur.scoring import scores_by_name
from secateur.search import format_cost
from secateur.search.problem import state_problem
from secateur.search.spending import state_spendings
from secateur.weights import tensors_of
from secateur_cli.config import resolve
from secateur_cli.data import load_data
from secateur_cli.failures import described
from secateur_cli.job import Job
from secateur_cli.latency import check_latency
from secateur_cli.progress import Progress
from secateur_cli.recovery import calibration_images
from secateur_cli.schema import RunConfig, Search
from secateur_cli.sources import build_network, network_factory
from secateur_cli.workspace import Workspace


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
) -> Job:
    """Load network and data, and find out what can be wrong before any work is done or any file is written.

    Raises: SecateurError: see `secateur_cli.pipeline.run_job`.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with progress.waiting("building the network"):
        model = build_network(config.network, folder).eval()
    workspace = Workspace(output, run_settings(config, search, folder=folder, smoke=smoke), files=files, begun=begun)
    data = load_data(config.data, folder=folder, seed=config.seed)
    outputs = _logits(model, data.example).shape[1]
    data = data.for_outputs(outputs)
    model = with_channel_maps(model, data.example)
    groups = channel_groups(model, data.example, ignore=config.plan.ignore, residual=config.plan.residual)
    costs = tuple(cost_model(name, model, data.example, groups) for name in config.plan.budget.counted)
    if config.plan.budget.latency is not None and "plan" not in workspace.stages:
        check_latency(config, model, data.example)
    counted = costs or (cost_model("macs", model, data.example, groups),)
    _rehearse(config, model, data.example, groups, counted)
    workspace.open()
    if workspace.stages:
        progress.say(f"continuing the run in {output}; done so far: {', '.join(workspace.stages)}")
    if workspace.lost is not None:
        progress.say(f"{output / workspace.lost} is gone: making it again, and what follows from it")
    dense = ", ".join(format_cost(cost({}), cost.unit) for cost in counted)
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
    build = network_factory(config.network, folder)
    return Job(config, search, workspace, progress, build, model, data, groups, costs, facts)


def run_settings(config: RunConfig, search: Search, *, folder: Path, smoke: bool) -> dict[str, Any]:
    """Return what makes a run the same run: the configuration, the search, and the content of the weights file.

    Raises: CheckpointError: the weights file cannot be read.
    """
    return config.canonical() | {"search": search, "smoke": smoke, "weights_sha256": _digest(config, folder)}


def _logits(model: nn.Module, example: Tensor) -> Tensor:
    try:
        with evaluating(model), torch.no_grad():
            outputs = model(example)
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


def _rehearse(
    config: RunConfig, model: nn.Module, example: Tensor, groups: ChannelGroups, costs: tuple[CostModel, ...]
) -> None:
    """Walk through scoring and the search's statement on two images, to be refused now and not after the training.

    Raises: SecateurError: layers that the criterion cannot score, a budget that is met already or out of reach,
        weights that cannot be saved or trained, more images to recover on than fit into memory.
    """
    plan, settings = config.plan, config.score
    budgets = plan.budget.counted or {"macs": "99.9%"}  # what a latency allows is known once layers have been timed
    quick = "random" if settings.criterion in GROUP_CRITERIA else settings.criterion  # these rank for minutes
    options = {} if quick != settings.criterion else settings.options
    state_spendings(costs, budgets, {})
    batch = (example, torch.arange(len(example)) % 2)  # the scores mean nothing, so any two classes will do
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is worth saying comes again with all images
        scores = scores_by_name(model, [batch], quick, options=options, tap=settings.tap)
        state_problem(
            groups,
            scores,
            costs,
            budgets,
            round_to=plan.round_to,
            min_keep=plan.min_keep,
            reduction="sum",
        )
    tensors_of(model)
    calibration_images(config.recover, example)
    if (config.train or config.fine_tune) and not any(p.requires_grad for p in model.parameters()):
        raise NetworkError("no parameter of the network needs a gradient, so it cannot be trained; set fine_tune: null")


def _digest(config: RunConfig, folder: Path) -> str | None:
    """Return the hash of the weights file, so that replaced weights are another run."""
    if config.network.weights is None:
        return None
    try:
        with resolve(config.network.weights, folder).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read the weights {config.network.weights}: {error.strerror}") from error
