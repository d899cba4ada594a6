"""Run an experiment of NNI from Python: by default the greedy search over the digits whose candidates are trials.

    python examples/nni/02_experiment.py [CONFIG.yml] [--output FOLDER] [--smoke]

The same as `secateur nni run CONFIG.yml`: prints the address of NNI's web page, each trial with the parameters that it
really had, and the plan, which is that of the same search within one process. --smoke stops after the first trial that
has found something.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur import load_plan
from secateur_nni.experiments.following import follow, read
from secateur_nni.experiments.manager import running
from secateur_nni.experiments.results import Trial
from secateur_nni.experiments.setting import greedy_arguments, load_experiment

HERE = Path(__file__).resolve().parent


class Enough(Exception):  # noqa: N818  # it is no error
    """A smoke run has seen what it wanted to see."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, default=HERE / "greedy.yml")
    parser.add_argument("--output", type=Path, default=Path("runs/nni-experiment"))
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()

    def changed(trials: Sequence[Trial], _search: Any) -> None:
        found = [trial for trial in trials if trial.metrics]
        if given.smoke and found:
            raise Enough

    config = load_experiment(given.config)
    arguments = greedy_arguments(config)
    trials: list[Trial] = []
    with running(config, folder=given.output) as experiment:
        print(f"NNI's web page: {experiment.url}", flush=True)
        try:
            trials = follow(experiment, on_change=changed)
        except Enough:
            trials = read(experiment.experiment)
    for trial in trials:
        print(f"trial {trial.number}: {trial.status.lower()}, {trial.metrics}")
    if arguments is None or given.smoke:
        return
    plan = load_plan(given.config.resolve().parent / arguments["output"])
    print(f"plan {plan.fingerprint}: {plan.cost_after / plan.cost_before:.1%} of the {plan.cost}")


if __name__ == "__main__":
    main()
