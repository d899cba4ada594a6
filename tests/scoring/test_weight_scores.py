"""Scores from weights and gradients over a network: against the criterion by hand, and the network left as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.nn.utils import parametrizations

from secateur.criteria import WEIGHT_CRITERIA, Taylor, weight_criterion
from secateur.errors import ConfigError, DataError, NetworkError, ScoreError
from secateur.fingerprints import structure_of
from secateur.networks import resnet20
from secateur.records import ScoreTable
from secateur.scoring import gradient_scores, weight_scores
from secateur.scoring.weights import as_rows


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(96, 5),
    )


IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 5


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(WEIGHT_CRITERIA) - {"bn_scale"}))
def test_scores_are_the_criterions_own_on_each_layers_weight(name: str) -> None:
    model, rule = network(), weight_criterion(name)
    table = weight_scores(model, name)
    assert list(table) == ["0", "3", "8"]
    for layer in table:
        assert torch.equal(table[layer], rule(model.get_submodule(layer).weight))
    assert table.settings["criterion"] == name
    assert table.settings["skipped"] == {}
    assert dict(ScoreTable.from_json(table.to_json()).settings) == dict(table.settings)


def test_options_are_recorded_and_layers_chosen() -> None:
    table = weight_scores(network(), weight_criterion("rnf", distance="cosine"), layers=["3"])
    assert list(table) == ["3"]
    assert table.settings["options"] == {"distance": "cosine"}
    with pytest.raises(NetworkError, match="no layer 'x'"):
        weight_scores(network(), "l1", layers=["x"])


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_are_read_by_output_channel(groups: int) -> None:
    """Doubling what makes output channel c doubles its norm, and no other."""
    module = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    model = nn.Sequential(module)
    before = weight_scores(model, "l1")["0"]
    for c in range(6):
        x = torch.zeros(6, 4 // groups, 9)
        x[c] = 1
        mask = torch.zeros_like(module.weight)
        own = c // (6 // groups)
        mask[own * 4 // groups : (own + 1) * 4 // groups, c % (6 // groups)] = 1
        torch.testing.assert_close(as_rows(module, mask).flatten(2), x)
        output = module(torch.ones(1, 4, 1, 1))[0].abs().sum((1, 2))
        with torch.no_grad():
            module.weight += module.weight * mask
        changed = module(torch.ones(1, 4, 1, 1))[0].abs().sum((1, 2)) / output
        assert [round(r, 4) for r in changed.tolist()] == [2.0 if i == c else 1.0 for i in range(6)]
        after = weight_scores(model, "l1")["0"]
        torch.testing.assert_close(after / before, torch.ones(6).double() + (torch.arange(6) == c).double())
        before = after


def test_the_batch_norm_behind_each_layer_is_found_by_what_it_reads() -> None:
    """Registered in another order than they run; one behind an activation in place is not the layer's."""

    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_b, self.norm_a = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.norm_sum, self.late = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.a(x), self.b(x)
            total = self.norm_sum(self.norm_b(b) + self.norm_a(a))
            return self.late(F.relu_(self.c(total)))

    model = Shuffled()
    for k, norm in enumerate((model.norm_a, model.norm_b, model.norm_sum, model.late), 1):
        nn.init.constant_(norm.weight, -k)
    table = weight_scores(model, "bn_scale", example_inputs=torch.randn(2, 4, 3, 3))
    assert {name: scores.tolist() for name, scores in table.items()} == {"a": [1.0] * 4, "b": [2.0] * 4}
    assert table.settings["skipped"] == {"c": "no batch norm follows"}
    with pytest.raises(NetworkError, match="layer 'c' cannot be scored: no batch norm follows"):
        weight_scores(model, "bn_scale", layers=["a", "c"], example_inputs=torch.randn(2, 4, 3, 3))


def test_batch_norms_that_cannot_serve_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False))
    with pytest.raises(ConfigError, match="give example_inputs"):
        weight_scores(model, "bn_scale")
    with pytest.raises(NetworkError, match="no layer that 'bn_scale' could score"):
        weight_scores(model, "bn_scale", example_inputs=IMAGES)
    with pytest.raises(NetworkError, match="'0' cannot be scored: the batch norm behind it has no scale"):
        weight_scores(model, "bn_scale", layers=["0"], example_inputs=IMAGES)


def test_every_convolution_of_a_residual_network_has_its_batch_norm() -> None:
    model = resnet20()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    table = weight_scores(model, "bn_scale", example_inputs=IMAGES)
    assert len(table) == 19
    for name in table:
        norm = model.get_submodule(name.replace("conv", "bn"))
        assert torch.equal(table[name], norm.weight.detach().abs().double())
    assert table.settings["skipped"] == {"linear": "no batch norm follows"}
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert model.training


def test_weights_that_are_not_finite_name_their_layer() -> None:
    model = network()
    nn.init.constant_(model[3].weight, float("nan"))
    with pytest.raises(ScoreError, match=r"layer '3': weights of the shape .* hold NaN"):
        weight_scores(model, "l2")


# --- gradients --------------------------------------------------------------------------------------------------------


def by_hand(model: nn.Module, rule: Taylor, size: int) -> dict[str, Tensor]:
    """Score by calling backward on a copy, batch by batch."""
    twin, scores = copy.deepcopy(model).eval(), {}
    for k in range(0, 12, size):
        twin.zero_grad()
        F.cross_entropy(twin(IMAGES[k : k + size]), LABELS[k : k + size]).backward()
        for name in ("0", "3", "8"):
            weight = twin.get_submodule(name).weight
            scores[name] = scores.get(name, 0) + rule(weight, weight.grad) / (12 // size)
    return scores


@pytest.mark.parametrize("mode", ["squared", "joint", "absolute"])
def test_scores_are_averaged_over_batches_of_the_criterions_size(mode: Any) -> None:
    model, rule = network(), Taylor(mode=mode, batch_size=4)
    table = gradient_scores(model, [(IMAGES[:7], LABELS[:7]), (IMAGES[7:], LABELS[7:])], rule)
    expected = by_hand(model, rule, size=4)
    assert list(table) == list(expected)
    for name in expected:
        torch.testing.assert_close(table[name], expected[name], rtol=1e-5, atol=1e-12)
    assert dict(table.settings) == {
        "criterion": "taylor",
        "options": {"mode": mode, "batch_size": 4, "samples": 1280},
        "samples": 12,
        "batch_size": 4,
        "loss": "cross_entropy",
        "structure": structure_of(model),
        "skipped": {},
    }


def test_the_network_is_left_as_it_was() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    F.cross_entropy(model(IMAGES), LABELS).backward()
    model[8].eval()
    held = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    with torch.no_grad():
        table = gradient_scores(model, [(IMAGES, LABELS)])
    assert bool((table["0"] > 0).all())  # frozen, and scored all the same
    assert [module.training for module in model.modules()] == flags
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["0.weight"]
    for name, parameter in model.named_parameters():
        grad = held[name]
        assert (parameter.grad is None) if grad is None else torch.equal(parameter.grad, grad)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_what_an_error_interrupts_is_restored_too() -> None:
    model = network()
    model[0].weight.requires_grad_(False)

    def fail(outputs: Tensor, labels: Tensor) -> Tensor:
        raise ValueError("no")

    with pytest.raises(DataError, match="the loss failed: ValueError: no"):
        gradient_scores(model, [(IMAGES, LABELS)], loss=fail)
    assert model.training
    assert not model[0].weight.requires_grad


def test_layers_on_which_the_loss_does_not_depend_are_listed_or_refused() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    batch = (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    table = gradient_scores(Spare(), [batch])
    assert list(table) == ["used"]
    assert table.settings["skipped"] == {"spare": "the loss does not depend on its weights"}
    with pytest.raises(NetworkError, match="does not depend on the weights of 'spare'"):
        gradient_scores(Spare(), [batch], layers=["used", "spare"])


def test_weights_that_are_computed_have_gradients_too() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2))
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        plain[0].weight.copy_(model[0].weight)
        plain[0].bias.copy_(model[0].bias)
    plain[2].load_state_dict(model[2].state_dict())
    batch = (torch.randn(6, 3), torch.arange(6) % 2)
    first, second = gradient_scores(model, [batch]), gradient_scores(plain, [batch])
    torch.testing.assert_close(first["0"], second["0"], rtol=1e-5, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm:FutureWarning")
def test_weights_of_the_last_call_are_not_taken_for_those_of_now() -> None:
    first, second = (nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3))) for _ in range(2))
    second.load_state_dict(first.state_dict())
    with pytest.raises(NetworkError, match="the weights of layer '0' are computed by a hook at each call"):
        weight_scores(second, "l1")
    nn.utils.remove_weight_norm(first[0])
    nn.utils.remove_weight_norm(second[0])
    torch.testing.assert_close(weight_scores(first, "l1")["0"], weight_scores(second, "l1")["0"])


@pytest.mark.parametrize(
    ("batches", "loss", "words"),
    [
        ([], F.cross_entropy, "the batches are empty"),
        ([IMAGES], F.cross_entropy, "the loss failed"),
        ([(IMAGES, LABELS + 9)], F.cross_entropy, "the loss failed: IndexError"),
        ([IMAGES], nn.functional.cross_entropy, "failed on batches without labels: TypeError"),
        ([(IMAGES, LABELS)], lambda outputs, labels: outputs, "one finite number a batch"),
        ([(IMAGES, LABELS)], lambda outputs, labels: outputs.sum() * float("nan"), "one finite number a batch"),
    ],
)
def test_batches_and_losses_that_cannot_be_used(batches: Any, loss: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        gradient_scores(network(), batches, loss=loss)
    for samples in (0, 2.5):
        with pytest.raises(ConfigError, match=f"samples is {samples}; it must be a whole number, at least 1"):
            gradient_scores(network(), batches, loss=loss, samples=samples)
