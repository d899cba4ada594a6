"""The search of a run as an experiment of NNI: what its tuner runs, and what its trials judge with.

    tuner:
      name: SecateurGreedy
      classArgs:
        search: secateur_cli.nni_search:plan_of_run
        arguments: {config: digits_run.yaml}
        output: runs/nni-digits
    trialCommand: >-
      python -m secateur_nni.experiments.candidate secateur_cli.nni_search:worth_of_run config=digits_run.yaml

The search keeps scores, journal and plan in the folder of the run: `secateur search` or `secateur run` of the same
configuration goes on from there, and an experiment that was stopped does too.
"""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from secateur.channel_graph import channel_groups
from secateur.channel_map import with_channel_maps
from secateur.errors import CheckpointError, ConfigError
from secateur.evaluation import CandidateWorth
from secateur.modes import placed
from secateur.records import PruningPlan
from secateur.weights import load_weights
from secateur_cli.inputs.data import load_data
from secateur_cli.inputs.epochs import seed_everything
from secateur_cli.inputs.sources import build_network
from secateur_cli.progress import Progress
from secateur_cli.settings.config import load_config
from secateur_cli.settings.schema import RunConfig, Search
from secateur_cli.stages.job import Hooks, InTrials
from secateur_cli.stages.judge import judge_of
from secateur_cli.stages.planning import DENSE_WEIGHTS, plan_job
from secateur_cli.stages.preparation import check_device, logits

BY_EVALUATION: tuple[Search, ...] = ("greedy", "refine")


def plan_of_run(in_trials: InTrials, config: str) -> PruningPlan:
    """Return the plan of a run whose candidates are judged in trials; it is that of `secateur search`.

    Args:
        in_trials: see `secateur_nni.GreedyTuner`.
        config: the run's YAML file.

    Raises:
        SecateurError: anything that the run refuses, or a search that judges no candidates.
    """
    settings, search = run_to_search(config)
    folder = Path(config).parent
    progress = Progress(Console(stderr=True, markup=False, emoji=False, highlight=False))
    hooks = Hooks(in_trials=in_trials)
    return plan_job(settings, search, folder=folder, output=settings.output, progress=progress, hooks=hooks)


def worth_of_run(config: str) -> tuple[CandidateWorth, str]:
    """Return what judges a candidate of a run, and the name of its network and images.

    Args:
        config: the run's YAML file.

    Raises:
        CheckpointError: the dense network is trained by the run, and its weights are not on this machine.
        ConfigError: the file is refused, or the device of the run is not on this machine.
    """
    settings, search = run_to_search(config)
    check_device(settings)
    folder = Path(config).parent
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    seed_everything(settings.seed)  # a network whose weights come from nowhere else
    model = build_network(settings.network, folder).eval()
    data = load_data(settings.data, folder=folder, seed=settings.seed)
    data = data.for_outputs(logits(model, data.example).shape[1])
    model = with_channel_maps(model, data.example)
    plan = settings.plan
    groups = channel_groups(model, data.example, ignore=plan.ignore, residual=plan.residual)
    if settings.train is not None:
        trained = settings.output / DENSE_WEIGHTS
        if not trained.exists():
            raise CheckpointError(
                f"the run trains its network, and {trained.absolute()} is not on this machine; give the "
                "trained weights as network.weights, in the folder that NNI copies"
            )
        load_weights(model, trained)
    seed_everything(settings.seed)  # as the search does here
    with placed(settings.device, model):
        judge = judge_of(settings, search, model=model, groups=groups, data=data)
    return judge.evaluate, judge.name


def run_to_search(config: str) -> tuple[RunConfig, Search]:
    """Return a run's configuration and its search by evaluation.

    Raises:
        ConfigError: the file is refused, or its search judges no candidates.
    """
    settings = load_config(config)
    search = settings.plan.search[0]
    if len(settings.plan.search) > 1 or search not in BY_EVALUATION:
        raise ConfigError(
            f"{config}: plan.search: {', '.join(settings.plan.search)}: an experiment of NNI judges the candidates "
            f"of one search by evaluation: {' or '.join(BY_EVALUATION)}"
        )
    return settings, search
