"""Where a layer's error is measured: behind its own batch norm and the sum, and nowhere that its output goes unseen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth

from secateur.errors import ConfigError
from secateur.feature_maps import tapped
from secateur.regression import Target, targets_of


class Net(nn.Module):
    """Modules by name, and a function of them and the images."""

    def __init__(self, run: Callable[[Net, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)
            if getattr(module, "running_mean", None) is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
            if getattr(module, "weight", None) is not None and not isinstance(module, nn.Conv2d):
                nn.init.uniform_(module.weight, -1.5, -0.5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def conv(bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1, bias=bias)


def norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(4)


def sums(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    with torch.inference_mode(), tapped(network, lambda name, maps: seen.update({name: maps.clone()}), tap="sum"):
        network(x)
    return seen


def check(network: nn.Module, *, layer: str = "a", at: str, own: str | None) -> Target:
    """The target of one layer, and that a change of its output moves the target by the gain and by nothing else."""
    x = torch.randn(2, 4, 5, 5)
    target = targets_of(network, x, [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)])[layer]
    assert target.at == at
    assert target.norm is (None if own is None else network.get_submodule(own))
    if at == "sum":
        before = sums(network, x)[layer].double()
        move = torch.randn(2, 4, 5, 5).double()
        hook = network.get_submodule(layer).register_forward_hook(lambda _m, _i, output: output + move.float())
        after = sums(network, x)[layer].double()
        hook.remove()
        gain = torch.ones(4).double() if target.gain is None else target.gain
        torch.testing.assert_close(after - before, move * gain[:, None, None], rtol=1e-4, atol=1e-5)
        wanted, found = (z.movedim(1, -1).flatten(0, -2) for z in (after, before))
        torch.testing.assert_close(
            target.error(found, wanted), move.movedim(1, -1).flatten(0, -2), rtol=1e-4, atol=1e-4
        )
    return target


def residual(net: Net, x: Tensor) -> Tensor:
    return torch.relu(x + net.n(net.a(x)))


CASES: dict[str, tuple[Net, str, str | None]] = {
    "post-norm sum": (Net(residual, a=conv(), n=norm()), "sum", "n"),
    "sum in place": (Net(lambda m, x: m.n(m.a(x)).add_(x).relu_(), a=conv(), n=norm()), "sum", "n"),
    "no sum": (Net(lambda m, x: m.n(m.a(x)).relu_(), a=conv(True), n=norm()), "sum", "n"),
    "no norm": (Net(lambda m, x: x + m.a(x), a=conv()), "sum", None),
    "alone": (Net(lambda m, x: m.a(x), a=conv()), "sum", None),
    "group norm": (Net(residual, a=conv(), n=nn.GroupNorm(2, 4)), "sum", None),
    "instance norm": (Net(residual, a=conv(), n=nn.InstanceNorm2d(4)), "layer", None),
    "frozen batch norm": (Net(residual, a=conv(), n=FrozenBatchNorm2d(4)), "sum", None),
    "difference": (Net(lambda m, x: x - m.n(m.a(x)), a=conv(), n=norm()), "sum", "n"),
    "weighted sum": (Net(lambda m, x: torch.add(x, m.n(m.a(x)), alpha=3), a=conv(), n=norm()), "sum", "n"),
    "sum with itself": (Net(lambda m, x: (y := m.a(x)) + y, a=conv()), "sum", None),
    "scaled": (Net(lambda m, x: x + 3 * m.n(m.a(x)), a=conv(), n=norm()), "sum", "n"),
    "dropped": (
        Net(
            lambda m, x: x + m.path(m.drop(m.n(m.a(x)))),
            a=conv(),
            n=norm(),
            drop=nn.Dropout(0.5),
            path=StochasticDepth(0.5, "row"),
        ),
        "sum",
        "n",
    ),
    "gated": (
        Net(
            lambda m, x: x + (y := m.n(m.a(x))) * torch.sigmoid(m.b(y.mean((2, 3), True))),
            a=conv(),
            b=nn.Conv2d(4, 4, 1),
            n=norm(),
        ),
        "sum",
        "n",
    ),
    "context of its own": (
        Net(lambda m, x: (y := m.n(m.a(x))) + m.b(y.mean((2, 3), True)), a=conv(), b=nn.Conv2d(4, 4, 1), n=norm()),
        "sum",
        "n",
    ),
    "pre-activation": (
        Net(lambda m, x: (y := m.a(x)) + m.b(torch.relu(m.n(y))), a=conv(), b=conv(), n=norm()),
        "layer",
        None,
    ),
    "norm of a sum in place": (Net(lambda m, x: m.n(m.a(x).add_(x)), a=conv(), n=norm()), "sum", None),
    "activation before the norm": (Net(lambda m, x: m.n(m.a(x).relu_()), a=conv(), n=norm()), "sum", None),
    "shared norm": (Net(lambda m, x: m.n(m.a(x)) + m.n(m.b(x)), a=conv(), b=conv(), n=norm()), "layer", None),
    "norm used elsewhere": (Net(lambda m, x: m.n(m.a(x)) + m.n(x), a=conv(), n=norm()), "layer", None),
    "two norms": (Net(lambda m, x: m.o(m.n(m.a(x))), a=conv(), n=norm(), o=norm()), "layer", "n"),
    "norm of a copy": (Net(lambda m, x: m.n(m.a(x).clone()), a=conv(), n=norm()), "layer", None),
    "norm as a function": (
        Net(
            lambda m, x: functional.batch_norm(m.a(x), m.n.running_mean, m.n.running_var, m.n.weight),
            a=conv(),
            n=norm(),
        ),
        "layer",
        None,
    ),
    "no statistics": (
        Net(residual, a=conv(), n=nn.BatchNorm2d(4, track_running_stats=False, affine=False)),
        "layer",
        None,
    ),
    "no gain": (Net(residual, a=conv(), n=nn.BatchNorm2d(4, affine=False)), "sum", "n"),
    "called twice": (Net(lambda m, x: m.n(m.a(m.a(x))), a=conv(), n=norm()), "layer", None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_target_moves_with_the_layer_as_its_gain_says(case: str) -> None:
    network, at, own = CASES[case]
    check(network, at=at, own=own)


def test_the_sum_is_the_tensor_that_is_added_up_by_hand() -> None:
    net = CASES["post-norm sum"][0]
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(sums(net, x)["a"], x + net.n(net.a(x)), rtol=0, atol=0)
    gated = CASES["gated"][0]
    assert torch.equal(sums(gated, x)["a"], gated.n(gated.a(x)))


def test_both_layers_of_a_sum_are_read_behind_it() -> None:
    net = Net(lambda m, x: torch.relu(m.n(m.a(x)) + m.o(m.b(x))), a=conv(), b=nn.Conv2d(4, 4, 1), n=norm(), o=norm())
    check(net, layer="a", at="sum", own="n")
    check(net, layer="b", at="sum", own="o")
    seen = sums(net, x := torch.randn(2, 4, 5, 5))
    assert torch.equal(seen["a"], seen["b"])
    assert torch.equal(seen["a"], net.n(net.a(x)) + net.o(net.b(x)))


def test_a_pre_activation_block_is_read_at_the_stream() -> None:
    net = Net(lambda m, x: m.o(x + m.b(torch.relu(m.n(m.a(x))))).relu(), a=conv(), b=conv(), n=norm(), o=norm())
    check(net, layer="a", at="sum", own="n")
    check(net, layer="b", at="sum", own=None)


def test_a_permuted_linear_layer_is_read_behind_the_sum_in_its_own_axes() -> None:
    net = nn.Linear(4, 4)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = net

        def forward(self, x: Tensor) -> Tensor:
            return x + self.a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    x = torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(sums(Block(), x)["a"], Block()(x).detach().permute(0, 2, 3, 1))
    assert targets_of(Block(), x, ["a"])["a"] == Target("sum", None)


def test_the_error_is_undone_by_the_gain_and_none_where_nothing_gets_through() -> None:
    bn = nn.BatchNorm2d(4).eval()
    bn.weight.data = torch.tensor([2.0, -0.5, 0.0, 1e-9])
    bn.running_var = torch.tensor([4.0, 0.25, 1.0, 1.0])
    bn.eps = 0.0
    z, wanted = torch.zeros(1, 4), torch.tensor([[1.0, 3.0, 5.0, 7.0]])
    assert Target("sum", bn).error(z, wanted).tolist() == [[1.0, -3.0, 0.0, 0.0]]
    assert Target("layer", bn).error(z, wanted).tolist() == [[1.0, 3.0, 5.0, 7.0]]
    bn.weight.data.zero_()
    assert not bool(Target("sum", bn).error(z, wanted).any())


def test_a_shift_goes_to_the_bias_or_to_what_the_batch_norm_takes_away() -> None:
    by = torch.randn(4).double()
    x = torch.randn(2, 4, 5, 5)
    for layer in (conv(bias=True), conv(bias=False)):
        bn = norm().eval()
        nn.init.uniform_(bn.running_var, 0.5, 1.5)
        target = Target("sum", bn)
        before = bn(layer(x))
        assert target.can_shift(layer)
        target.shift(layer, by)
        moved = (target.gain * by).float()[:, None, None]
        torch.testing.assert_close(bn(layer(x)), before + moved, rtol=1e-4, atol=1e-5)
        assert bool(bn.running_mean.any()) == (layer.bias is None)
    assert not Target("sum", None).can_shift(conv(bias=False))
    assert Target("sum", None).can_shift(conv(bias=True))


def test_layers_come_in_the_order_in_which_they_run_and_those_that_never_run_do_not() -> None:
    net = Net(lambda m, x: m.a(m.b(m.b(x))), a=conv(), b=conv(), c=conv())
    targets = targets_of(net, torch.zeros(1, 4, 4, 4), ["a", "b", "c"], at="layer")
    assert {name: (target.at, target.calls) for name, target in targets.items()} == {
        "b": ("layer", 2),
        "a": ("layer", 1),
    }
    assert list(targets) == ["b", "a"]


def test_looking_leaves_the_network_as_it_was() -> None:
    net = Net(residual, a=conv(), n=norm()).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    targets_of(net, torch.randn(2, 4, 4, 4), ["a"])
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    assert torch.is_grad_enabled()


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown target 'block'; allowed: sum, layer"):
        targets_of(conv(), torch.zeros(1, 4, 4, 4), [""], at="block")  # type: ignore[arg-type] # what is tested
