"""What a removed channel gave can be had from a copy of it: then compensation must give the dense answers back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import references_recovery as naive
from compensation_for_tests import changed, error, plan_without, pruned_by, randomise, state
from secateur import channel_groups
from secateur.errors import SecateurWarning
from secateur.recovery import compensate
from secateur.regression import At

IMAGES = (48, 3, 8, 8)


class Net(nn.Module):
    """Modules by name, and a function of them and the images; `stem` makes the channels, 4 of which are copies."""

    def __init__(self, run: Callable[[Net, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)
        randomise(self).double()
        for name, module in modules.items():
            if name == "stem" or getattr(module, "num_features", 0) == 8:
                self.copy_channels(name, {4: 0, 5: 1, 6: 2, 7: 3})

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)

    def copy_channels(self, layer: str, sources: dict[int, int]) -> None:
        module = self.get_submodule(layer)
        for copy, source in sources.items():
            for values in module.state_dict(keep_vars=True).values():
                if values.ndim:
                    values.data[copy] = values.data[source]


def stem() -> nn.Conv2d:
    return nn.Conv2d(3, 8, 3, padding=1)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def grouped(m: Net, x: Tensor) -> Tensor:
    return m.head(pooled(torch.relu(m.a(torch.relu(m.stem(x))))))


NETWORKS: dict[str, Callable[[], Net]] = {
    "convolution": lambda: Net(lambda m, x: m.a(torch.relu(m.stem(x))), stem=stem(), a=nn.Conv2d(8, 5, 3)),
    "strides, dilation and reflection": lambda: Net(
        lambda m, x: m.a(torch.relu(m.stem(x))),
        stem=stem(),
        a=nn.Conv2d(8, 5, 3, stride=2, dilation=2, padding=2, padding_mode="reflect", bias=False),
    ),
    "linear": lambda: Net(lambda m, x: m.a(pooled(torch.relu(m.stem(x)))), stem=stem(), a=nn.Linear(8, 5)),
    "flattened": lambda: Net(
        lambda m, x: m.a(functional.max_pool2d(m.stem(x), 4).flatten(1)), stem=stem(), a=nn.Linear(32, 5)
    ),
    "two readers": lambda: Net(
        lambda m, x: torch.cat([pooled(m.a(y := torch.relu(m.stem(x)))), m.b(pooled(y))], 1),
        stem=stem(),
        a=nn.Conv2d(8, 3, 1),
        b=nn.Linear(8, 4),
    ),
    "concatenated": lambda: Net(
        lambda m, x: m.head(torch.cat([m.other(x), torch.relu(m.stem(x))], 1)),
        stem=stem(),
        other=nn.Conv2d(3, 4, 1),
        head=nn.Conv2d(12, 5, 3),
    ),
    "batch norm behind": lambda: Net(
        lambda m, x: torch.relu(m.n(m.a(torch.relu(m.stem(x))))),
        stem=stem(),
        a=nn.Conv2d(8, 5, 3, bias=False),
        n=nn.BatchNorm2d(5),
    ),
    "batch norm before": lambda: Net(
        lambda m, x: torch.relu(m.a(torch.relu(m.n(m.stem(x))))),
        stem=stem(),
        a=nn.Conv2d(8, 5, 3),
        n=nn.BatchNorm2d(8),
    ),
    "grouped": lambda: Net(
        grouped, stem=stem(), a=nn.Conv2d(8, 6, 3, groups=2), head=nn.Linear(6, 4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", ["sum", "layer"])
def test_copies_of_channels_are_not_missed(name: str, target: At) -> None:
    model, images = NETWORKS[name](), torch.randn(IMAGES).double()
    if name == "grouped":  # the blocks read channels 0..3 and 4..7, and the same offset of both falls
        model.copy_channels("stem", {2: 0, 3: 1, 6: 4, 7: 5})
        gone = [2, 3, 6, 7]
    else:
        gone = [0, 5, 6, 3]
    plan = plan_without(model, images[:2], {"stem": fallen(model, images, gone)})
    pruned, before = pruned_by(model, plan)
    assert error(model, before, images) > 1e-3
    report = compensate(model, pruned, plan, [images], ridge=1e-10, target=target)
    held_out = torch.randn(IMAGES).double()
    assert error(model, pruned, held_out) < 1e-9
    assert all(fit.after < 1e-9 for fit in report.layers)
    assert not report.left
    assert not {n for n in changed(pruned, state(before)) if n.startswith("stem")}


def fallen(model: nn.Module, images: Tensor, channels: list[int]) -> list[int]:
    """Return the group's channels that own some of the stem's."""
    (producer,) = [m for m in channel_groups(model, images[:2])["stem"].members if m.layer == "stem"]
    return [c for c, owned in enumerate(producer.indices) if set(owned) & set(channels)]


def test_copies_in_a_residual_stream_are_not_missed() -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        x = torch.relu(m.stem(x))
        x = torch.relu(x + m.n(m.b(torch.relu(m.a(x)))))
        return m.head(pooled(x))

    model = Net(
        run,
        stem=stem(),
        a=nn.Conv2d(8, 6, 3, padding=1),
        b=nn.Conv2d(6, 8, 3, padding=1, bias=False),
        n=nn.BatchNorm2d(8),
        head=nn.Linear(8, 4),
    )
    model.copy_channels("b", {4: 0, 5: 1, 6: 2, 7: 3})
    images = torch.randn(IMAGES).double()
    plan = plan_without(model, images[:2], {"stem": [0, 5, 6, 3]})
    pruned, before = pruned_by(model, plan)
    compensate(model, pruned, plan, [images], ridge=1e-10)
    assert error(model, before, images) > 1e-3
    assert error(model, pruned, torch.randn(IMAGES).double()) < 1e-9


def test_a_constant_channel_goes_into_the_bias() -> None:
    model = NETWORKS["convolution"]()
    model.stem.weight.data[2] = 0.0
    model.stem.bias.data[2] = 1.5
    images = torch.randn(IMAGES).double()
    plan = plan_without(model, images[:2], {"stem": [2]})
    pruned, before = pruned_by(model, plan)
    compensate(model, pruned, plan, [images])
    assert changed(pruned, state(before)) <= {"a.weight", "a.bias"}
    missing = 1.5 * model.a.weight[:, 2].sum((1, 2))
    torch.testing.assert_close(pruned.a.bias, before.a.bias + missing)
    torch.testing.assert_close(pruned.a.weight, before.a.weight)


def test_a_constant_channel_goes_into_the_running_mean_where_there_is_no_bias() -> None:
    model = NETWORKS["batch norm behind"]()
    model.stem.weight.data[2] = 0.0
    model.stem.bias.data[2] = 1.5
    images = torch.randn(IMAGES).double()
    plan = plan_without(model, images[:2], {"stem": [2]})
    pruned, before = pruned_by(model, plan)
    compensate(model, pruned, plan, [images])
    missing = 1.5 * model.a.weight[:, 2].sum((1, 2))
    torch.testing.assert_close(pruned.n.running_mean, before.n.running_mean - missing)
    torch.testing.assert_close(pruned(images), model(images))


def test_the_weights_are_those_of_the_least_squares_problem() -> None:
    model = NETWORKS["convolution"]()
    images = torch.randn(3, 3, 5, 5).double()
    plan = plan_without(model, images[:2], {"stem": [1, 4, 6]})
    pruned, before = pruned_by(model, plan)
    with pytest.warns(SecateurWarning, match=r"a \(27 for 45\)"):
        (fit,) = compensate(model, pruned, plan, [images[:1], images[1:]], ridge=0.03).layers
    read = torch.relu(before.stem(images)).detach()
    U = naive.rows_of_convolution(
        read, kernel=(3, 3), stride=(1, 1), dilation=(1, 1), padding=(0, 0), mode="zeros", sizes=(3, 3)
    ).flatten(1)
    missing = (model(images) - before(images)).detach().movedim(1, -1).reshape(-1, 5)
    change, shift = naive.ridge_change(U, missing, 0.03, intercept=True)
    torch.testing.assert_close(pruned.a.weight.flatten(1), before.a.weight.flatten(1) + change.T)
    torch.testing.assert_close(pruned.a.bias, before.a.bias + shift)
    wanted = model(images).detach().movedim(1, -1).reshape(-1, 5)
    variation = sum(float(((column - column.mean()) ** 2).sum()) for column in wanted.T)
    assert fit.before == pytest.approx(float((missing**2).sum()) / variation)
    assert fit.after == pytest.approx(sum(naive.squared_error(U, missing, change, shift)) / variation)
    assert (fit.rows, fit.unknowns) == (27, 45)
