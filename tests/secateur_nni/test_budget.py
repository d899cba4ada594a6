"""The budget search in NNI's shape: bounds of the config list, the evaluator's verdict, masks and the plan."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import MacsCost, apply_plan, channel_groups, greedy_plan, weight_scores
from secateur.criteria import MeanActivation
from secateur.errors import BudgetError, ConfigError, EvaluationError, NetworkError, PlanError
from secateur.journal import Journal
from secateur_nni import BudgetPruner, EvaluatorWorth, apply_masks, plan_of_masks

ANYWHERE = [{"op_types": ["Conv2d"]}]
Batches = list[tuple[Tensor, Tensor]]
Make = Callable[..., Any]


def test_the_plan_is_that_of_the_greedy_search(
    network: nn.Module, images: Tensor, batches: Batches, make_evaluator: Make
) -> None:
    groups = channel_groups(network, images)
    evaluator, steps = make_evaluator(network), []
    expected = greedy_plan(
        groups,
        weight_scores(network, "l1"),
        MacsCost(network, images, groups),
        "50%",
        EvaluatorWorth(evaluator, network, groups),
        delta=0.05,
        round_to=1,
    )
    pruner = BudgetPruner(
        network, ANYWHERE, evaluator, batches=batches, round_to=1, criterion="l1", delta=0.05, on_step=steps.append
    )
    with pytest.raises(PlanError, match="no plan yet"):
        _ = pruner.plan
    wrapped, masks = pruner.compress()
    with torch.no_grad():
        masked = wrapped(images)
    pruner.unwrap_model()
    assert wrapped is network
    assert pruner.plan.kept == expected.kept
    assert pruner.plan.cost_after == expected.cost_after <= 0.5 * expected.cost_before
    assert len(steps) == pruner.plan.settings["steps"] > 1
    assert pruner.plan.settings["evaluation"] == {"evaluator": "TorchEvaluator"}
    assert plan_of_masks(network, masks, images).widths == pruner.plan.widths
    with torch.no_grad():
        for pruned in (apply_plan(network, pruner.plan), apply_masks(network, masks, images)):
            assert torch.allclose(pruned(images), masked, atol=1e-5)


def test_floors_caps_and_excludes_hold(network: nn.Module, batches: Batches, make_evaluator: Make) -> None:
    config_list = [
        {"op_names": ["stem", "second"], "max_sparse_ratio": 0.25},
        {"op_names": ["first"], "min_sparse_ratio": 0.5},
    ]
    pruner = BudgetPruner(
        network, config_list, make_evaluator(network), batches=batches, round_to=1, budget="45%", criterion="l1"
    )
    pruner.compress()
    pruner.unwrap_model()
    widths = pruner.plan.widths
    assert widths["stem"] >= 6
    assert widths["first"] <= 3
    alone = [{"op_types": ["Conv2d"], "exclude_op_names": ["first"]}]
    pruner = BudgetPruner(
        network, alone, make_evaluator(network), batches=batches, round_to=1, criterion="l1", delta=0.1
    )
    _, masks = pruner.compress()
    pruner.unwrap_model()
    assert "first" not in masks
    assert list(pruner.plan.widths) == ["stem"]
    capped = [{"op_types": ["Conv2d"], "max_sparse_ratio": 0.1}]
    pruner = BudgetPruner(network, capped, make_evaluator(network), batches=batches, round_to=1, criterion="l1")
    with pytest.raises(BudgetError, match="lowest cost that can be reached"):
        pruner.compress()
    assert all(bool(mask.all()) for masks in pruner.get_masks().values() for mask in masks.values() if mask is not None)


def test_several_budgets_and_a_criterion_with_options(
    network: nn.Module, batches: Batches, make_evaluator: Make
) -> None:
    pruner = BudgetPruner(
        network,
        ANYWHERE,
        make_evaluator(network),
        batches=batches,
        budget={"parameters": "60%", "macs": "70%"},
        cost=["parameters", "macs"],
        criterion=MeanActivation(),
        delta=0.1,
        round_to=2,
    )
    pruner.compress()
    assert all(spent.after <= spent.budget for spent in pruner.plan.spent.values())
    assert all(width % 2 == 0 for width in pruner.plan.widths.values())


def test_weights_at_the_time_of_the_search_count(network: nn.Module, batches: Batches, make_evaluator: Make) -> None:
    pruner = BudgetPruner(
        network, ANYWHERE, make_evaluator(network), batches=batches, round_to=1, criterion="l1", delta=0.2
    )
    with torch.no_grad():
        network.first._nni_wrapper.weight[:2] *= 100
    _, masks = pruner.compress()
    assert masks["first"]["weight"][:2].all()


def test_a_journal_spares_evaluations(
    network: nn.Module, batches: Batches, make_evaluator: Make, tmp_path: Path
) -> None:
    seen: list[int] = []

    def worth(model: nn.Module) -> float:
        seen.append(1)
        return float(model.head.weight.count_nonzero())

    plans = []
    for _ in range(2):
        with Journal.open(tmp_path / "journal.sqlite", {"test": "nni"}) as journal:
            evaluator = make_evaluator(network, evaluating_func=worth)
            pruner = BudgetPruner(
                network, ANYWHERE, evaluator, batches=batches, round_to=1, criterion="l1", delta=0.1, journal=journal
            )
            pruner.compress()
            pruner.unwrap_model()
        plans.append(pruner.plan.fingerprint)
        seen.append(0)
    assert plans[0] == plans[1]
    assert seen.index(0) > 3
    assert seen[seen.index(0) :] == [0, 0], "the second search evaluated again"


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"evaluator": None}, ConfigError, "values the candidates of the search; none was given"),
        ({"evaluator": lambda model: 0.0}, ConfigError, "found function"),
        ({"evaluating_func": None}, ConfigError, "the evaluator has no evaluating_func"),
        ({"budget": "half"}, BudgetError, "'half' is malformed"),
        ({"budget": "100%"}, BudgetError, "already met"),
        ({"cost": "flops"}, ConfigError, "unknown cost 'flops'"),
        ({"criterion": "hrnk"}, ConfigError, "unknown criterion 'hrnk'"),
        ({"config_list": [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]}, ConfigError, "the budget decides"),
        ({"config_list": [{"op_types": ["Conv1d"]}]}, ConfigError, "selects no layer"),
    ],
)
def test_bad_input(
    network: nn.Module,
    batches: Batches,
    make_evaluator: Make,
    given: dict[str, Any],
    error: type[Exception],
    told: str,
) -> None:
    parts: dict[str, Any] = {"config_list": ANYWHERE, "evaluator": make_evaluator(network), "batches": batches}
    if "evaluating_func" in given:
        given = {"evaluator": make_evaluator(network, **given)}
    with pytest.raises(error, match=told):
        BudgetPruner(network, **parts | given)
    assert "first.weight" in dict(network.named_parameters())


def test_a_budget_trains_nothing(network: nn.Module, batches: Batches, make_evaluator: Make) -> None:
    pruner = BudgetPruner(network, ANYWHERE, make_evaluator(network), batches=batches, round_to=1)
    with pytest.raises(ConfigError, match="trains nothing: call compress"):
        pruner.compress(max_steps=3)
    with pytest.raises(ConfigError, match="cannot go on from another compressor"):
        BudgetPruner.from_compressor(pruner, ANYWHERE, batches=batches, round_to=1)
    assert pruner._is_wrapped


def test_a_failed_search_changes_no_mask(network: nn.Module, batches: Batches, make_evaluator: Make) -> None:
    failing = make_evaluator(network, evaluating_func=lambda model: float("nan"))
    pruner = BudgetPruner(network, ANYWHERE, failing, batches=batches, round_to=1, criterion="l1")
    with pytest.raises(EvaluationError, match="gave nan"):
        pruner.compress()
    assert pruner._is_wrapped
    assert all(bool(mask.all()) for masks in pruner.get_masks().values() for mask in masks.values() if mask is not None)
    pruner.unwrap_model()
    linear = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    pruner = BudgetPruner(
        linear, [{"op_names": ["0"]}], make_evaluator(linear), batches=[torch.rand(4, 3)], criterion="bn_scale"
    )
    with pytest.raises(NetworkError, match="no layer that 'bn_scale' could score"):
        pruner.compress()
    assert pruner._is_wrapped


def test_the_settings_are_those_of_the_greedy_search() -> None:
    ours, theirs = (inspect.signature(thing).parameters for thing in (BudgetPruner, greedy_plan))
    for name in ("reduction", "delta", "round_to", "min_keep"):
        assert ours[name].default == theirs[name].default
