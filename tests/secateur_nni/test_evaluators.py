"""NNI's evaluators: what they are made of, and what they say of candidates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import nni
import pytest
import torch
from nni.compression import LightningEvaluator, TorchEvaluator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from secateur import MaskedAccuracy, accuracy, apply_plan, channel_groups
from secateur.errors import ConfigError, EvaluationError, NetworkError
from secateur.records import PruningPlan
from secateur_nni import BudgetPruner, EvaluatorWorth, HRankPruner, torch_evaluator

Batches = list[tuple[Tensor, Tensor]]
KEPT = {"stem": (0, 2, 5), "first": (1, 2, 3)}


def test_an_untraced_optimizer_is_refused_in_words(network: nn.Module) -> None:
    untraced = torch.optim.Adam(network.parameters())
    with pytest.raises(ConfigError, match=r"the Adam was made without nni\.trace.*nni\.trace\(torch\.optim\.Adam\)"):
        torch_evaluator(print, untraced, print)
    traced = nni.trace(torch.optim.SGD)(network.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"the StepLR was made without nni\.trace"):
        torch_evaluator(print, traced, print, lr_schedulers=torch.optim.lr_scheduler.StepLR(traced, 1))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"training_func": None}, "training_func must be a function; found None"),
        ({"training_step": 3}, "training_step must be a function; found 3"),
        ({"optimizers": "SGD"}, "optimizers must be torch optimizers; found 'SGD'"),
        ({"evaluating_func": 0.9}, r"evaluating_func must be a function of the network; found 0\.9"),
    ],
)
def test_bad_parts(network: nn.Module, given: dict[str, Any], told: str) -> None:
    optimizer = nni.trace(torch.optim.SGD)(network.parameters(), lr=0.1)
    parts: dict[str, Any] = {"training_func": print, "training_step": print, "optimizers": optimizer} | given
    with pytest.raises(ConfigError, match=told):
        torch_evaluator(**parts)


def test_the_parts_arrive(network: nn.Module) -> None:
    optimizer = nni.trace(torch.optim.SGD)(network.parameters(), lr=0.25)
    scheduler = nni.trace(torch.optim.lr_scheduler.StepLR)(optimizer, 1)
    evaluator = torch_evaluator(print, optimizer, max, lr_schedulers=[scheduler], dummy_input=1, evaluating_func=min)
    assert isinstance(evaluator, TorchEvaluator)
    assert (evaluator.training_func, evaluator._training_step, evaluator.evaluating_func) == (print, max, min)
    assert evaluator.get_dummy_input() == 1
    assert evaluator._tmp_lr_schedulers == [scheduler]


def test_the_worth_is_that_of_the_pruned_network(
    network: nn.Module, images: Tensor, batches: Batches, make_evaluator: Callable[..., Any]
) -> None:
    groups = channel_groups(network, images)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluator = make_evaluator(network, evaluating_func=lambda model: {"default": accuracy(model, batches), "loss": 9})
    worth = EvaluatorWorth(evaluator, network, groups)
    assert worth(KEPT) == MaskedAccuracy(network, groups, batches)(KEPT)
    plan = PruningPlan(tuple(groups.values()), KEPT, "none", 0, 0, 0)
    by_outputs = make_evaluator(network, evaluating_func=lambda model: float(model(images).detach().square().sum()))
    found = EvaluatorWorth(by_outputs, network, groups)(KEPT)
    assert found == pytest.approx(float(apply_plan(network, plan)(images).detach().square().sum()), rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert evaluator.model is None, "the evaluator stays bound"


@pytest.mark.parametrize("given", [None, "good", {"loss": 0.1}])
def test_what_is_no_number_is_refused(
    network: nn.Module, images: Tensor, make_evaluator: Callable[..., Any], given: Any
) -> None:
    worth = EvaluatorWorth(
        make_evaluator(network, evaluating_func=lambda model: given), network, channel_groups(network, images)
    )
    with pytest.raises(EvaluationError, match=r"the TorchEvaluator gave .*; it must give a number"):
        worth({})


def test_an_optimizer_of_another_network_is_refused(
    network: nn.Module, batches: Batches, make_evaluator: Callable[..., Any]
) -> None:
    config_list = [{"op_names": ["first"], "sparse_ratio": 0.5}]
    with pytest.raises(ConfigError, match=r"10 of the 10 parameters of the evaluator's SGD are not this network's"):
        HRankPruner(network, config_list, make_evaluator(copy.deepcopy(network)), batches=batches)
    evaluator = make_evaluator(network)
    HRankPruner(network, config_list, batches=batches).unwrap_model()  # NNI gives the layer a new parameter
    with pytest.raises(ConfigError, match="3 of the 10 parameters"):
        HRankPruner(network, config_list, evaluator, batches=batches)
    assert "first.weight" in dict(network.named_parameters())
    HRankPruner(network, config_list, make_evaluator(network), batches=batches)


def test_an_evaluator_that_has_served_another_network_is_refused(
    network: nn.Module, images: Tensor, batches: Batches, make_evaluator: Callable[..., Any]
) -> None:
    """NNI has read its optimizer by then, and keeps the names of the parameters alone."""
    evaluator = make_evaluator(network)
    pruned = apply_plan(network, PruningPlan(tuple(channel_groups(network, images).values()), KEPT, "none", 0, 0, 0))
    config_list = [{"op_names": ["first"], "sparse_ratio": 0.5}]
    pruner = HRankPruner(network, config_list, evaluator, batches=batches)
    with pytest.raises(NetworkError, match="the network is wrapped by NNI"):
        HRankPruner(network, config_list, evaluator, batches=batches)
    pruner.unwrap_model()
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    with pytest.raises(ConfigError, match=r"10 of the 10 parameters of the evaluator's SGD are not this network's"):
        HRankPruner(other, [{"op_names": ["0"], "sparse_ratio": 0.5}], evaluator, batches=batches)
    HRankPruner(pruned, config_list, evaluator, batches=batches)


def test_a_failing_evaluation_leaves_the_evaluator_free(
    network: nn.Module, images: Tensor, make_evaluator: Callable[..., Any]
) -> None:
    evaluator = make_evaluator(network, evaluating_func=lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        EvaluatorWorth(evaluator, network, channel_groups(network, images))({})
    assert evaluator.model is None


@pytest.fixture
def lightning(batches: Batches) -> tuple[nn.Module, Any]:
    """A Lightning module of some convolutions and its evaluator."""
    pl = pytest.importorskip("pytorch_lightning", reason="LightningEvaluator needs pytorch_lightning, which is absent")

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]  # known only where it is installed
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten()
            )
            self.head = nn.Linear(96, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.net(x))

        def training_step(self, batch: tuple[Tensor, Tensor], *_: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def test_step(self, batch: tuple[Tensor, Tensor], *_: int) -> None:
            self.log("default", -nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return nni.trace(torch.optim.SGD)(self.parameters(), lr=0.01)

    class Data(pl.LightningDataModule):  # type: ignore[misc, name-defined]  # as above
        def train_dataloader(self) -> Any:
            return DataLoader(batches, batch_size=None)

        test_dataloader = train_dataloader

    trainer = nni.trace(pl.Trainer)(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    return Module().eval(), LightningEvaluator(trainer, nni.trace(Data)())


@pytest.mark.filterwarnings("ignore")
def test_lightning(lightning: tuple[nn.Module, Any], batches: Batches) -> None:
    from nni.compression.pruning import AGPPruner

    from secateur_nni import FeatureMapPruner, apply_masks

    module, evaluator = lightning
    config_list = [{"op_types": ["Conv2d"], "max_sparse_ratio": 0.75}]
    budget = BudgetPruner(module, config_list, evaluator, batches=batches, criterion="variance", delta=0.1, round_to=1)
    _, masks = budget.compress()
    budget.unwrap_model()
    assert budget.plan.cost_after <= 0.5 * budget.plan.cost_before
    pruned = apply_masks(module, masks, batches[0][0])
    assert pruned.net[0].out_channels == budget.plan.widths["net.0"]
    config_list = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]
    pruner = FeatureMapPruner(module, config_list, evaluator, batches=batches, criterion="variance")
    scheduled = AGPPruner(pruner, interval_steps=1, total_times=3)
    with pytest.raises(AttributeError, match="max_steps"):  # evaluator.py, line 633: of pytorch_lightning 1 alone
        scheduled.compress(max_steps=4, max_epochs=None)
    _, masks = scheduled.compress(max_steps=None, max_epochs=2)
    scheduled.unwrap_model()
    assert [int(masks[name]["bias"].sum()) for name in ("net.0", "net.1", "net.3")] == [4, 4, 3]
