"""A pruned network on disk: plan.json and model.safetensors, which the factory of the dense network brings back.

No pickle, no trace, no example input. plan.json holds the pruning plan and how the pruned network differs from the
dense one: the whole numbers that its modules keep about themselves (`out_channels`, `num_features`, ...) and the
shapes of its tensors. Loading builds the dense network, sets those, and fills in the tensors; nothing in either file
can run code or set anything but a number that is there already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.channel_map import ChannelMap
from secateur.errors import CheckpointError, NetworkError, PlanError
from secateur.files import replacing
from secateur.records import PruningPlan
from secateur.submodules import put_instead
from secateur.weights import check_fit, few, load_weights, read_safetensors, tensors_of

__all__ = ["load_plan", "load_pruned", "load_weights", "save_plan", "save_pruned"]

PLAN_FILE = "plan.json"
MODEL_FILE = "model.safetensors"
FORMAT = 1


def save_pruned(model: nn.Module, dense: nn.Module, plan: PruningPlan, folder: str | Path) -> None:
    """Write `model` and `plan` to `folder` as model.safetensors and plan.json.

    Both are written under temporary names and then renamed, plan.json last: an interruption leaves what was there, or
    files that `load_pruned` refuses: one missing, or the tensors marked with the fingerprint of another plan.

    Args:
        model: the pruned network.
        dense: the network that it was pruned from, as the factory builds it; only its structure is read.
        plan: what was removed.
        folder: made if missing; files of those names are replaced.

    Raises:
        CheckpointError: the two networks differ in more than the sizes of their modules and tensors.

    Cost: one copy of the tensors.

    Example:
        >>> import tempfile
        >>> def build() -> nn.Module:
        ...     return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> pruned = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> plan = PruningPlan(groups=(), kept={}, cost="macs", cost_before=40, cost_after=20, budget=20)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pruned(pruned, build(), plan, folder)
        ...     again = load_pruned(build, folder)
        >>> inputs = torch.ones(1, 3)
        >>> again[0].out_features, torch.equal(again(inputs), pruned(inputs))
        (4, True)
    """
    tensors, before = tensors_of(model), tensors_of(dense)
    if tensors.keys() != before.keys():
        names = sorted(tensors.keys() ^ before.keys())
        raise CheckpointError(f"the pruned and the dense network must have the same tensors; only one has {few(names)}")
    record = {
        "format": FORMAT,
        "plan": plan.to_json(),
        "structure": _structure(model, dense),
        "channel_maps": _channel_maps(model, dense),
        "shapes": {k: list(t.shape) for k, t in tensors.items() if t.shape != before[k].shape},
    }
    text = _as_text(record)
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / PLAN_FILE) as plan_file, replacing(folder / MODEL_FILE) as model_file:
        save_file(copies, model_file, metadata={"plan": plan.fingerprint})
        plan_file.write_text(text, encoding="utf-8")


def save_plan(plan: PruningPlan, folder: str | Path) -> None:
    """Write a plan that was applied to no network yet to `folder`/plan.json, from where `load_plan` reads it.

    Args:
        plan: what is to be removed.
        folder: made if missing; a plan.json in it is replaced.

    Raises:
        CheckpointError: the plan holds more than plain finite data.

    Example:
        >>> import tempfile
        >>> plan = PruningPlan(groups=(), kept={}, cost="macs", cost_before=6, cost_after=6, budget=6)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_plan(plan, folder)
        ...     load_plan(folder) == plan
        True
    """
    text = _as_text({"format": FORMAT, "plan": plan.to_json(), "structure": {}, "channel_maps": {}, "shapes": {}})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / PLAN_FILE) as plan_file:
        plan_file.write_text(text, encoding="utf-8")


def load_pruned(build: Callable[[], nn.Module], folder: str | Path) -> nn.Module:
    """Return the network that `save_pruned` wrote to `folder`, in eval mode.

    Args:
        build: returns the dense network; called once, its weights are thrown away.
        folder: with plan.json and model.safetensors.

    Raises:
        CheckpointError: a file is missing, truncated or not what it should be; the two do not belong together; or they
            do not fit the network that `build` returns.

    Cost: one dense network and one copy of the tensors.

    Example:
        >>> import tempfile
        >>> plan = PruningPlan(groups=(), kept={}, cost="macs", cost_before=6, cost_after=6, budget=6)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pruned(nn.Linear(3, 1), nn.Linear(3, 2), plan, folder)
        ...     load_pruned(lambda: nn.Linear(3, 2), folder)
        Linear(in_features=3, out_features=1, bias=True)
    """
    folder = Path(folder)
    record = _read_record(folder)
    tensors, metadata = read_safetensors(folder / MODEL_FILE)
    if metadata.get("plan") not in (None, _plan(record, folder).fingerprint):
        raise CheckpointError(
            f"{MODEL_FILE} and {PLAN_FILE} in {folder} come from different runs; both must be replaced"
        )
    model = build()
    _place_channel_maps(model, record.get("channel_maps", {}))
    dense = tensors_of(model)
    shapes = {name: list(tensor.shape) for name, tensor in dense.items()} | record["shapes"]
    check_fit(tensors, dense, shapes, source=str(folder / MODEL_FILE))
    _restructure(model, record["structure"])
    _resize(model, tensors)
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def load_plan(folder: str | Path) -> PruningPlan:
    """Return the plan in `folder`/plan.json. Raises CheckpointError where it is missing or malformed.

    Example:
        >>> import tempfile
        >>> plan = PruningPlan(groups=(), kept={}, cost="macs", cost_before=6, cost_after=6, budget=6)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pruned(nn.Linear(3, 1), nn.Linear(3, 2), plan, folder)
        ...     load_plan(folder) == plan
        True
    """
    folder = Path(folder)
    return _plan(_read_record(folder), folder)


def _as_text(record: Mapping[str, Any]) -> str:
    try:
        return json.dumps(record, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the plan must hold plain finite data to be saved: {error}") from error


def _numbers(module: nn.Module) -> dict[str, int | tuple[int, ...]]:
    """Return the whole numbers, and the tuples of them, that a module keeps as plain attributes."""
    return {name: value for name, value in vars(module).items() if not name.startswith("__") and _is_number(value)}


def _is_number(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(type(v) is int for v in value)
    return type(value) is int


def _structure(model: nn.Module, dense: nn.Module) -> dict[str, dict[str, int | tuple[int, ...]]]:
    """Return module name -> the numbers in which the pruned network differs from the dense one."""
    modules = dict(model.named_modules())
    structure = {}
    for name, module in dense.named_modules():
        if name in modules and isinstance(modules[name], ChannelMap) and not isinstance(module, ChannelMap):
            continue
        if name not in modules or type(modules[name]) is not type(module):
            raise CheckpointError(f"the pruned network has no module {name!r} of type {type(module).__name__}")
        before, after = _numbers(module), _numbers(modules[name])
        changed = {key: value for key, value in after.items() if before.get(key) != value}
        if changed:
            structure[name] = changed
        for key in changed:
            if key not in before:
                raise CheckpointError(f"the module {name!r} of the dense network has no whole number {key!r}")
    return structure


def _restructure(model: nn.Module, structure: Mapping[str, Any]) -> None:
    """Set the numbers of `structure`; only those that the modules have already, and only to the same kind."""
    modules = dict(model.named_modules())
    for name, numbers in structure.items():
        if name not in modules:
            raise CheckpointError(f"{PLAN_FILE} changes the module {name!r}, which the factory's network does not have")
        known = _numbers(modules[name])
        for key, given in numbers.items():
            value = tuple(given) if isinstance(given, list) else given
            old = known.get(key)
            if old is None or type(value) is not type(old) or not _is_number(value):
                raise CheckpointError(
                    f"{PLAN_FILE} sets {key!r} of the module {name!r} to {given!r}; its whole numbers are: "
                    + (", ".join(f"{k}={v}" for k, v in known.items()) or "none")
                )
            fixed = isinstance(old, tuple) and not isinstance(modules[name], ChannelMap)
            if fixed and len(cast(tuple[int, ...], old)) != len(cast(tuple[int, ...], value)):
                raise CheckpointError(f"{PLAN_FILE} sets {key!r} of the module {name!r} to {given!r}; it is {old}")
            setattr(modules[name], key, value)
    _check_channel_maps(model)


def _channel_maps(model: nn.Module, dense: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the channel maps that took the place of the dense network's own modules."""
    before = dict(dense.named_modules())
    return {
        name: {"source": module.source, "in_channels": module.in_channels, "stride": module.stride}
        for name, module in model.named_modules()
        if isinstance(module, ChannelMap) and not isinstance(before.get(name), ChannelMap)
    }


def _place_channel_maps(model: nn.Module, maps: Any) -> None:
    """Put channel maps where the saved network has them."""
    try:
        for name, record in maps.items():
            numbers = (record["in_channels"], record["stride"])
            if not _is_number(tuple(record["source"])) or not all(map(_is_number, numbers)):
                raise ValueError(f"{name!r} is not made of whole numbers")
            channel_map = ChannelMap(record["source"], in_channels=numbers[0], stride=numbers[1])
            put_instead(model, model.get_submodule(name), channel_map)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the channel maps in {PLAN_FILE} do not fit the factory's network: {error}") from error


def _check_channel_maps(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, ChannelMap):
            try:
                module.check()
            except NetworkError as error:
                raise CheckpointError(f"{PLAN_FILE} describes an impossible {name!r}: {error}") from error


def _resize(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give every parameter and buffer the shape and type that `tensors` have.

    What is one parameter in two places stays one, unless the pruned network has different values there.
    """
    made: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for prefix, module in model.named_modules():
        parameters = module.named_parameters(recurse=False, remove_duplicate=False)
        buffers = module.named_buffers(recurse=False, remove_duplicate=False)
        for name, old in [*parameters, *buffers]:
            wanted = tensors.get(f"{prefix}.{name}" if prefix else name)
            if wanted is None:  # a buffer that state dicts leave out
                continue
            if id(old) not in made or not torch.equal(made[id(old)][1], wanted):
                new = torch.empty_like(wanted, device=old.device)
                if isinstance(old, nn.Parameter):
                    new = nn.Parameter(new, requires_grad=old.requires_grad)
                made[id(old)] = (old, wanted, new)
            setattr(module, name, made[id(old)][2])


def _plan(record: Mapping[str, Any], folder: Path) -> PruningPlan:
    try:
        return PruningPlan.from_json(record["plan"])
    except PlanError as error:
        raise CheckpointError(f"the plan in {folder / PLAN_FILE} cannot be used: {error}") from error


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / PLAN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; allowed: a folder of save_pruned") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a record of save_pruned in format {FORMAT}")
    for key in ("plan", "structure", "shapes"):
        if not isinstance(record.get(key), dict):
            raise CheckpointError(f"{path} has no {key!r}, or it is not a table of names")
    if not all(isinstance(numbers, dict) for numbers in record["structure"].values()):
        raise CheckpointError(f"'structure' in {path} must give each module a table of numbers")
    if not all(isinstance(shape, list) and all(type(n) is int for n in shape) for shape in record["shapes"].values()):
        raise CheckpointError(f"'shapes' in {path} must give each tensor a list of whole numbers")
    return record
