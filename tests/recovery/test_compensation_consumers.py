"""Consumers of every kind: those that cannot be solved for are named and left, and what stands behind them is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compensation_for_tests import changed, error, plan_without, pruned_by, randomise, state
from secateur import apply_plan
from secateur.errors import NetworkError
from secateur.recovery import compensate
from secateur.regression import LEFT_OUT

GONE = [1, 4, 6]


class Net(nn.Module):
    """Modules by name, and a function of them and the images; `stem` makes the channels."""

    def __init__(self, run: Callable[[Net, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        for name, module in modules.items():
            self.add_module(name, module)
        randomise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, torch.relu(self.stem(x)))


def images(count: int = 32) -> Tensor:
    return torch.randn(count, 3, 6, 6)


def run(model: nn.Module) -> tuple[nn.Module, nn.Module, dict[str, str], list[str]]:
    """Return the compensated network, the one before, what was left, and what was solved for."""
    plan = plan_without(model, images(1), {"stem": GONE})
    pruned, before = pruned_by(model, plan)
    report = compensate(model, pruned, plan, [images()])
    assert all(fit.after <= fit.before for fit in report.layers)
    return pruned, before, dict(report.left), [fit.layer for fit in report.layers]


def test_a_transposed_convolution_is_left_and_the_layer_behind_it_mends_what_it_can() -> None:
    model = Net(lambda m, x: m.b(torch.relu(m.a(x))), a=nn.ConvTranspose2d(8, 6, 3), b=nn.Conv2d(6, 4, 3))
    pruned, before, left, solved = run(model)
    assert list(left) == ["a"]
    assert "transposed" in left["a"]
    assert solved == ["b"]
    assert changed(pruned, state(before)) == {"b.weight", "b.bias"}
    held_out = images(100)
    assert error(model, pruned, held_out) < error(model, before, held_out)


def test_channels_that_a_transposed_convolution_makes() -> None:
    model = Net(lambda m, x: m.b(torch.relu(m.a(x))), a=nn.ConvTranspose2d(8, 6, 3), b=nn.Conv2d(6, 4, 3))
    plan = plan_without(model, images(1), {"a": [0, 2]})
    pruned, before = pruned_by(model, plan)
    report = compensate(model, pruned, plan, [images()])
    assert [fit.layer for fit in report.layers] == ["b"]
    assert error(model, pruned, images(100)) < error(model, before, images(100))


def test_attention_is_left() -> None:
    def attend(m: Net, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        return m.head(x + m.attention(x, x, x, need_weights=False)[0]).mean(1)

    model = Net(attend, attention=nn.MultiheadAttention(8, 2, batch_first=True), head=nn.Linear(8, 4))
    plan = plan_without(model, images(1), {"stem": [1, 5]})
    pruned, before = pruned_by(model, plan)
    report = compensate(model, pruned, plan, [images()])
    assert [fit.layer for fit in report.layers] == ["head"]
    assert report.left == {"attention": "a MultiheadAttention is neither a convolution nor a linear layer"}
    assert changed(pruned, state(before)) == {"head.weight", "head.bias"}


def test_a_layer_whose_forward_is_its_own_is_left() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = Net(lambda m, x: m.b(torch.relu(m.a(x))), a=Scaled(8, 6, 3), b=nn.Conv2d(6, 4, 3))
    _, _, left, solved = run(model)
    assert solved == ["b"]
    assert "forward of its own" in left["a"]


def test_a_layer_that_is_called_as_a_function_is_left() -> None:
    model = Net(
        lambda m, x: m.b(torch.relu(nn.functional.conv2d(x, m.a.weight, m.a.bias))),
        a=nn.Conv2d(8, 6, 3),
        b=nn.Conv2d(6, 4, 3),
    )
    plan_model = Net(lambda m, x: m.b(torch.relu(m.a(x))), a=nn.Conv2d(8, 6, 3), b=nn.Conv2d(6, 4, 3))
    plan = plan_without(plan_model, images(1), {"stem": GONE})
    pruned = apply_plan(model, plan).eval()
    before = state(pruned)
    report = compensate(model, pruned, plan, [images()])
    assert report.left == {"a": LEFT_OUT}
    assert not {name for name in changed(pruned, before) if name.startswith("a")}


@pytest.mark.parametrize("hook", [lambda _module, _inputs, output: output * 5, lambda *given: given[2].mul_(5)])
def test_a_layer_whose_output_a_hook_changes_is_left(hook: Callable[..., Tensor]) -> None:
    model = Net(lambda m, x: m.b(torch.relu(m.a(x))), a=nn.Conv2d(8, 6, 3), b=nn.Conv2d(6, 4, 3))
    model.b.register_forward_hook(hook)
    model.a.register_forward_hook(lambda *_: None)
    plan = plan_without(model, images(1), {"stem": GONE, "a": GONE})
    pruned = apply_plan(model, plan).eval()
    before, held_out = state(pruned), images(50)
    unrepaired = error(model, pruned, held_out)
    report = compensate(model, pruned, plan, [images(50)])
    assert [fit.layer for fit in report.layers] == ["a"]
    assert "a forward hook changes what it gives" in report.left["b"]
    assert not {name for name in changed(pruned, before) if name.startswith("b")}
    assert error(model, pruned, held_out) < unrepaired


def test_shared_weights_are_left() -> None:
    model = Net(
        lambda m, x: m.head(torch.relu(m.a(x)) + torch.relu(m.b(torch.tanh(x)))),
        a=nn.Conv2d(8, 6, 3),
        b=nn.Conv2d(8, 6, 3),
        head=nn.Conv2d(6, 4, 1),
    )
    plan = plan_without(model, images(1), {"stem": GONE})
    pruned = apply_plan(model, plan).eval()
    tied = apply_plan(model, plan).eval()
    tied.b.weight = tied.a.weight
    model.b.weight = model.a.weight
    before = state(tied)
    report = compensate(model, tied, plan, [images()])
    assert report.left == dict.fromkeys("ab", "a and b share their weights")
    assert changed(tied, before) == {"head.weight", "head.bias"}
    report = compensate(model, pruned, plan, [images()])
    assert not report.left


def test_a_layer_with_two_names_is_not_shared() -> None:
    model = Net(lambda m, x: m.a(x), a=nn.Conv2d(8, 6, 3))
    model.again = model.a
    _, _, left, solved = run(model)
    assert (left, solved) == ({}, ["a"])


def test_a_weight_that_something_else_reads_too_is_left() -> None:
    model = Net(lambda m, x: m.t(torch.relu(m.a(x))), a=nn.Conv2d(8, 8, 3), t=nn.ConvTranspose2d(8, 8, 3))
    plan = plan_without(model, images(1), {"stem": GONE})
    pruned = apply_plan(model, plan).eval()
    pruned.t.own = pruned.a.weight
    before = state(pruned)
    report = compensate(model, pruned, plan, [images()])
    assert report.left == {"a": "a and t share their weights"}
    assert not changed(pruned, before)


def test_a_layer_called_twice_is_solved_for_on_both_calls() -> None:
    model = Net(
        lambda m, x: torch.cat([m.a(x), m.a(torch.tanh(x) + 1)], 1).mean((2, 3)), a=nn.Conv2d(8, 6, 3, padding=1)
    )
    plan = plan_without(model, images(1), {"stem": GONE})
    pruned, before = pruned_by(model, plan)
    (fit,) = compensate(model, pruned, plan, [images()], rows=10**6).layers
    assert fit.rows == 2 * 32 * 36
    assert fit.after < fit.before
    assert error(model, pruned, images(100)) < error(model, before, images(100))


def test_a_layer_that_feeds_itself_does_not_get_worse() -> None:
    model = Net(
        lambda m, x: m.head(torch.relu(m.a(torch.relu(m.a(x))))),
        a=nn.Conv2d(8, 8, 3, padding=1),
        head=nn.Conv2d(8, 4, 1),
    )
    plan = plan_without(model, images(1), {"stem": GONE})
    pruned, before = pruned_by(model, plan)
    report = compensate(model, pruned, plan, [images()])
    assert all(fit.after <= fit.before for fit in report.layers)
    assert error(model, pruned, images(100)) < error(model, before, images(100))


def test_inputs_by_keyword() -> None:
    model = Net(lambda m, x: m.a(input=x), a=nn.Conv2d(8, 6, 3))
    _, _, left, solved = run(model)
    assert (left, solved) == ({}, ["a"])


def test_a_pre_activation_stem_keeps_its_error_from_growing() -> None:
    def blocks(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        y = y + m.c(torch.relu(m.o(m.b(torch.relu(m.n(y))))))
        return m.head(torch.relu(y))

    model = Net(
        blocks,
        a=nn.Conv2d(8, 6, 3, padding=1),
        n=nn.BatchNorm2d(6),
        b=nn.Conv2d(6, 6, 3, padding=1, bias=False),
        o=nn.BatchNorm2d(6),
        c=nn.Conv2d(6, 6, 3, padding=1),
        head=nn.Conv2d(6, 4, 1),
    )
    model.n.weight.data.mul_(10.0)
    pruned, before, _, solved = run(model)
    assert solved == ["a", "b", "c", "head"]
    held_out = images(100)
    assert error(model, pruned, held_out) < 0.7 * error(model, before, held_out)


@pytest.mark.parametrize("wrap_both", [True, False])
def test_data_parallel(wrap_both: bool) -> None:
    model = Net(lambda m, x: m.a(x), a=nn.Conv2d(8, 6, 3))
    plan = plan_without(model, images(1), {"stem": GONE})
    pruned, before = pruned_by(model, plan)
    batch = images()
    report = compensate(nn.DataParallel(model), nn.DataParallel(pruned) if wrap_both else pruned, plan, [batch])
    assert [fit.layer for fit in report.layers] == ["a"]
    assert error(model, pruned, batch) < error(model, before, batch)


def test_a_compiled_network_is_refused() -> None:
    model = Net(lambda m, x: m.a(x), a=nn.Conv2d(8, 6, 3))
    plan = plan_without(model, images(1), {"stem": GONE})
    pruned, _ = pruned_by(model, plan)
    with pytest.raises(NetworkError, match="compile"):
        compensate(torch.compile(model), torch.compile(pruned), plan, [images()])
