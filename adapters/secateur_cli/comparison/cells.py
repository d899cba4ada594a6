"""The cells of a comparison, and the names under which the journal keeps what was found of them.

What two cells share is kept once: the scores of a criterion that reads no images serve all seeds, and accuracy and time
are kept under the channels or widths that they are of, so that criteria which choose the same are measured once. A
network that was trained while its channels were learnt shares its accuracies with no other.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secateur.protocols import Kept
from secateur_cli.comparison.contenders import varies
from secateur_cli.comparison.schema import CompareConfig, CompareRun, CompareSearch, ContenderConfig, Stage
from secateur_cli.costs import label
from secateur_cli.settings.plan_schema import BudgetConfig

DENSE = "accuracy dense"
UNDRAWN: tuple[CompareSearch, ...] = ("uniform", "cross_layer")
"""The searches whose plans depend on a seed only where the scores do."""


@dataclass(frozen=True)
class Cell:
    """One criterion, search, budget and seed.

    `freezes` says whether fine-tuning leaves the filters of its highest scores as they are.
    """

    contender: ContenderConfig
    search: CompareSearch
    budget: BudgetConfig
    seed: int
    freezes: bool = False

    @property
    def budget_name(self) -> str:
        """The budget in words."""
        return " and ".join(
            f"{value} of the {label(cost)}" if isinstance(value, str) and "%" in value else f"{value} {label(cost)}"
            for cost, value in self.budget.given.items()
        )

    @property
    def name(self) -> str:
        """What it is called while it is worked at."""
        return f"seed {self.seed}, {self.contender.full_label}, {self.search}, {self.budget_name}"

    @property
    def scores(self) -> str:
        """Name of the scores."""
        seed = f"seed {self.seed}" if varies(self.contender.name) else "every seed"
        return f"scores {_of(self.contender)} {seed}"

    @property
    def curves(self) -> str:
        """Name of the error curves, which read images whatever the criterion."""
        return f"curves {_of(self.contender)} seed {self.seed}"

    @property
    def plan(self) -> str:
        """Name of the plan."""
        shared = self.search in UNDRAWN and not varies(self.contender.name)
        return f"plan {self._asked} {'every seed' if shared else f'seed {self.seed}'}"

    @property
    def refusal(self) -> str:
        """Name of the reason why it is not measured: what follows a plan that all seeds share may fail for one."""
        return f"refused {self._asked} seed {self.seed}"

    @property
    def weights(self) -> str:
        """Name of the network that was trained, where its channels were learnt along."""
        return f"learnt {digest({'plan': self.plan})}"

    def network(self, kept: Kept) -> str:
        """Name of the cut network: its channels tell it, unless it was trained for them by a contender and a seed."""
        return f"{digest(kept)} seed {self.seed}{self._own}" if self.contender.learns else digest(kept)

    def accuracy(self, stage: Stage, kept: Kept) -> str:
        """Name of an accuracy: of the cut network it is that of the channels, all else reads the seed's images."""
        if self.contender.learns:
            return f"accuracy {stage} {self.network(kept)}"
        seed = "" if stage == "cut" else f" seed {self.seed}"
        own = self._own if self.freezes and stage == "fine-tuned" else ""
        return f"accuracy {stage} {digest(kept)}{seed}{own}"

    @property
    def _asked(self) -> str:
        return f"{_of(self.contender)} {self.search} {json.dumps(self.budget.model_dump(mode='json'), sort_keys=True)}"

    @property
    def _own(self) -> str:
        return f" by {digest(self.contender.model_dump(mode='json'))}"

    def needed(self, compare: CompareConfig, kept: Kept, widths: Mapping[str, int]) -> list[str]:
        """Return the names of all that is measured of a plan."""
        names = [self.accuracy(stage, kept) for stage in compare.stages]
        return [*names, latency_name(widths)] if compare.latency else names


def latency_name(widths: Mapping[str, int]) -> str:
    """Return the name of a time, which is that of widths whatever the channels."""
    return f"latency {digest(widths)}"


def digest(decided: Mapping[str, Any]) -> str:
    """Return a short hash of what was decided for each group.

    Example:
        >>> digest({"a": (0, 1), "b": (2,)}) == digest({"b": [2], "a": [0, 1]})
        True
    """
    text = json.dumps({name: list(v) if isinstance(v, tuple) else v for name, v in decided.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cells_of(config: CompareRun) -> list[Cell]:
    """Return all cells, seed by seed, so that a comparison that is stopped has whole seeds.

    What learns its channels does so at uniform widths, and has no cells of the other searches.
    """
    compare = config.compare
    order = itertools.product(compare.seeds, compare.budgets, compare.searches, compare.criteria)
    freezes = config.fine_tune is not None and config.fine_tune.freeze > 0
    return [
        Cell(contender, search, budget, seed, freezes)
        for seed, budget, search, contender in order
        if search == "uniform" or not contender.learns
    ]


def _of(contender: ContenderConfig) -> str:
    return json.dumps(contender.model_dump(mode="json"), sort_keys=True)
