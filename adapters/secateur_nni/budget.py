"""A budget search in NNI's shape: config list and evaluator in, NNI's masks and a plan out.

References:
    [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
        arXiv 2005.13796, 2020, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from secateur.batches import Batches, check_repeatable, first_inputs
from secateur.cost import cost_model
from secateur.criteria import known_criterion
from secateur.errors import ConfigError, PlanError
from secateur.feature_maps import Tap, collect_scores
from secateur.journal import Journal
from secateur.modes import device_of
from secateur.protocols import Criterion, Evaluate
from secateur.records import PruningPlan, Reduction, ScoreTable
from secateur.scoring import scores_by_name
from secateur.search import GreedyStep, greedy_plan
from secateur.search.spending import state_spendings
from secateur_nni.completion import completed, select_groups
from secateur_nni.evaluators import EvaluatorWorth, check_evaluator
from secateur_nni.feature_map_pruner import check_scored
from secateur_nni.host import Evaluator, Pruner
from secateur_nni.masks import masks_of, warn_where_zeros_end
from secateur_nni.wrapping import forget_forward, unwrapped_for_a_while


class BudgetPruner(Pruner):  # type: ignore[misc]  # NNI has no types
    """Spends a budget of MACs, parameters or bytes over the layers that a config list selects, by greedy search.

    NNI 3.0 knows ratios of layers and no budgets. Here the config list says where channels may go, and bounds it layer
    by layer; `secateur.greedy_plan`, Algorithm 1 of [Hou2020], says how many and which, and NNI's evaluator values its
    candidates. `compress()` returns the wrapped network and NNI's masks, which mean what removal means (see
    `FeatureMapPruner`); `plan` then is the decision, for `secateur.apply_plan`, `compensate` or `save_pruned`.

    Args:
        model: the network; NNI wraps it in place until `unwrap_model`.
        config_list: NNI's, see `FeatureMapPruner`, without sparse_ratio. min_sparse_ratio is the floor, a share of the
            layer's channels that goes before the search begins, max_sparse_ratio the cap. Layers that are not selected
            keep all of their channels; they count in the budget.
        evaluator: NNI's, with an evaluating_func; its number, larger is better, values a candidate.
        batches: yields inputs (N, ...) or (inputs, labels), more than once, to score channels by.
        budget: "50%" of the dense cost or the largest cost, such as "60.5M"; for several costs a mapping from their
            names to that.
        criterion: the name of any criterion, see `secateur.scoring.scores_by_name`, or one over feature maps with its
            options.
        cost: what the budget counts, a name or several, see `secateur.cost_model`.
        tap, samples: see `secateur.collect_scores`.
        reduction, delta, round_to, min_keep, on_step: see `secateur.greedy_plan`.
        journal: remembers evaluations and decisions, so that a search which was killed goes on, see
            `secateur.journal.Journal`.

    Raises:
        ConfigError: as `FeatureMapPruner`; an evaluator that is missing or cannot evaluate; a sparse_ratio.
        DataError, NetworkError: as `FeatureMapPruner`.
        BudgetError: a budget is malformed, already met, or (by `compress`) out of reach.
        ScoreError, EvaluationError, JournalError: (by `compress`) those of `secateur.greedy_plan`; no mask is changed.

    Warns:
        SecateurWarning: as `FeatureMapPruner`. Candidates are valued as if removed in either case.

    Cost: one pass over `samples` images, then one evaluation for each group at each step of the search.

    Example:
        >>> import nni, torch
        >>> from secateur_nni import torch_evaluator
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> optimizer = nni.trace(torch.optim.SGD)(net.parameters(), lr=0.1)
        >>> evaluator = torch_evaluator(
        ...     lambda *_: None,
        ...     optimizer,
        ...     lambda batch, model: None,
        ...     evaluating_func=lambda model: -float(model(torch.ones(1, 1, 8, 8)).detach().square().sum()),
        ... )
        >>> config_list = [{"op_names": ["0"], "max_sparse_ratio": 0.25}, {"op_names": ["2"]}]
        >>> images = [torch.rand(8, 1, 8, 8)]
        >>> pruner = BudgetPruner(net, config_list, evaluator, batches=images, criterion="variance", round_to=1)
        >>> _, masks = pruner.compress()
        >>> pruner.unwrap_model()
        >>> pruner.plan.widths["0"] >= 6, pruner.plan.cost_after <= 0.5 * pruner.plan.cost_before
        (True, True)
    """

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        evaluator: Evaluator | None = None,
        *,
        batches: Batches,
        budget: str | float | Mapping[str, str | float] = "50%",
        criterion: str | Criterion[Any] = "hrank",
        cost: str | Sequence[str] = "macs",
        tap: Tap = "act",
        samples: int | None = None,
        reduction: Reduction = "sum",
        delta: float = 0.005,
        round_to: int = 8,
        min_keep: int = 1,
        journal: Journal | None = None,
        on_step: Callable[[GreedyStep], None] | None = None,
    ) -> None:
        check_evaluator(evaluator, model, evaluates=True)
        if isinstance(criterion, str):
            known_criterion(criterion)
        check_repeatable(batches)
        example = first_inputs(batches)[:2].to(device_of(model))
        self.selection = select_groups(model, config_list, example, with_ratio=False)
        groups = self.selection.groups
        names = [cost] if isinstance(cost, str) else cost
        self._costs = [cost_model(name, model, example, groups) for name in names]
        state_spendings(self._costs, budget, {name: group.width for name, group in groups.items()})
        warn_where_zeros_end(model, groups, example)
        self.batches, self.budget, self.criterion, self.tap, self.samples = batches, budget, criterion, tap, samples
        self._search: dict[str, Any] = {
            "reduction": reduction,
            "delta": delta,
            "round_to": round_to,
            "min_keep": min_keep,
        }
        self._journal, self._on_step = journal, on_step
        self._plan: PruningPlan | None = None
        super().__init__(model, completed(model, self.selection), evaluator)

    @classmethod
    def from_compressor(cls, *_given: Any, **_settings: Any) -> Self:
        """Raise ConfigError: a search values the network alone, and cannot train along with other compressors."""
        raise ConfigError(
            "BudgetPruner cannot go on from another compressor; call its unwrap_model(), and give the network to "
            "BudgetPruner itself"
        )

    @property
    def plan(self) -> PruningPlan:
        """The decision of the last `compress`. Raises PlanError before."""
        if self._plan is None:
            raise PlanError("there is no plan yet; compress() makes it")
        return self._plan

    def compress(
        self, max_steps: int | None = None, max_epochs: int | None = None
    ) -> tuple[nn.Module, dict[str, dict[str, Tensor]]]:
        """Search, and return the wrapped network and its masks.

        Args:
            max_steps, max_epochs: None: nothing is trained.

        Raises:
            ConfigError: steps or epochs are given.
        """
        if max_steps is not None or max_epochs is not None:
            raise ConfigError("BudgetPruner trains nothing: call compress() without steps or epochs")
        wrapped, masks = super().compress(None, None)
        return wrapped, masks

    def unwrap_model(self) -> None:
        """Give the network back as it was, with dense weights: the masks are not written into them."""
        super().unwrap_model()
        forget_forward(self._module_wrappers)

    def generate_masks(self) -> dict[str, dict[str, Tensor]]:
        """Search, keep the plan, and return its masks, one number an output channel."""
        groups = self.selection.groups
        with unwrapped_for_a_while(self) as model:
            scores = self._scores(model)
            worth: Evaluate = EvaluatorWorth(self.evaluator, model, groups)
        check_scored(groups, scores)
        if self._journal is not None:
            worth = self._journal.remembering(worth)
        self._plan = greedy_plan(
            groups,
            scores,
            self._costs,
            self.budget,
            worth,
            limits=self.selection.limits,
            on_step=self._decided,
            **self._search,
        )
        return masks_of(groups, self._plan.kept, self._target_spaces)

    def _single_compress(self, _max_steps: None, _max_epochs: None) -> None:
        self.update_masks(self.generate_masks())

    def _scores(self, model: nn.Module) -> ScoreTable:
        if isinstance(self.criterion, str):
            return scores_by_name(
                model, self.batches, self.criterion, tap=self.tap, samples=self.samples, groups=self.selection.groups
            )
        return collect_scores(model, self.batches, self.criterion, tap=self.tap, samples=self.samples)

    def _decided(self, step: GreedyStep) -> None:
        if self._journal is not None:
            self._journal.decided(step)
        if self._on_step is not None:
            self._on_step(step)
