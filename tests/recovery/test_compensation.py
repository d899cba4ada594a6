"""What compensation takes and refuses, and that it leaves everything else as it found it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from compensation_for_tests import changed, error, plan_without, pruned_by, random_plan, randomise, state
from networks_for_tests import ConcatTwice, Depthwise, Grouped, Residual
from secateur import PruningPlan, apply_plan
from secateur.errors import ConfigError, DataError, PlanError, SecateurWarning
from secateur.recovery import compensate, recalibrate_batch_norm


def images(count: int = 24, size: int = 10) -> Tensor:
    return torch.randn(count, 3, size, size)


def small(network: type[nn.Module] = Residual) -> nn.Module:
    model = randomise(network())
    recalibrate_batch_norm(model, [images(64)])
    return model


def prepared(model: nn.Module | None = None) -> tuple[nn.Module, nn.Module, PruningPlan]:
    model = model or small()
    plan = random_plan(model, images(1).to(next(model.parameters()).dtype))
    return model, apply_plan(model, plan).eval(), plan


@pytest.mark.parametrize("network", [Residual, Depthwise, Grouped, ConcatTwice])
def test_the_outputs_come_closer_on_images_not_seen(network: type[nn.Module]) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        model, pruned, plan = prepared(small(network))
        held_out = images(100)
        before = error(model, pruned, held_out)
        report = compensate(model, pruned, plan, [images(100)])
        assert error(model, pruned, held_out) < 0.7 * before
        assert report.images == 100


def test_everything_else_is_left_as_it_was() -> None:
    model, pruned, plan = prepared()
    seen: list[int] = []
    for network in (model, pruned):
        network.train()
        network.norm.eval()
        network.stem.weight.requires_grad_(False)
        network.first.register_forward_hook(lambda *_: seen.append(1))
    own = pruned.body_norm.forward
    pruned.body_norm.forward = own
    dense, before, identities = state(model), state(pruned), [id(p) for p in pruned.parameters()]
    flags = [
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in n.modules()] for n in (model, pruned)
    ]
    trainable = [p.requires_grad for p in pruned.parameters()]
    forwards = [vars(m).get("forward") for m in pruned.modules()]
    with torch.enable_grad():
        compensate(model, pruned, plan, [images()])
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert not changed(model, dense)
    assert flags == [
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in n.modules()] for n in (model, pruned)
    ]
    assert trainable == [p.requires_grad for p in pruned.parameters()]
    assert forwards == [vars(m).get("forward") for m in pruned.modules()]
    assert identities == [id(p) for p in pruned.parameters()]
    assert all(p.grad is None for p in pruned.parameters())
    assert not any(p.is_inference() for p in [*pruned.parameters(), *pruned.buffers()])
    allowed = {
        "first.weight",
        "second.weight",
        "head.weight",
        "head.bias",
        "norm.running_mean",
        "body_norm.running_mean",
    }
    assert changed(pruned, before) <= allowed
    pruned(images(4)).sum().backward()  # it can still be trained


def test_channels_that_nothing_read_are_not_missed() -> None:
    model = small().double()
    for layer, gone in (("first", [0, 5]), ("head", [1, 2])):
        model.get_submodule(layer).weight.data[:, gone] = 0.0
    model.second.weight.data[:, [1, 3]] = 0.0
    batch = images().double()
    plan = plan_without(model, batch[:1], {"first": [1, 3]})
    pruned, before = pruned_by(model, plan)
    compensate(model, pruned, plan, [batch])
    for name, value in pruned.state_dict().items():
        torch.testing.assert_close(value, before.state_dict()[name], rtol=1e-12, atol=1e-12)


def test_layers_are_counted_while_they_are_solved() -> None:
    model, pruned, plan = prepared()
    calls: list[tuple[str, int, int]] = []
    report = compensate(model, pruned, plan, [images()], on_layer=lambda *call: calls.append(call))
    assert calls == [(fit.layer, place, len(calls)) for place, fit in enumerate(report.layers)]
    assert [fit.layer for fit in report.layers] == ["first", "second", "head"]


def test_consumers_alone() -> None:
    model = small()
    plan = plan_without(model, images(1), {"first": [0, 1, 2]})
    pruned, before = pruned_by(model, plan)
    report = compensate(model, pruned, plan, [images()], layers="consumers")
    assert [fit.layer for fit in report.layers] == ["second"]
    assert changed(pruned, state(before)) == {"second.weight", "norm.running_mean"}
    plan = plan_without(model := small(Depthwise), images(1), {"expand": [0, 1]})
    report = compensate(model, apply_plan(model, plan), plan, [images()], layers="consumers")
    assert [fit.layer for fit in report.layers] == ["depthwise", "project"]


def test_images_may_come_in_any_form() -> None:
    model, _, plan = prepared()
    batch = images(30)

    def generator() -> Iterator[tuple[Tensor, Tensor]]:
        for part in batch.split([7, 1, 22]):
            yield part, torch.zeros(len(part))

    states = []
    for batches in ([batch], generator(), list(batch.split(4)), [(batch, None)], [batch[:0], batch, batch[:0]]):
        pruned = apply_plan(model, plan).eval()
        assert compensate(model, pruned, plan, batches).images == 30
        states.append(state(pruned))
    for other in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4)


def test_no_more_images_are_taken_than_asked_for() -> None:
    def endless() -> Iterator[Tensor]:
        while True:
            yield images(8)

    model, pruned, plan = prepared()
    assert compensate(model, pruned, plan, endless(), samples=20).images == 20


def test_positions_are_drawn_alike_each_time() -> None:
    model, _, plan = prepared()
    batch, networks = images(), [apply_plan(model, plan).eval() for _ in range(2)]
    for pruned in networks:
        report = compensate(model, pruned, plan, [batch], rows=200)
        assert all(fit.rows <= 200 for fit in report.layers)
    assert not changed(networks[0], state(networks[1]))


def test_few_images_are_warned_of_and_do_no_harm() -> None:
    model, pruned, plan = prepared()
    before = error(model, pruned, held_out := images(100))
    with pytest.warns(SecateurWarning, match=r"fewer rows than unknowns.*head \(1 for 5\)"):
        report = compensate(model, pruned, plan, [images(1)])
    assert all(fit.after <= fit.before for fit in report.layers)
    assert all(bool(value.isfinite().all()) for value in pruned.state_dict().values())
    assert error(model, pruned, held_out) < 2 * before


def test_dead_channels() -> None:
    model = small()
    for norm in (model.norm, model.body_norm):
        norm.weight.data[:3] = 0.0
        norm.bias.data[:3] = 0.0
    model.stem.weight.data[4:6] = 0.0
    model.stem.bias.data[4:6] = -1.0
    model, pruned, plan = prepared(model)
    report = compensate(model, pruned, plan, [images()])
    assert all(fit.after <= fit.before for fit in report.layers)
    assert all(bool(value.isfinite().all()) for value in pruned.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model, pruned, plan = prepared(small().to(dtype))
    held_out = images(50).to(dtype)
    before = error(model, pruned, held_out)
    compensate(model, pruned, plan, [images(100).to(dtype)])
    assert {p.dtype for p in pruned.parameters()} == {dtype}
    assert error(model, pruned, held_out) < 0.8 * before


@pytest.mark.parametrize("memory", [2**21, 110_000])
def test_with_little_memory_fewer_rows_are_taken_and_nothing_grows(memory: int) -> None:
    model, pruned, plan = prepared()
    batch = images(24)
    assert 2 * batch.nbytes < memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecateurWarning)  # of few rows
        report = compensate(model, pruned, plan, [batch], memory=memory, rows=2400)
    assert all(fit.after <= fit.before for fit in report.layers)
    if memory < 2**20:
        assert min(fit.rows for fit in report.layers if fit.layer != "head") < 2400


def test_too_many_images_for_the_memory() -> None:
    model, pruned, plan = prepared()
    before = state(pruned)
    with pytest.raises(DataError, match="take fewer samples, or allow more memory"):
        compensate(model, pruned, plan, [images(24)], memory=20_000)
    assert not changed(pruned, before)


def test_a_memory_that_holds_no_equations() -> None:
    model, pruned, plan = prepared()
    before = state(pruned)
    with pytest.raises(DataError, match=r"layer 'first': .* two rows .*: allow more memory"):
        compensate(model, pruned, plan, [images(1, 4)], memory=600)
    assert not changed(pruned, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_refused(value: float) -> None:
    model, pruned, plan = prepared()
    before, batch = state(pruned), images()
    batch[3, 1, 2, 2] = value
    with pytest.raises(DataError, match="NaN or infinite"):
        compensate(model, pruned, plan, [batch])
    assert not changed(pruned, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["dense", "pruned"])
def test_weights_that_are_not_finite_name_the_layer_and_change_nothing(value: float, where: str) -> None:
    model, pruned, plan = prepared()
    (model if where == "dense" else pruned).second.weight.data[0, 0, 0, 0] = value
    before = {name: value.nan_to_num(7.0) for name, value in state(pruned).items()}
    with pytest.raises(DataError, match="'second'"):
        compensate(model, pruned, plan, [images()])
    assert all(torch.equal(v.nan_to_num(7.0), before[name]) for name, v in pruned.state_dict().items())


def test_an_interruption_gives_the_weights_back() -> None:
    model, pruned, plan = prepared()
    before = state(pruned)

    def stop(layer: str, done: int, total: int) -> None:
        if done == 2:
            assert changed(pruned, before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compensate(model, pruned, plan, [images()], on_layer=stop)
    assert not changed(pruned, before)
    assert all(not m._forward_hooks and "forward" not in vars(m) for m in pruned.modules())


def test_other_peoples_plans_and_networks_are_refused() -> None:
    model, pruned, plan = prepared()
    other = plan_without(model, images(1), {"first": [0]})
    before = state(pruned)
    for dense, small_one, wrong in [
        (model, model, plan),
        (pruned, pruned, plan),
        (pruned, model, plan),
        (model, pruned, other),
        (model, nn.Sequential(nn.Conv2d(3, 8, 3)), plan),
        (nn.Sequential(nn.Conv2d(3, 8, 3)), pruned, plan),
    ]:
        with pytest.raises(PlanError):
            compensate(dense, small_one, wrong, [images()])
    assert not changed(pruned, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"samples": 2.5}, r"samples is 2\.5; it must be a whole number, at least 1"),
        ({"rows": 0}, "rows is 0"),
        ({"ridge": 0.0}, "ridge is 0.0"),
        ({"ridge": float("nan")}, "ridge is nan"),
        ({"target": "block"}, "unknown target 'block'"),
        ({"layers": "some"}, "unknown layers 'some'"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    model, pruned, plan = prepared()
    with pytest.raises(ConfigError, match=message):
        compensate(model, pruned, plan, [images()], **options)  # type: ignore[arg-type] # what is tested


@pytest.mark.parametrize("batches", [[], iter([]), [images(0)]])
def test_no_images(batches: object) -> None:
    model, pruned, plan = prepared()
    with pytest.raises(DataError, match="the batches are empty"):
        compensate(model, pruned, plan, batches)  # type: ignore[arg-type] # what is tested


def test_images_of_different_sizes_are_refused() -> None:
    model, pruned, plan = prepared()
    with pytest.raises(DataError, match="differ in size"):
        compensate(model, pruned, plan, [images(4, 10), images(4, 12)])
