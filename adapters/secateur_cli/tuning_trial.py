"""The trial of NNI that is a whole run: `python -m secateur_cli.tuning_trial CONFIG [--set KEY=VALUE] [--smoke] ...`.

The trial's parameters change settings of the run by their full path, as `--set` does:

    score.criterion: {_type: choice, _value: [hrank, l1, {_name: di, score.options.rho: {_type: loguniform, ...}}]}
    plan.delta: {_type: uniform, _value: [0.01, 0.05]}
    plan.budget.macs%: {_type: quniform, _value: [30, 80, 10]}      a key that ends in % gets its value as a share

Each step of a search by evaluation is an intermediate result, the final one is a dictionary with the accuracy, MACs and
latency of what was exported. What NNI tunes for, "default", is the accuracy on the validation images, less
`--cost-weight` times the share of the MACs that is left: the held-out images decide nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur_nni.experiments.trials import Report, run_trial


def main(arguments: Sequence[str]) -> int:
    """Run what the parameters of this trial say, in the trial's own folder."""
    given = _parsed(arguments)

    def work(parameters: dict[str, Any], report: Report) -> dict[str, Any]:
        return tuned_run(
            parameters,
            report,
            config=given.config,
            changes=given.set,
            smoke=given.smoke,
            cost_weight=given.cost_weight,
            output=Path(os.environ.get("NNI_OUTPUT_DIR", ".")) / "run",
        )

    return run_trial(work, timeout=given.timeout)


def tuned_run(
    parameters: dict[str, Any],
    report: Report,
    *,
    config: Path,
    output: Path,
    changes: Sequence[str] = (),
    smoke: bool = False,
    cost_weight: float = 0.0,
) -> dict[str, Any]:
    """Do a whole run with the settings of a trial, and return its final result.

    Args:
        parameters: of the trial.
        report: takes intermediate results.
        config: the run's YAML file.
        output: folder of the run.
        changes: further settings, which the parameters override.
        smoke: whether few images and epochs will do.
        cost_weight: what the share of the MACs that is left weighs against accuracy.

    Raises:
        SecateurError: anything that the run refuses.
    """
    from rich.console import Console  # after the parameters have been read, as all that follows

    from secateur.checkpoint import load_pruned
    from secateur.errors import ConfigError
    from secateur.evaluation import accuracy
    from secateur.modes import placed
    from secateur_cli.inputs.data import load_data
    from secateur_cli.inputs.sources import network_factory
    from secateur_cli.progress import Progress
    from secateur_cli.settings.config import load_config
    from secateur_cli.stages.job import Hooks
    from secateur_cli.stages.pipeline import run_job

    settings = load_config(config, overrides=[*changes, *as_changes(parameters)])
    for key, given in {"search": settings.plan.search, "variant": settings.plan.variant}.items():
        if len(given) > 1:
            raise ConfigError(
                f"{config}: plan.{key}: {', '.join(given)}: a trial is one run, of one search and one variant; "
                "to try several, make it a parameter of the search space"
            )
    if smoke:
        settings = settings.smoke()

    def told(step: Any) -> None:
        report({"default": step.worth, "step": step.step, "cost": step.cost})

    folder = config.parent
    facts = run_job(
        settings,
        settings.plan.search[0],
        folder=folder,
        output=output,
        progress=Progress(Console(markup=False, emoji=False, highlight=False)),
        smoke=smoke,
        hooks=Hooks(on_step=told),
    )
    data = load_data(settings.data, folder=folder, seed=settings.seed)
    pruned = load_pruned(network_factory(settings.network, folder), output)
    with placed(settings.device, pruned):
        validation = accuracy(pruned, data.validation)
    macs, timed = facts["cost"]["macs"], facts["onnx"]["benchmark"]["comparisons"][0]
    return {
        "default": validation - cost_weight * macs["after"] / macs["before"],
        "validation_accuracy": validation,
        "accuracy": facts["accuracy"][-1]["accuracy"],
        "macs": macs["after"],
        "macs_share": macs["after"] / macs["before"],
        "parameters": facts["cost"]["parameters"]["after"],
        "latency_ms": timed["pruned"]["median_ms"],
        "latency_share": 1 / timed["ratio"] if timed.get("ratio") else None,
        "output": str(output),
        "parameters_given": parameters,
    }


def as_changes(parameters: dict[str, Any]) -> list[str]:
    """Return the parameters of a trial as `--set` takes them.

    Example:
        >>> as_changes({"score.criterion": {"_name": "di", "score.options.rho": 1e-5}, "plan.budget.macs%": 40.0})
        ['score.criterion=di', 'score.options.rho=1.0e-05', 'plan.budget.macs=40%']
    """
    import yaml

    from secateur_nni.experiments.results import flattened

    changes = []
    for key, value in flattened(parameters).items():
        share = key.endswith("%")
        told = f"{value:g}%" if share else yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
        changes.append(f"{key.removesuffix('%')}={told}")
    return changes


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m secateur_cli.tuning_trial")
    parser.add_argument("config", type=Path, help="YAML file of a run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting")
    parser.add_argument("--smoke", action="store_true", help="few images and epochs")
    parser.add_argument("--timeout", type=float, help="seconds after which a trial that hangs ends itself")
    parser.add_argument("--cost-weight", type=float, default=0.0, help="weight of the share of the MACs that is left")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
